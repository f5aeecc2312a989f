"""task=evaluate: the figures of a trained run on a held-out split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gentrain.data import view_of
from gentrain.data.images import Images
from gentrain.images import bits_per_dim, psnr_db
from gentrain.learners import evaluate_images
from gentrain.loop import evaluate_split
from gentrain.models import ImportanceSampled, Reconstructs
from gentrain.progress import preparing, say
from gentrain.ranges import AtLeast
from gentrain.rundir import write_json
from gentrain.seeding import generator
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.trained import TrainedRun

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/evaluate.yaml."""

    split: Literal["test", "valid"]
    batch_size: Annotated[int, AtLeast(1)]
    iwae_samples: Annotated[int, AtLeast(1)] | None
    seed: Annotated[int, AtLeast(0)]


@dataclass(frozen=True)
class Figure:
    """A mean over images with its standard error."""

    mean: float
    standard_error: float
    unit: str
    meaning: str


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/evaluation.json and prints it as a table."""
    trained, settings, console = open_run(config), Settings(**config["evaluate"]), Console()
    with preparing(console) as progress:
        packed = open_data_of(trained, config, progress)
    view = view_of(trained.config["data"])
    images = Images(packed.split(settings.split), view, trained.place.device)
    with preparing(console, "evaluating") as progress, trained.place.autocasting():
        figures = evaluate(trained, images, settings, progress)
    weights = "averaged weights" if trained.averaged else "last weights"
    protocol = {
        "run": str(trained.path),
        "step": trained.step,
        "weights": weights,
        "split": settings.split,
        "images": len(images),
        "levels": view.levels,
        "pictures": view.in_words,
        "seed": settings.seed,
        "data_fingerprint": packed.fingerprint,
    }
    file = trained.path / "evaluation.json"
    content = {"protocol": protocol, "figures": {name: asdict(figure) for name, figure in figures.items()}}
    write_json(file, content)
    title = (
        f"step {trained.step}, {weights}; {len(images)} images of the {settings.split} split "
        f"at {view.in_words}"
    )
    table = Table(title=title)
    for heading in ("figure", "mean", "standard error", "unit", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for name, figure in figures.items():
        table.add_row(name, f"{figure.mean:.5g}", f"{figure.standard_error:.2g}", figure.unit, figure.meaning)
    console.print(table)
    say(console, f"written to {file}")


MEANINGS = {
    "bits_per_dim": ("bits/dim", "{kind} -log2 p(x) / (C*H*W)"),
    "nats": ("nats/image", "{kind} -log p(x)"),
    "nll_nats": ("nats/image", "its first term: -log p(x|z) for one z from q(z|x)"),
    "kl_nats": ("nats/image", "its second term: KL(q(z|x) || p(z))"),
    "logit_real": (
        "logit",
        "D(x); far below train/logit_real: D knows its pictures by heart",
    ),
    "logit_fake": ("logit", "D(G(z)), as many generated pictures; no figure of quality"),
    "mse": ("per dimension", "squared error of the {made}, pixels in [-1, 1]"),
}
KINDS = {"exact": "exact", "bound": "upper bound on", None: ""}


def evaluate(
    trained: TrainedRun, images: Images, settings: Settings, progress: Callable[[int, int], None]
) -> dict[str, Figure]:
    """Every figure that the family has, as a mean over the images of a split."""
    kind = KINDS[trained.likelihood_kind]
    # Whose pictures come out changed has denoised one that was corrupted first: another figure.
    made = "reconstruction" if isinstance(trained.model, Reconstructs) else "mean after one corruption"
    values = evaluate_split(
        lambda x, noise: evaluate_images(trained.generative, trained.shape, x, noise),
        images, settings.batch_size, settings.seed,
    )  # fmt: skip
    assert values is not None
    figures = {
        name: figure(values[name], unit, meaning.format(kind=kind, made=made).strip())
        for name, (unit, meaning) in MEANINGS.items()
        if name in values
    }
    if "mse" in figures and figures["mse"].mean > 0:
        figures["psnr_db"] = _psnr(figures["mse"])
    k = settings.iwae_samples
    if k is not None and isinstance(trained.model, ImportanceSampled):
        nats_N = importance_nats(trained.model, images, settings, k, progress)
        figures["iwae_nats"] = figure(nats_N, "nats/image", f"importance-weighted bound on -log p(x), k={k}")
        bits_N = bits_per_dim(nats_N, trained.shape)
        figures["iwae_bits_per_dim"] = figure(bits_N, "bits/dim", f"the same, per dimension, k={k}")
    return figures


def _psnr(mse: Figure) -> Figure:
    """Of the mean squared error over all images, with that error's own standard error carried over."""
    value = psnr_db(torch.tensor(mse.mean, dtype=torch.float64)).item()
    error = 10 / math.log(10) * mse.standard_error / mse.mean
    return Figure(value, error, "dB", "10 log10(2^2 / mse): peak signal to noise ratio of that mean error")


@torch.inference_mode()
def importance_nats(
    model: ImportanceSampled, images: Images, settings: Settings, k: int, progress: Callable[[int, int], None]
) -> Tensor:
    """The importance-weighted bound (arXiv 1509.00519, eq. 8) on -log p of each image, float64 (N,)."""
    parts = []
    for number, indices in enumerate(images.chunks(settings.batch_size)):
        noise = generator(settings.seed, "iwae", number)
        parts.append(model.importance_nats(images.take(indices), k, noise).cpu().double())
        progress(int(indices[-1]) + 1, len(images))
    return torch.cat(parts)


def figure(values_N: Tensor, unit: str, meaning: str) -> Figure:
    """The mean and its standard error, from float64 (N,)."""
    error = values_N.std().item() / math.sqrt(len(values_N)) if len(values_N) > 1 else math.nan
    return Figure(values_N.mean().item(), error, unit, meaning)
