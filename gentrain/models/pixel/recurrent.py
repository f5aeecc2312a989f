"""PixelRNN's layers on whole pictures (van den Oord et al., arXiv 1601.06759, sections 3.1 to 3.3).

Legend: B batch, P pixels in line order, H height, W width, E features of an embedded pixel, C width of an
LSTM, F = 2*C features of a pixel between the layers, D = 4*C gates (i, f, o, g), T taps, S features handed to
the head, G directions.

A first convolution with mask A, then layers x + up(LSTM(x)), then a 1x1 convolution to the head. The input
to a pixel's gates comes from the pixel itself (and its left neighbour, for the Row LSTM), the state from
pixels of the line before (line_lstm.py). While a picture is drawn, recurrent_cache.py does the
same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.models.pixel.causal import ShiftedConv
from gentrain.models.pixel.line_lstm import diagonals, line_scan, rows
from gentrain.models.pixel.masked import MaskedConv
from gentrain.models.pixel.recurrent_cache import DiagonalCache, RowLSTMCache, Stacked

Variant = Literal["row_lstm", "diagonal_bilstm"]


class LSTMWeights(nn.Module):
    """Of G LSTMs side by side: input to gates (K numbers), state to gates (T neighbours), and a bias."""

    def __init__(self, directions: int, inputs: int, taps: int, width: int) -> None:
        super().__init__()
        self.input_GKD = nn.Parameter(torch.randn(directions, inputs, 4 * width) * inputs**-0.5)
        state_GTCD = torch.randn(directions, taps, width, 4 * width)
        self.state_GTCD = nn.Parameter(state_GTCD * (taps * width) ** -0.5)
        self.bias_GD = nn.Parameter(torch.zeros(directions, 4 * width))
        # To remember at first: a cell that forgets by half each line passes on no gradient.
        self.bias_GD.data[:, width : 2 * width] = 1.0

    def gates(self, x_GPBK: Tensor) -> Tensor:
        """What the input adds to the gates, (G, P, B, D): one product over all pixels."""
        flat = torch.baddbmm(self.bias_GD[:, None], x_GPBK.flatten(1, 2), self.input_GKD)
        return flat.unflatten(1, x_GPBK.shape[1:3])


class RowLSTM(nn.Module):
    """Inputs: the pixel and its left neighbour. State: the three pixels above. Sees a triangle above."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = LSTMWeights(1, 4 * width, 3, width)

    def forward(self, x_PBF: Tensor, height: int, width: int) -> Tensor:
        x_HWBF = x_PBF.unflatten(0, (height, width))
        left_HWBF = F.pad(x_HWBF[:, :-1], (0, 0, 0, 0, 1, 0))
        both_PBK = torch.cat([left_HWBF, x_HWBF], -1).flatten(0, 1)
        return line_scan(self.lstm.gates(both_PBK[None]), self.lstm.state_GTCD, rows(height, width))[0]


class DiagonalBiLSTM(nn.Module):
    """Input: the pixel. State: the pixel before it in its row, and the one above. Sees all that is above.

    The direction from the right would see the rest of the row, which is not drawn yet: its map is moved down
    a row, and added to the other.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = LSTMWeights(2, 2 * width, 2, width)

    def forward(self, x_PBF: Tensor, height: int, width: int) -> Tensor:
        order = _diagonal_order(height, width, x_PBF.device)
        both_GPBF = torch.stack([x_PBF, x_PBF.index_select(0, order.mirrored)])
        scanned = line_scan(self.lstm.gates(both_GPBF), self.lstm.state_GTCD, diagonals(height, width))
        left_PBC, right_PBC = scanned.unbind()
        # Place P is a row of zeros: nothing is above the first row.
        return left_PBC + F.pad(right_PBC, (0, 0, 0, 0, 0, 1)).index_select(0, order.above_mirrored)


class _DiagonalOrder:
    """Places in the order of diagonals."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        pixels = diagonals(height, width).pixels
        place = {pixel: number for number, pixel in enumerate(pixels)}
        mirrored = [place[pixel + width - 1 - 2 * (pixel % width)] for pixel in pixels]
        above = [mirrored[place[pixel - width]] if pixel >= width else len(pixels) for pixel in pixels]
        back = [place[pixel] for pixel in range(len(pixels))]
        self.pixels, self.back, self.mirrored, self.above_mirrored = (
            torch.tensor(places, device=device) for places in (pixels, back, mirrored, above)
        )


@lru_cache
@torch.inference_mode(False)  # a tensor made in inference mode could never be trained with
def _diagonal_order(height: int, width: int, device: torch.device) -> _DiagonalOrder:
    return _DiagonalOrder(height, width, device)


class RecurrentStack(nn.Module):
    """Embedded pixels (B, E, H, W) -> features (B, S, H, W); those of a pixel see only pixels before it."""

    def __init__(
        self,
        variant: Variant,
        inputs: int,
        width: int,
        layers: int,
        first_kernel: int,
        features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.variant, self.inputs, self.width = variant, inputs, width
        self.first = MaskedConv(inputs, 2 * width, first_kernel, "A")
        layer = RowLSTM if variant == "row_lstm" else DiagonalBiLSTM
        self.layers = nn.ModuleList(layer(width) for _ in range(layers))
        # Small at first, so that a deep stack starts near the identity.
        self.ups = nn.ParameterList(0.1 * width**-0.5 * torch.randn(width, 2 * width) for _ in range(layers))
        self.last = ShiftedConv(2 * width, features, (0, 0), (0, 0))
        self.dropout = nn.Dropout(dropout)

    @torch.compiler.disable  # which would unroll the lines: minutes, for no gain
    def forward(self, e_BEHW: Tensor) -> Tensor:
        height, width = e_BEHW.shape[2:]
        x_PBF = self.first(e_BEHW).permute(2, 3, 0, 1).flatten(0, 1).contiguous()
        order = _diagonal_order(height, width, e_BEHW.device) if self.variant == "diagonal_bilstm" else None
        if order is not None:
            x_PBF = x_PBF.index_select(0, order.pixels)
        for layer, up_CF in zip(self.layers, self.ups, strict=True):
            h_PBC = self.dropout(layer(x_PBF, height, width))
            x_PBF = x_PBF + (h_PBC.flatten(0, 1) @ up_CF).view_as(x_PBF)
        if order is not None:
            x_PBF = x_PBF.index_select(0, order.back)
        return self.last(F.relu(x_PBF).unflatten(0, (height, width)).permute(2, 3, 0, 1))

    def weights(self) -> list[LSTMWeights]:
        return [cast(RowLSTM | DiagonalBiLSTM, layer).lstm for layer in self.layers]

    def begin(self, batch: int, width: int, dtype: torch.dtype) -> RowLSTMCache | DiagonalCache:
        cache = RowLSTMCache if self.variant == "row_lstm" else DiagonalCache
        like = torch.empty(0, dtype=dtype, device=self.last.weight_OIRK.device)
        weights = self.weights()
        stacked = Stacked(
            torch.stack([each.input_GKD for each in weights], 1).to(like),
            torch.stack([each.state_GTCD for each in weights], 1).to(like),
            torch.stack([each.bias_GD for each in weights], 1).to(like),
            torch.stack(list(self.ups)).to(like),
        )
        return cache(self.first, stacked, self.last, batch, width)

    def floats_per_image(self, width: int) -> int:
        """About how many numbers a cache and its scratch memory hold for each picture that is drawn."""
        a_layer = {"row_lstm": 11, "diagonal_bilstm": 16}[self.variant] * self.width
        return (4 * self.inputs + 2 * self.width + a_layer * len(self.layers)) * width
