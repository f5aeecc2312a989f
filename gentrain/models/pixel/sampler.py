"""Drawing pictures pixel after pixel: one sampler for every autoregressive network.

Legend: B batch, N pictures, C channels, H height, W width, P numbers a pixel, V levels (int64 in here).

A network offers three calls (`PixelByPixel`): `begin` a batch of pictures, begin a `row` given the one above,
and `pixel`, given its left neighbour. What they return must be what the full network would say: then nothing
is approximated. `Naive` makes the same three calls out of the full network, for tests and benchmarks.

A level is drawn as argmax(log p / temperature + Gumbel noise), which has exactly the probabilities
p^(1/temperature), normalised. The noise comes from outside: two samplers given the same noise draw the same
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Generator, Tensor, nn

from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.runtime.cuda_graph import capture
from gentrain.runtime.seeding import SEEDS, Random, whole_numbers
from gentrain.runtime.streams import Streams

Mode = Literal["draw", "argmax"]
Progress = Callable[[int, int], None]

# What a batch of pictures may take while it is drawn, without a GPU: its network's buffers and its noise.
BATCH_BYTES = 2**30
# Pictures at once on a CPU: larger batches leave its caches, and are no faster.
CPU_BATCH = 128
# Devices on which each picture's noise is drawn on its own.
ONE_BY_ONE = ("cpu",)


class PixelByPixel(Protocol):
    """What the sampler asks of a network. A state is the network's own; buffers in it stay where they are."""

    shape: ImageShape
    recordable: bool
    """Whether each row after the first is the same operations in the same memory: then CUDA can replay it."""

    def begin(self, batch: int, height: int, width: int) -> Any:
        """A state for a batch of pictures of which nothing is drawn yet."""

    def row(self, state: Any, above_WBC: Tensor | None) -> None:
        """Begin the next row, given the levels of the row above; None for the first one."""

    def pixel(self, state: Any, column: int, left_BC: Tensor | None) -> Tensor:
        """What the head needs of the next pixel, (B, P), given its left neighbour's levels, if any."""

    def level_logits(self, state: Any, params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        """(B, P) and the levels (B, >= channel) of the channels before -> logits of the levels (B, V)."""

    def bytes_per_image(self, height: int, width: int) -> int:
        """About how much memory a state takes for each picture."""


@dataclass(frozen=True)
class Draw:
    """How levels are chosen: at random, with probabilities p^(1/temperature), or the likeliest."""

    temperature: float = 1.0
    mode: Mode = "draw"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UserError(f"mode={self.mode} is not possible; it must be draw or argmax")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} is not possible; it must be a number above 0")

    def level(self, logits_BV: Tensor, gumbel_BV: Tensor | None) -> Tensor:
        """int64 (B,)."""
        if gumbel_BV is None:
            return logits_BV.argmax(1)
        if self.temperature != 1:
            # From the top, so that a tiny temperature cannot overflow.
            logits_BV = (logits_BV - logits_BV.amax(1, keepdim=True)) / self.temperature
        return (logits_BV + gumbel_BV).argmax(1)


class GumbelNoise:
    """Noise of a batch of pictures, row after row: a picture's own, whatever batch it is in.

    On the CPU a picture has a torch.Generator; a GPU makes the noise of all at once, from `Streams`, since a
    launch for each would take long.
    """

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generators: list[Generator] | None = None
        if device.type in ONE_BY_ONE:
            self.generators = [Generator(device).manual_seed(seed) for seed in seeds]
        self.streams = Streams(torch.tensor(seeds, dtype=torch.int64, device=device))

    def fill_row(self, gumbel_BWCV: Tensor) -> None:
        """Overwrites the buffer with the next row's noise, -log(-log(u))."""
        if self.generators is None:
            gumbel_BWCV.copy_(self.streams.draw(torch.rand, tuple(gumbel_BWCV.shape), gumbel_BWCV.device))
        else:
            for part, generator in zip(gumbel_BWCV.split(1), self.generators, strict=True):
                part.uniform_(generator=generator)
        gumbel_BWCV.clamp_(2**-25, 1 - 2**-24).log_().neg_().log_().neg_()


