"""The line scan: a convolutional LSTM over lines of pixels (van den Oord et al., arXiv 1601.06759, eq. 3).

Legend: G scans side by side, P pixels, N pixels of a line, B batch, C width, D = 4*C gates, T taps.

    i, f, o, g = sigmoid, sigmoid, sigmoid, tanh of (pre + sum over taps t of h[neighbour t] W_t)
    c = f * c[neighbour] + i * g,   h = o * tanh(c)

Lines are scanned one after the other, the pixels of a line at once. All neighbours of a line's pixels are in
the line before it; outside the picture there is zero. Rows with the neighbours above-left, above, above-right
make the Row LSTM, diagonals with left and above the Diagonal LSTM: they differ in `Lines` alone. Pixels are
kept in the order of their lines, so that a line is a slice and nothing is skewed or padded.

The scan is one autograd function: indexing a tensor line by line would make autograd write a gradient of full
size for every line. Backward goes through the lines from the last to the first; the weights' gradient is one
product over all pixels at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Offset = tuple[int, int]

# grad * s * (1 - s) and grad * (1 - t^2), in one pass.
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


@dataclass(frozen=True)
class Line:
    """Places are numbers in line order. A tap is (its number, places that have it, their neighbours)."""

    places: slice
    taps: tuple[tuple[int, slice, slice], ...]
    cell: tuple[slice, slice] | None


@dataclass(frozen=True, eq=False)
class Lines:
    """An order of the pixels of a picture, line by line. Made once for each size: equal means the same."""

    pixels: tuple[int, ...]
    """The pixel y * width + x at each place."""
    lines: tuple[Line, ...]
    taps: int


def _arranged(lines: list[list[Offset]], taps: list[Offset], cell: Offset) -> Lines:
    """Lines of (y, x), and the offsets of a pixel's neighbours, all in the line before."""
    place = {pixel: number for number, pixel in enumerate(pixel for line in lines for pixel in line)}
    width = 1 + max(x for _, x in place)

    def reached(line: list[Offset], offset: Offset) -> tuple[slice, slice] | None:
        pairs = [
            (place[y, x], place[y + offset[0], x + offset[1]])
            for y, x in line
            if (y + offset[0], x + offset[1]) in place
        ]
        if not pairs:
            return None
        (here, there), count = pairs[0], len(pairs)
        assert pairs == [(here + k, there + k) for k in range(count)]
        return slice(here, here + count), slice(there, there + count)

    described, start = [], 0
    for line in lines:
        found = [(number, reached(line, offset)) for number, offset in enumerate(taps)]
        reachable = tuple((number, *pair) for number, pair in found if pair is not None)
        described.append(Line(slice(start, start + len(line)), reachable, reached(line, cell)))
        start += len(line)
    return Lines(tuple(y * width + x for y, x in place), tuple(described), len(taps))


@lru_cache
def rows(height: int, width: int) -> Lines:
    """Row after row; a pixel's neighbours are above-left, above (its cell's, too) and above-right."""
    lines = [[(y, x) for x in range(width)] for y in range(height)]
    return _arranged(lines, [(-1, -1), (-1, 0), (-1, 1)], (-1, 0))


@lru_cache
def diagonals(height: int, width: int) -> Lines:
    """Diagonal after diagonal from the corner at the top left; neighbours are left (the cell's) and above."""
    lines = [
        [(y, d - y) for y in range(max(0, d - width + 1), min(height, d + 1))]
        for d in range(height + width - 1)
    ]
    return _arranged(lines, [(0, -1), (-1, 0)], (0, -1))


