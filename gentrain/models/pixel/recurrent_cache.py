"""What a PixelRNN's layers keep of pictures that are being drawn: `row`, then `pixel` for each column.

Legend: L layers, B batch, W columns, N = W and padding, C width of an LSTM, F = 2*C features between the
layers, D = 4*C gates (i, f, o, g), K numbers that enter a product, E features of an embedded pixel, S
features handed to the head.

What the rows above add to a row's gates is one product a row over all layers. Left for each pixel and layer
are a product for the gates and one for the features handed on.

tanh(a) = 2 (sigmoid(2 a) - 1/2): with the weights of g doubled, cells kept doubled and outputs halved, whose
consumers' weights are doubled, one function serves everything (tanh takes seven times as long on a CPU).
Doubling is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gentrain.models.pixel.causal import ShiftedConv
from gentrain.models.pixel.masked import MaskedConv, MaskedConvCache, product


class Stacked(NamedTuple):
    """The weights of all layers, in the cache's type; G directions, T neighbours."""

    input_GLKD: Tensor
    state_GLTCD: Tensor
    bias_GLD: Tensor
    up_LCF: Tensor


class _Step(NamedTuple):
    """What one layer works on at one pixel: views made once, not at each pixel."""

    above_BD: Tensor  # what the state of the row above adds to the gates
    window_BK: Tensor  # the input and the state to the left
    weight_KD: Tensor
    c_BC: Tensor
    h_BC: Tensor
    x_BF: Tensor  # the layer's input, and what is added to it: outputs and their weights
    outputs_BK: Tensor
    up_KF: Tensor
    next_BF: Tensor  # where the sum goes


class _Pixels:
    """What goes from left to right, pixel by pixel: the first convolution, the layers, the last one."""

    def __init__(self, first: MaskedConv, last: ShiftedConv, batch: int, width: int, like: Tensor) -> None:
        channels = last.weight_OIRK.shape[1] // 2
        self.embedded = MaskedConvCache(first, batch, width, like)
        self.last_FS, self.last_bias_S = product(last, like)
        self.pre_BD = like.new_empty(batch, 4 * channels)
        self.i, self.f, self.o, self.g = self.pre_BD.chunk(4, dim=1)
        self.squashed_BC = like.new_empty(batch, channels)
        self.out_BF = like.new_empty(batch, 2 * channels)
        # A tensor of one number: it costs less than a Python number does, at each pixel and layer.
        self.half = like.new_full((), 0.5)

    def row(self, above_BWE: Tensor | None) -> None:
        if above_BWE is not None:
            self.embedded.rows.inside_BWF.copy_(above_BWE)
        self.embedded.row()

    def pixel(self, column: int, left_BE: Tensor | None, x_BF: Tensor, steps: list[_Step]) -> Tensor:
        """Features (B, S); the first layer's input goes to `x_BF`."""
        if left_BE is not None:
            self.embedded.rows.at(column - 1).copy_(left_BE)
        x_BF.copy_(self.embedded.pixel(column))
        pre_BD, i, f, o, g, s, half = (
            self.pre_BD, self.i, self.f, self.o, self.g, self.squashed_BC, self.half
        )  # fmt: skip
        for above_BD, window_BK, weight_KD, c, h, x, outputs_BK, up_KF, next_BF in steps:
            torch.addmm(above_BD, window_BK, weight_KD, out=pre_BD)
            pre_BD.sigmoid_()
            g.sub_(half)
            c.mul_(f).addcmul_(i, g, value=4)
            torch.sigmoid(c, out=s)
            s.sub_(half)
            torch.mul(o, s, out=h)
            torch.addmm(x, outputs_BK, up_KF, out=next_BF)
        return torch.addmm(self.last_bias_S, self.out_BF.relu_(), self.last_FS)


def _doubled(weight: Tensor, twice_D: Tensor) -> Tensor:
    return (weight * twice_D).contiguous()