class _Rows:
    """One batch being drawn, row after row, in buffers that stay in place: what a CUDA graph asks for."""

    def __init__(
        self,
        net: PixelByPixel,
        batch: int,
        size: tuple[int, int],
        draw: Draw,
        device: torch.device,
        given: bool,
    ) -> None:
        channels, levels = net.shape.channels, net.shape.levels
        self.net, self.draw, self.width = net, draw, size[1]
        self.state = net.begin(batch, *size)
        self.levels_WBC = torch.zeros(size[1], batch, channels, dtype=torch.int64, device=device)
        self.gumbel_BWCV = (
            torch.empty(batch, size[1], channels, levels, device=device) if draw.mode == "draw" else None
        )
        # Pixels that are not drawn but known: their levels, and where they are.
        self.given_WBC = torch.zeros_like(self.levels_WBC) if given else None
        self.known_W = torch.zeros(size[1], dtype=torch.bool, device=device) if given else None

    def next_row(self, first: bool) -> None:
        """Draws one row into `levels_WBC`, which holds the one above before."""
        self.net.row(self.state, None if first else self.levels_WBC)
        for column in range(self.width):
            left_BC = self.levels_WBC[column - 1] if column else None
            params_BP = self.net.pixel(self.state, column, left_BC)
            self._draw_pixel(column, params_BP)

    def _draw_pixel(self, column: int, params_BP: Tensor) -> None:
        here_BC = self.levels_WBC[column]
        for channel in range(here_BC.shape[1]):
            logits_BV = self.net.level_logits(self.state, params_BP, channel, here_BC)
            gumbel_BV = None if self.gumbel_BWCV is None else self.gumbel_BWCV[:, column, channel]
            level_B = self.draw.level(logits_BV, gumbel_BV)
            if self.given_WBC is not None and self.known_W is not None:
                level_B = torch.where(self.known_W[column], self.given_WBC[column, :, channel], level_B)
            here_BC[:, channel] = level_B


