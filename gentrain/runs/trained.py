"""A trained run, to look at: what `gentrain.load` gives, and what the tasks are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gentrain.config.schema import check_section, schema_of
from gentrain.config.settings import Device
from gentrain.data.build import image_shape
from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.models.build import make_network, network_on_meta
from gentrain.models.interface import (
    Completes,
    Decodes,
    DrawsCodes,
    DrawsPixels,
    Encodes,
    Generative,
    HasPosterior,
    Reconstructs,
    RunsChain,
)
from gentrain.models.pixel.sampler import Draw, Progress
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.capacity import check_codes, check_pictures
from gentrain.runs.stored import check_weights, find_checkpoint, load_asked, run_of, weights_of
from gentrain.runs.stored_config import load_config
from gentrain.runtime.device import Compute, compute_of
from gentrain.runtime.files import expanded
from gentrain.runtime.seeding import image_streams
from gentrain.runtime.streams import of_contents

BATCH = 256  # images at a time: bounds memory


class TrainedRun:
    """A model with its weights: averaged ones where the run keeps an average, unless asked for the last ones.

    Images are uint8 levels (N, C, H, W), 0 .. `shape.levels` - 1. What a family cannot do raises UserError.
    The process is the caller's: torch's settings and random state are after each call what they were before.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        stored: checkpoints.Checkpoint,
        model: nn.Module,
        compute: Compute,
        averaged: bool,
    ) -> None:
        self.path = path
        self.config = config
        self.step = stored.step
        self.model = model
        self.generative = cast(Generative, model)
        self.averaged = averaged
        self.shape: ImageShape = image_shape(config["data"])
        self.data_fingerprint = stored.data_fingerprint
        self.compute = compute
        self.remarks: list[str] = []  # what is odd about its files, a sentence each

    @classmethod
    def open(
        cls,
        run: str | Path,
        *,
        checkpoint: str = "last",
        device: str | Mapping[str, Any] = "auto",
        average: bool = True,
    ) -> TrainedRun:
        """`device`: a name, or a whole `device` section. In float32 unless the section says otherwise.

        `average`: False for the last weights as training left them, where the run keeps an average too.

        What is odd about its files is left in `remarks`. Raises UserError if there is no such run, no such
        checkpoint, or none that is whole and has this model's weights.
        """
        if checkpoint not in ("last", "best"):
            raise UserError(f"checkpoint={checkpoint} is not possible; it must be last or best")
        find_checkpoint(run, checkpoint)  # first: what is no run at all is said as that
        directory = run_of(run)
        config = load_config(directory)
        stored, remarks = load_asked(run, checkpoint)
        weights = weights_of(stored, average)
        # The real one takes memory only if these are its weights.
        said = check_weights(expanded(run), weights, network_on_meta(config))
        compute = _compute(device)
        # The first weights are drawn, from torch's default generator: it is the caller's.
        with compute.numerics(), torch.random.fork_rng(devices=()):
            model = make_network(config)
            model.load_state_dict(weights)
            model = model.to(compute.device).to(memory_format=compute.memory_format).eval()
        trained = cls(directory, config, stored, model, compute, average and "ema" in stored.parts)
        trained.remarks += [*remarks, *([said] if said else [])]
        return trained

    @property
    def likelihood_kind(self) -> str | None:
        """What `log_prob` is: "exact", "bound" (a lower bound on log p), or None: there is none."""
        return self.generative.likelihood_kind

    @torch.no_grad()
    def sample(
        self, n: int, seed: int = 0, draw: Draw | None = None, progress: Progress = lambda done, total: None
    ) -> Tensor:
        """uint8 (n, C, H, W). A picture is a function of (seed, its number): fewer are the first of more.

        `draw`: temperature and mode, for families that draw pixel after pixel; theirs is the progress, too.
        """
        if n < 0:
            raise UserError(f"sample({n}) is not possible: the number of pictures must be at least 0")
        check_pictures("n", n, self.shape)
        noise = image_streams(n, seed, "sample")
        if isinstance(self.model, DrawsPixels):
            with self.compute.computing():
                return self.model.draw(n, noise, draw or Draw(), progress).cpu()
        if draw not in (None, Draw()):
            raise UserError(
                f"{self._a_family} does not draw pixel after pixel: temperature must be 1 and mode draw"
            )
        parts = [noise[start : start + BATCH] for start in range(0, n, BATCH)]
        empty = torch.empty((0, *self.shape.chw), dtype=torch.uint8)
        with self.compute.computing():
            return torch.cat([empty, *(self.generative.sample(len(part), part).cpu() for part in parts)])

    @torch.no_grad()
    def chain(
        self,
        n: int,
        seed: int = 0,
        steps: int | None = None,
        start_NCHW: Tensor | np.ndarray | None = None,
        watched: int = 8,
        progress: Progress = lambda done, total: None,
    ) -> tuple[Tensor, Tensor]:
        """n Markov chains: where they end, uint8 (n, C, H, W), and how the first `watched` of them got there,
        uint8 (watched or n, steps + 1, C, H, W), the start first.

        From noise and of the run's own number of steps these are `sample`'s, picture by picture.
        """
        model = self.model
        if not isinstance(model, RunsChain):
            raise UserError(f"{self._a_family} runs no chain: it draws a picture in one go")
        steps = model.sample_steps if steps is None else steps
        start = None if start_NCHW is None else self._checked(start_NCHW)
        if n < 1 or (start is not None and len(start) != n):
            raise UserError(f"{n} chains need at least one picture, and as many to start from as there are")
        check_pictures("n", n, self.shape)
        check_pictures("steps", steps, self.shape, min(n, watched))
        all_noise, ends, frames = image_streams(n, seed, "sample"), [], []
        for begin in range(0, n, BATCH):
            noise = all_noise[begin : begin + BATCH]
            with self.compute.computing():
                given = model.noise(len(noise), noise) if start is None else start[begin : begin + BATCH]
                shown_BCHW, keep = given.to(self.compute.device), max(0, watched - begin)
                seen = [shown_BCHW[:keep].cpu()]
                for number, next_BCHW in enumerate(model.chain(shown_BCHW, steps, noise)):
                    shown_BCHW = next_BCHW
                    seen.append(shown_BCHW[:keep].cpu())
                    progress(begin // BATCH * steps + number + 1, -(-n // BATCH) * steps)
            ends.append(shown_BCHW.cpu())
            frames.append(torch.stack(seen, 1))
        return torch.cat(ends), torch.cat(frames)

    @torch.no_grad()
    def log_prob(self, x_BCHW: Tensor | np.ndarray, seed: int = 0) -> Tensor:
        """Nats, shape (n,): the log-probability, or a lower bound on it (see `likelihood_kind`).

        A function of (picture, seed) alone, to a few units in the last place of float32: the noise of a bound
        is drawn from a hash of both, so that neither order nor company matters.
        """
        if self.likelihood_kind is None:
            raise UserError(f"{self._a_family} has no likelihood, so there is no log_prob; use task=evaluate")
        noise = of_contents(self._checked(x_BCHW), seed)
        return -self._map(lambda x, rows: self.generative.evaluate(x, noise[rows])["nats"], x_BCHW)

    @torch.no_grad()
    def reconstruct(self, x_BCHW: Tensor | np.ndarray) -> Tensor:
        """uint8 (n, C, H, W): pictures after a passage through the code."""
        if not isinstance(self.model, Reconstructs):
            raise UserError(f"{self._a_family} reconstructs nothing: it has no code")
        model = self.model
        return self._map(lambda x, _: model.reconstruct(x), x_BCHW)

    @torch.no_grad()
    def encode(self, x_BCHW: Tensor | np.ndarray) -> Tensor:
        """Codes, float32 (n, D)."""
        if not isinstance(self.model, Encodes):
            raise UserError(f"{self._a_family} has no encoder")
        model = self.model
        return self._map(lambda x, _: model.encode(x), x_BCHW)

    @torch.no_grad()
    def posterior(self, x_BCHW: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the codes' Gaussians, float32 (n, D) each."""
        model = self.model
        if not isinstance(model, HasPosterior):
            raise UserError(f"{self._a_family} has no posterior over codes")
        stacked_B2D = self._map(lambda x, _: torch.stack(model.posterior(x), 1), x_BCHW)
        return stacked_B2D[:, 0], stacked_B2D[:, 1]

    @torch.no_grad()
    def draw_codes(self, n: int, seed: int = 0) -> Tensor:
        """Codes as those that samples are made from, float32 (n, D); each a function of (seed, number)."""
        if not isinstance(self.model, DrawsCodes):
            raise UserError(f"{self._a_family} draws no codes")
        if isinstance(self.model, Decodes):
            check_codes("n", n, self.model.latent_dim)
        with self.compute.numerics():
            return self.model.draw_codes(n, image_streams(n, seed, "codes")).float().cpu()

    @torch.no_grad()
    def decode(self, codes_ND: Tensor | np.ndarray) -> Tensor:
        """The pictures of codes, which are finite floats (n, D): uint8 (n, C, H, W)."""
        if not isinstance(self.model, Decodes):
            raise UserError(f"{self._a_family} has no decoder")
        codes, dims = torch.as_tensor(codes_ND), self.model.latent_dim
        if not codes.is_floating_point() or codes.ndim != 2 or codes.shape[1] != dims:
            raise UserError(
                f"codes of this {self._family} must be floats with shape (n, {dims}), "
                f"got {str(codes.dtype).removeprefix('torch.')} with shape {tuple(codes.shape)}"
            )
        codes = codes.float()
        bad = int((~codes.isfinite()).sum())
        if bad:
            raise UserError(f"codes must be finite, but {bad} of their {codes.numel()} numbers are not")
        parts = [torch.empty((0, *self.shape.chw), dtype=torch.uint8)]
        with self.compute.computing():
            parts += [self.model.decode(part.to(self.compute.device)).cpu() for part in codes.split(BATCH)]
        return torch.cat(parts)

    @torch.no_grad()
    def complete(
        self,
        x_BCHW: Tensor | np.ndarray,
        known_11HW: Tensor | np.ndarray,
        seed: int = 0,
        draw: Draw | None = None,
    ) -> Tensor:
        """uint8 (n, C, H, W): pictures redrawn where `known_11HW`, bool (1, 1, H, W), is False.

        A function of (seed, its number, the picture), so that one picture many times has as many completions.
        `draw`: temperature and mode, as for `sample`.
        """
        model = self.model
        if not isinstance(model, Completes):
            raise UserError(f"{self._a_family} cannot complete pictures")
        noise = image_streams(len(self._checked(x_BCHW)), seed, "complete")
        known, how = torch.as_tensor(known_11HW), draw or Draw()
        return self._map(lambda x, rows: model.complete(x, known, noise[rows], how), x_BCHW)

    def save_weights(self, file: str | Path) -> None:
        """The model's weights as a safetensors file: tensors by name and nothing else."""
        if not expanded(file).parent.is_dir():
            raise UserError(f"{file} cannot be written: there is no folder {Path(file).parent}")
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, expanded(file), metadata={"model": self._family, "step": str(self.step)})

    @property
    def _family(self) -> str:
        return str(self.config["model"]["name"])

    @property
    def _a_family(self) -> str:
        return f"{'an' if self._family[0] in 'aeio' else 'a'} {self._family}"

    def _map(self, function: Callable[[Tensor, slice], Tensor], x_BCHW: Tensor | np.ndarray) -> Tensor:
        """The function of some images at a time, on the device, and of which ones they are."""
        images = self._checked(x_BCHW)
        stretches = [slice(start, start + BATCH) for start in range(0, max(1, len(images)), BATCH)]
        with self.compute.computing():
            return torch.cat([function(images[s].to(self.compute.device), s).cpu() for s in stretches])

    def _checked(self, x_BCHW: Tensor | np.ndarray) -> Tensor:
        """The images, if they are what the model takes."""
        images = torch.as_tensor(x_BCHW)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != self.shape.chw:
            raise UserError(
                f"images must be uint8 with shape (n, {', '.join(map(str, self.shape.chw))}), "
                f"got {str(images.dtype).removeprefix('torch.')} with shape {tuple(images.shape)}"
            )
        if images.numel() and int(images.max()) >= self.shape.levels:
            raise UserError(
                f"images must hold levels 0 .. {self.shape.levels - 1}, got {int(images.max())}; bytes "
                f"become levels by gentrain.images.quantize(x, {self.shape.levels})"
            )
        return images


def _compute(device: str | Mapping[str, Any]) -> Compute:
    """Figures are to be exact: a precision of "auto" is float32 here, on a GPU too."""
    section: dict[str, Any] = {"precision": "auto", "channels_last": "auto", "compile": False}
    section |= {"deterministic": False, "threads": None}
    section |= {"name": device} if isinstance(device, str) else device
    check_section("device", section, schema_of(Device))
    return compute_of(section | ({"precision": "float32"} if section["precision"] == "auto" else {}))