def _twice(like: Tensor, width: int) -> Tensor:
    """What the gates are multiplied by: 1, and 2 for g."""
    return torch.cat([like.new_ones(3 * width), like.new_full((width,), 2.0)])


class RowLSTMCache:
    """Weights are stacked: input (1, L, K, D) for the left neighbour and the pixel, state (1, L, 3, C, D)."""

    def __init__(
        self, first: MaskedConv, stacked: Stacked, last: ShiftedConv, batch: int, width: int
    ) -> None:
        input_GLKD, state_GLTCD, bias_GLD, up_LCF = stacked
        layers, _, channels, depth = state_GLTCD.shape[1:]
        like, twice_D = bias_GLD, _twice(bias_GLD, channels)
        self.pixels = _Pixels(first, last, batch, width, like)
        self.input_LKD = _doubled(input_GLKD[0], twice_D)
        # Three neighbours side by side come as (C, 3), see `row`.
        self.state_LKD = _doubled(2 * state_GLTCD[0].transpose(1, 2).flatten(1, 2), twice_D)
        self.bias_L1D = _doubled(bias_GLD[0], twice_D)[:, None]
        self.up_LCF = (2 * up_LCF).contiguous()
        self.from_above_LBWD = like.new_zeros(layers, batch, width, depth)
        self.x_LBNF = like.new_zeros(layers, batch, width + 1, 2 * channels)  # a column of zeros before
        self.h_LBNC = like.new_zeros(layers, batch, width + 2, channels)  # and on both sides
        self.c_LWBC = like.new_zeros(layers, width, batch, channels, dtype=_wide(like))
        self.steps = [self._steps(column) for column in range(width)]

    def _steps(self, column: int) -> list[_Step]:
        inputs_BF = [*self.x_LBNF[:, :, column + 1], self.pixels.out_BF]
        return [
            _Step(
                self.from_above_LBWD[layer, :, column],
                self.x_LBNF[layer, :, column : column + 2].flatten(1),
                self.input_LKD[layer],
                self.c_LWBC[layer, column],
                self.h_LBNC[layer, :, column + 1],
                inputs_BF[layer],
                self.h_LBNC[layer, :, column + 1],
                self.up_LCF[layer],
                inputs_BF[layer + 1],
            )
            for layer in range(len(self.up_LCF))
        ]

    def row(self, above_BWE: Tensor | None) -> None:
        """Begin a row, given the embedded one above: what its state adds to all gates, as one product."""
        self.pixels.row(above_BWE)
        window_LMK = self.h_LBNC.unfold(2, 3, 1).flatten(3).flatten(1, 2)
        torch.baddbmm(self.bias_L1D, window_LMK, self.state_LKD, out=self.from_above_LBWD.flatten(1, 2))

    def pixel(self, column: int, left_BE: Tensor | None) -> Tensor:
        """Features (B, S) of the pixel at a column, given the embedded pixel to its left."""
        return self.pixels.pixel(column, left_BE, self.x_LBNF[0, :, column + 1], self.steps[column])