def line_scan(pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> Tensor:
    """h of every pixel, (G, P, B, C), in line order as `pre` is. Gates are in the order i, f, o, g.

    `pre` is overwritten: it must be a fresh result that nothing else needs, not a leaf. (If it is needed for
    some other gradient, autograd raises.)

    Differentiable once, with respect to `pre` and the weights. Under autocast everything is in the precision
    of `pre`, but cells are kept and added up in float32 at least.
    """
    return _LineScan.apply(pre_GPBD, weight_GTCD.to(pre_GPBD.dtype), lines)


class _LineScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> Tensor:
        with torch.autocast(pre_GPBD.device.type, enabled=False):
            scanned = _forward(pre_GPBD.detach(), weight_GTCD, lines)
        ctx.save_for_backward(weight_GTCD, *scanned)
        ctx.lines = lines
        return scanned[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h_GPBC: Tensor) -> tuple[Tensor, Tensor, None]:
        weight_GTCD, gates_GPBD, c_GPBC, squashed_GPBC, h_GPBC = ctx.saved_tensors
        with torch.autocast(grad_h_GPBC.device.type, enabled=False):
            grad_pre_GPBD = _backward(grad_h_GPBC, weight_GTCD, gates_GPBD, c_GPBC, squashed_GPBC, ctx.lines)
            return grad_pre_GPBD, _weight_gradient(grad_pre_GPBD, h_GPBC, ctx.lines), None


def _forward(pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gates after their nonlinearities (in the memory of `pre`), cells, tanh of the cells, outputs."""
    groups, pixels, batch, depth = pre_GPBD.shape
    width = depth // 4
    gates_GPBD = pre_GPBD.contiguous()
    h_GPBC = pre_GPBD.new_empty(groups, pixels, batch, width)
    squashed_GPBC = torch.empty_like(h_GPBC)
    c_GPBC = torch.empty_like(h_GPBC, dtype=torch.promote_types(pre_GPBD.dtype, torch.float32))
    for line in lines.lines:
        for tap, here, there in line.taps:
            _add_product(gates_GPBD[:, here], h_GPBC[:, there], weight_GTCD[:, tap])
        gates_GNBD = gates_GPBD[:, line.places]
        gates_GNBD[..., : 3 * width].sigmoid_()
        _tanh_(gates_GNBD[..., 3 * width :])
        i, f, o, g = gates_GNBD.chunk(4, -1)
        c, squashed = c_GPBC[:, line.places], squashed_GPBC[:, line.places]
        torch.mul(i, g, out=c)
        if line.cell is not None:
            here, there = line.cell
            c_GPBC[:, here].addcmul_(f[:, _within(line, here)], c_GPBC[:, there])
        _tanh_(squashed.copy_(c))
        torch.mul(o, squashed, out=h_GPBC[:, line.places])
    return gates_GPBD, c_GPBC, squashed_GPBC, h_GPBC


def _backward(
    grad_h_GPBC: Tensor,
    weight_GTCD: Tensor,
    gates_GPBD: Tensor,
    c_GPBC: Tensor,
    squashed_GPBC: Tensor,
    lines: Lines,
) -> Tensor:
    """The gradient of `pre`."""
    width = c_GPBC.shape[-1]
    back_GTDC = weight_GTCD.transpose(2, 3)
    grad_h_GPBC = grad_h_GPBC.clone(memory_format=torch.contiguous_format)
    grad_c_GPBC = torch.zeros_like(c_GPBC)
    grad_pre_GPBD = torch.empty_like(gates_GPBD)
    for line in reversed(lines.lines):
        gates_GNBD, grads_GNBD = gates_GPBD[:, line.places], grad_pre_GPBD[:, line.places]
        i, f, o, g = gates_GNBD.chunk(4, -1)
        grad_i, grad_f, grad_o, grad_g = grads_GNBD.chunk(4, -1)
        grad_h, grad_c = grad_h_GPBC[:, line.places], grad_c_GPBC[:, line.places]
        squashed = squashed_GPBC[:, line.places]
        grad_squashed = grad_h * o
        grad_c += tanh_backward(grad_squashed, squashed, grad_input=grad_squashed)
        # Of the gates first, and then of what went into their nonlinearities.
        torch.mul(grad_h, squashed, out=grad_o)
        torch.mul(grad_c, g, out=grad_i)
        torch.mul(grad_c, i, out=grad_g)
        if line.cell is not None:
            here, there = line.cell
            part = _within(line, here)
            torch.mul(grad_c[:, part], c_GPBC[:, there], out=grad_f[:, part])
            grad_c_GPBC[:, there].addcmul_(grad_c[:, part], f[:, part])
            grad_f[:, : part.start].zero_()
            grad_f[:, part.stop :].zero_()
        else:
            grad_f.zero_()
        grad_ifo = grads_GNBD[..., : 3 * width]
        sigmoid_backward(grad_ifo, gates_GNBD[..., : 3 * width], grad_input=grad_ifo)
        tanh_backward(grad_g, g, grad_input=grad_g)
        for tap, here, there in line.taps:
            _add_product(grad_h_GPBC[:, there], grad_pre_GPBD[:, here], back_GTDC[:, tap])
    return grad_pre_GPBD


def _weight_gradient(grad_pre_GPBD: Tensor, h_GPBC: Tensor, lines: Lines) -> Tensor:
    """(G, T, C, D), as one product over all pixels."""
    # Place P is a row of zeros, for neighbours outside the picture.
    padded = F.pad(h_GPBC, (0, 0, 0, 0, 0, 1))
    neighbours = [padded.index_select(1, places) for places in _neighbours(lines, h_GPBC.device)]
    windows_GMK = torch.cat(neighbours, -1).flatten(1, 2)
    grad_GKD = torch.bmm(windows_GMK.transpose(1, 2), grad_pre_GPBD.flatten(1, 2))
    return grad_GKD.unflatten(1, (lines.taps, h_GPBC.shape[-1]))


def _tanh_(x: Tensor) -> Tensor:
    """In place. On a CPU, 2 sigmoid(2 x) - 1 takes a third of the time; on a GPU each pass costs the same."""
    return x.tanh_() if x.is_cuda else x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _within(line: Line, places: slice) -> slice:
    """Places, counted from the line's first one."""
    return slice(places.start - line.places.start, places.stop - line.places.start)


def _add_product(out_GNBD: Tensor, x_GNBC: Tensor, weight_GCD: Tensor) -> None:
    """out += x W, group by group, in place."""
    for out_NBD, x_NBC, weight_CD in zip(out_GNBD, x_GNBC, weight_GCD, strict=True):
        out_NBD.flatten(0, 1).addmm_(x_NBC.flatten(0, 1), weight_CD)


@lru_cache
@torch.inference_mode(False)  # a tensor made in inference mode could never be trained with
def _neighbours(lines: Lines, device: torch.device) -> list[Tensor]:
    """For each tap, the place of every pixel's neighbour, (P,); P where there is none."""
    places = [[len(lines.pixels)] * len(lines.pixels) for _ in range(lines.taps)]
    for line in lines.lines:
        for tap, here, there in line.taps:
            places[tap][here] = range(there.start, there.stop)
    return [torch.tensor(each, device=device) for each in places]