@torch.inference_mode()
def draw_batch(
    net: PixelByPixel,
    seeds: list[int],
    size: tuple[int, int],
    draw: Draw,
    device: torch.device,
    given_BCHW: Tensor | None = None,
    known_HW: Tensor | None = None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """One batch, one picture a seed: uint8 (B, C, H, W), equal to `given_BCHW` where `known_HW` is True."""
    rows = _Rows(net, len(seeds), size, draw, device, given_BCHW is not None)
    noise = GumbelNoise(seeds, device)
    # `begin` has chosen the precision of the buffers; from here on nothing is cast on the way.
    with torch.autocast(device.type, enabled=False):
        return _draw_rows(rows, noise, size[0], given_BCHW, known_HW, progress)


def _draw_rows(
    rows: _Rows,
    noise: GumbelNoise,
    height: int,
    given_BCHW: Tensor | None,
    known_HW: Tensor | None,
    progress: Progress,
) -> Tensor:
    device = rows.levels_WBC.device
    out_HWBC = torch.empty(height, *rows.levels_WBC.shape, dtype=torch.uint8, device=device)
    replay: Callable[[], None] | None = None
    for number in range(height):
        if rows.gumbel_BWCV is not None:
            noise.fill_row(rows.gumbel_BWCV)
        if given_BCHW is not None and known_HW is not None:
            assert rows.given_WBC is not None and rows.known_W is not None
            rows.given_WBC.copy_(given_BCHW[:, :, number].permute(2, 0, 1))
            rows.known_W.copy_(known_HW[number])
        # Two rows are drawn as they come, which also prepares every kernel; from then on one recorded row is
        # replayed: one launch a row instead of several a layer and pixel.
        if device.type == "cuda" and rows.net.recordable and number == 2:
            replay = capture(partial(rows.next_row, first=False))
        if replay is not None:
            replay()
        else:
            rows.next_row(first=number == 0)
        out_HWBC[number] = rows.levels_WBC
        if device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # once a row: else the time left would be a fiction
        progress(number + 1, height)
    return out_HWBC.permute(2, 3, 0, 1).contiguous()


def draw_pictures(
    net: PixelByPixel,
    n: int,
    generator: Random,
    device: torch.device,
    draw: Draw | None = None,
    given_NCHW: Tensor | None = None,
    known_HW: Tensor | None = None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """n pictures in batches sized to memory, uint8 (n, C, H, W); `progress` counts rows of all batches."""
    shape, draw = net.shape, draw or Draw()
    # Seeds first, all of them: a picture does not depend on how many are drawn at once.
    seeds = _seeds(n, generator)
    at_once = batch_size(net, n, device)
    starts = range(0, n, at_once)
    drawn = [torch.empty((0, *shape.chw), dtype=torch.uint8, device=device)]
    for batch, start in enumerate(starts):
        chosen = slice(start, min(start + at_once, n))

        def report(done: int, total: int, before: int = batch) -> None:
            progress(before * total + done, len(starts) * total)

        drawn.append(
            draw_batch(
                net, seeds[chosen], (shape.height, shape.width), draw, device,
                None if given_NCHW is None else given_NCHW[chosen], known_HW, report,
            )
        )  # fmt: skip
    return torch.cat(drawn)  # outside of inference mode: a tensor like any other


def _seeds(n: int, generator: Random) -> list[int]:
    if isinstance(generator, Streams):
        assert n == len(generator)
        return generator.seeds_B.tolist()
    return whole_numbers(0, SEEDS, (n,), generator, generator.device).tolist()


def batch_size(net: PixelByPixel, n: int, device: torch.device) -> int:
    """How many of n pictures to draw at once: as many as fit, in batches of about the same size."""
    shape = net.shape
    noise = 4 * shape.width * shape.channels * shape.levels
    available = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else BATCH_BYTES
    fitting = max(1, available // (net.bytes_per_image(shape.height, shape.width) + 2 * noise))
    fitting = min(fitting, CPU_BATCH) if device.type == "cpu" else fitting
    return math.ceil(n / math.ceil(n / fitting)) if n else 1


def known_pixels(known_11HW: Tensor, shape: ImageShape) -> Tensor:
    """The mask of a completion, checked, as (H, W)."""
    if known_11HW.dtype != torch.bool or tuple(known_11HW.shape) != (1, 1, shape.height, shape.width):
        raise UserError(
            f"known pixels must be bool with shape (1, 1, {shape.height}, {shape.width}), "
            f"got {str(known_11HW.dtype).removeprefix('torch.')} with shape {tuple(known_11HW.shape)}"
        )
    return known_11HW[0, 0]


class Naive:
    """The same three calls by the full network on the whole picture for every pixel: slow, and plainly right.

    `params(x_BCHW)` is the network's full pass, (B, H, W, P). Pixels not yet drawn are zero in it; if it is
    causal, they do not matter.
    """

    recordable = False

    def __init__(self, net: PixelByPixel, params: Callable[[Tensor], Tensor]) -> None:
        self.net, self.params, self.shape = net, params, net.shape
        assert isinstance(net, nn.Module)
        self.device = next(net.parameters()).device

    def begin(self, batch: int, height: int, width: int) -> dict[str, Any]:
        x_BCHW = torch.zeros(batch, self.shape.channels, height, width, dtype=torch.uint8, device=self.device)
        return {"x_BCHW": x_BCHW, "row": -1, "own": self.net.begin(1, height, width)}

    def row(self, state: dict[str, Any], above_WBC: Tensor | None) -> None:
        if above_WBC is not None:
            state["x_BCHW"][:, :, state["row"]] = above_WBC.permute(1, 2, 0).to(torch.uint8)
        state["row"] += 1

    def pixel(self, state: dict[str, Any], column: int, left_BC: Tensor | None) -> Tensor:
        if left_BC is not None:
            state["x_BCHW"][:, :, state["row"], column - 1] = left_BC.to(torch.uint8)
        return self.params(state["x_BCHW"])[:, state["row"], column]

    def level_logits(self, state: dict[str, Any], params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        return self.net.level_logits(state["own"], params, channel, earlier)

    def bytes_per_image(self, height: int, width: int) -> int:
        return self.net.bytes_per_image(height, width)