class DiagonalCache:
    """Weights are stacked: input (2, L, F, D), state (2, L, 2, C, D) for the neighbour in the row and the one
    above; the second direction is the one from the right."""

    def __init__(
        self, first: MaskedConv, stacked: Stacked, last: ShiftedConv, batch: int, width: int
    ) -> None:
        input_GLKD, state_GLTCD, bias_GLD, up_LCF = stacked
        layers, _, channels, depth = state_GLTCD.shape[1:]
        like, twice_D = bias_GLD, _twice(bias_GLD, channels)
        self.pixels = _Pixels(first, last, batch, width, like)
        beside_GLCD, above_GLCD = (_doubled(2 * state, twice_D) for state in state_GLTCD.unbind(2))
        input_GLFD = _doubled(input_GLKD, twice_D)
        self.bias_GL1D = _doubled(bias_GLD, twice_D)[:, :, None]
        self.up_LKF = 2 * torch.cat([up_LCF, up_LCF], 1)
        self.pixel_LKD = torch.cat([input_GLFD[0], beside_GLCD[0]], 1)
        self.above_LCD = above_GLCD[0].contiguous()
        self.right_input_LFD, self.right_above_LCD = input_GLFD[1].contiguous(), above_GLCD[1].contiguous()
        self.right_beside_LCD = beside_GLCD[1].contiguous()
        self.from_above_LWBD = like.new_zeros(layers, width, batch, depth)
        self.c_LBC = like.new_zeros(layers, batch, channels, dtype=_wide(like))
        # Side by side: a pixel's features; the output of the pixel to its left; and the output of the scan
        # from the right one row above that pixel. Products take their inputs from here.
        self.slots_LNBK = like.new_zeros(layers, width + 1, batch, 4 * channels)
        self.x_LWBF = self.slots_LNBK[:, :-1, :, : 2 * channels]
        self.h_LWBC = self.slots_LNBK[:, 1:, :, 2 * channels : 3 * channels]
        self.right_LWBC = self.slots_LNBK[:, 1:, :, 3 * channels :]
        self.steps = [self._steps(column) for column in range(width)]

    def _steps(self, column: int) -> list[_Step]:
        inputs_BF = [*self.x_LWBF[:, column], self.pixels.out_BF]
        channels = self.c_LBC.shape[-1]
        return [
            _Step(
                self.from_above_LWBD[layer, column],
                self.slots_LNBK[layer, column, :, : 3 * channels],
                self.pixel_LKD[layer],
                self.c_LBC[layer],
                self.h_LWBC[layer, column],
                inputs_BF[layer],
                self.slots_LNBK[layer, column + 1, :, 2 * channels :],
                self.up_LKF[layer],
                inputs_BF[layer + 1],
            )
            for layer in range(len(self.up_LKF))
        ]

    def row(self, above_BWE: Tensor | None) -> None:
        """Begin a row, given the embedded one above: its scan from the right, and what its state adds."""
        self.pixels.row(above_BWE)
        if above_BWE is not None:
            self._scan_from_right()
        above_LMC = self.h_LWBC.flatten(1, 2)
        torch.baddbmm(self.bias_GL1D[0], above_LMC, self.above_LCD, out=self.from_above_LWBD.flatten(1, 2))
        self.c_LBC.zero_()

    def _scan_from_right(self) -> None:
        """Over the row above, whose features are all known by now: all layers at once."""
        pre_LMD = torch.baddbmm(self.bias_GL1D[1], self.x_LWBF.flatten(1, 2), self.right_input_LFD)
        pre_LMD.baddbmm_(self.right_LWBC.flatten(1, 2), self.right_above_LCD)
        pre_WLBD = pre_LMD.unflatten(1, self.right_LWBC.shape[1:3]).transpose(0, 1).contiguous()
        c_LBC, h_LBC = torch.zeros_like(self.c_LBC), torch.zeros_like(self.c_LBC, dtype=pre_LMD.dtype)
        for column in reversed(range(len(pre_WLBD))):
            i, f, o, g = pre_WLBD[column].baddbmm_(h_LBC, self.right_beside_LCD).sigmoid_().chunk(4, -1)
            c_LBC.mul_(f).addcmul_(i, g.sub_(self.pixels.half), value=4)
            squashed = torch.sigmoid(c_LBC).sub_(self.pixels.half)
            h_LBC = o * squashed.to(o.dtype)
            self.right_LWBC[:, column] = h_LBC

    def pixel(self, column: int, left_BE: Tensor | None) -> Tensor:
        """Features (B, S) of the pixel at a column, given the embedded pixel to its left."""
        return self.pixels.pixel(column, left_BE, self.x_LWBF[0, column], self.steps[column])


def _wide(like: Tensor) -> torch.dtype:
    """Of cells: they add up along a line."""
    return torch.promote_types(like.dtype, torch.float32)
