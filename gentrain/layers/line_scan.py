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
from torch import Tensor
from torch.autograd.function import once_differentiable

Offset = tuple[int, int]


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

    Differentiable once, with respect to `pre` and the weights. Under autocast everything is in the precision
    of `pre` but the cells, which are float32 at least.
    """
    return _LineScan.apply(pre_GPBD, weight_GTCD.to(pre_GPBD.dtype), lines)


class _LineScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> Tensor:
        with torch.autocast(pre_GPBD.device.type, enabled=False):
            gates_GPBD, c_GPBC, h_GPBC = _forward(pre_GPBD, weight_GTCD, lines)
        ctx.save_for_backward(weight_GTCD, gates_GPBD, c_GPBC, h_GPBC)
        ctx.lines = lines
        return h_GPBC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h_GPBC: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.autocast(grad_h_GPBC.device.type, enabled=False):
            weight_GTCD, gates_GPBD, c_GPBC, h_GPBC = ctx.saved_tensors
            return *_backward(grad_h_GPBC, weight_GTCD, gates_GPBD, c_GPBC, h_GPBC, ctx.lines), None


def _forward(pre_GPBD: Tensor, weight_GTCD: Tensor, lines: Lines) -> tuple[Tensor, Tensor, Tensor]:
    """Gates after their nonlinearities, cells, outputs."""
    groups, pixels, batch, depth = pre_GPBD.shape
    width = depth // 4
    gates_GPBD = pre_GPBD.clone(memory_format=torch.contiguous_format)
    h_GPBC = pre_GPBD.new_empty(groups, pixels, batch, width)
    wide = torch.promote_types(pre_GPBD.dtype, torch.float32)
    c_GPBC = torch.empty_like(h_GPBC, dtype=wide)
    for line in lines.lines:
        for tap, here, there in line.taps:
            _add_product(gates_GPBD[:, here], h_GPBC[:, there], weight_GTCD[:, tap])
        gates_GNBD = gates_GPBD[:, line.places]
        gates_GNBD[..., : 3 * width].sigmoid_()
        g = gates_GNBD[..., 3 * width :].tanh_()
        i, f, o = gates_GNBD[..., : 3 * width].chunk(3, -1)
        c = torch.mul(i, g, out=c_GPBC[:, line.places])
        if line.cell is not None:
            here, there = line.cell
            first = here.start - line.places.start
            c_GPBC[:, here].addcmul_(f[:, first : first + here.stop - here.start], c_GPBC[:, there])
        torch.mul(o, torch.tanh(c).to(o.dtype), out=h_GPBC[:, line.places])
    return gates_GPBD, c_GPBC, h_GPBC


def _backward(
    grad_h_GPBC: Tensor,
    weight_GTCD: Tensor,
    gates_GPBD: Tensor,
    c_GPBC: Tensor,
    h_GPBC: Tensor,
    lines: Lines,
) -> tuple[Tensor, Tensor]:
    """Gradients of `pre` and of the weights."""
    back_GTDC = weight_GTCD.transpose(2, 3).contiguous()
    grad_h_GPBC = grad_h_GPBC.clone(memory_format=torch.contiguous_format)
    grad_c_GPBC = torch.zeros_like(c_GPBC)
    grad_pre_GPBD = torch.empty_like(gates_GPBD)
    for line in reversed(lines.lines):
        i, f, o, g = gates_GPBD[:, line.places].chunk(4, -1)
        grad_i, grad_f, grad_o, grad_g = grad_pre_GPBD[:, line.places].chunk(4, -1)
        grad_h, grad_c = grad_h_GPBC[:, line.places], grad_c_GPBC[:, line.places]
        squashed = torch.tanh(c_GPBC[:, line.places])
        grad_o.copy_(grad_h * squashed * o * (1 - o))
        grad_c += grad_h * o * (1 - squashed * squashed)
        grad_i.copy_(grad_c * g * i * (1 - i))
        grad_g.copy_(grad_c * i * (1 - g * g))
        grad_f.zero_()
        if line.cell is not None:
            here, there = line.cell
            part = slice(here.start - line.places.start, here.stop - line.places.start)
            own_f, own_c = f[:, part], grad_c[:, part]
            grad_f[:, part] = own_c * c_GPBC[:, there] * own_f * (1 - own_f)
            grad_c_GPBC[:, there].addcmul_(own_c, own_f)
        for tap, here, there in line.taps:
            _add_product(grad_h_GPBC[:, there], grad_pre_GPBD[:, here], back_GTDC[:, tap])
    grad_weight_GTCD = torch.zeros_like(weight_GTCD)
    for tap in range(lines.taps):
        places, neighbours = _pairs(lines, tap, h_GPBC.device)
        left = h_GPBC.index_select(1, neighbours).flatten(1, 2)
        right = grad_pre_GPBD.index_select(1, places).flatten(1, 2)
        torch.bmm(left.transpose(1, 2), right, out=grad_weight_GTCD[:, tap])
    return grad_pre_GPBD, grad_weight_GTCD


def _add_product(out_GNBD: Tensor, x_GNBC: Tensor, weight_GCD: Tensor) -> None:
    """out += x W, group by group, in place."""
    out_GMD, x_GMC = out_GNBD.flatten(1, 2), x_GNBC.flatten(1, 2)
    out_GMD.baddbmm_(x_GMC, weight_GCD)


@lru_cache
@torch.inference_mode(False)
def _pairs(lines: Lines, tap: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All places that a tap reaches something from, and what it reaches."""
    here: list[int] = []
    there: list[int] = []
    for line in lines.lines:
        for number, to, source in line.taps:
            if number == tap:
                here += range(to.start, to.stop)
                there += range(source.start, source.stop)

    def indices(places: list[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.int64, device=device)

    return indices(here), indices(there)
