"""The gated PixelCNN's two stacks (van den Oord et al., arXiv 1606.05328, section 2).

Legend: B batch, H height, W width, E features of an embedded pixel, C width of the stacks, D = 2*C,
S features handed to the head, K numbers that enter a product.

The vertical stack sees all rows above, the horizontal one what is to the left and, through a 1x1 convolution,
the vertical one. Here the vertical stack's first layer is the one that looks strictly upwards, so that both
stacks speak of the same pixel. Neither has a blind spot. Outputs are taken from every layer of the horizontal
stack (skip connections), as one product over all of them.

While a picture is drawn the vertical stack is computed once a row, for the new row alone, and with it all
that it adds to the horizontal one; left for each pixel and layer are two small products (`GatedCache`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from gentrain.models.pixel.causal import RowCache, ShiftedConv


def gate(pre_BDHW: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second, (B, C, H, W)."""
    a, b = pre_BDHW.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks. The first one's input is the pixels themselves, so it adds nothing to it."""

    def __init__(self, inputs: int, width: int, reach: int, first: bool, last: bool) -> None:
        super().__init__()
        self.first, self.reach = first, reach
        edge = -1 if first else 0
        self.vertical = ShiftedConv(inputs, 2 * width, (-reach, edge), (-reach, reach))
        self.horizontal = ShiftedConv(inputs, 2 * width, (0, 0), (-reach, edge))
        self.across = ShiftedConv(2 * width, 2 * width, (0, 0), (0, 0), bias=False)
        self.residual = None if last else ShiftedConv(width, width, (0, 0), (0, 0), bias=False)


class GatedStack(nn.Module):
    """Embedded pixels (B, E, H, W) -> features (B, S, H, W); those of a pixel see only pixels before it."""

    def __init__(
        self,
        inputs: int,
        width: int,
        layers: int,
        first_kernel: int,
        kernel: int,
        features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        self.layers = nn.ModuleList(
            GatedLayer(
                inputs if number == 0 else width,
                width,
                (first_kernel if number == 0 else kernel) // 2,
                first=number == 0,
                last=number == layers - 1,
            )
            for number in range(layers)
        )
        self.skips = ShiftedConv(layers * width, features, (0, 0), (0, 0))
        self.dropout = nn.Dropout(dropout)

    def forward(self, e_BEHW: Tensor) -> Tensor:
        v, h, gated = e_BEHW, e_BEHW, []
        for layer in self.typed_layers():
            pre_v = layer.vertical(v)
            gated.append(self.dropout(gate(layer.horizontal(h) + layer.across(pre_v))))
            if layer.residual is not None:
                step_v, step_h = self.dropout(gate(pre_v)), layer.residual(gated[-1])
                v, h = (step_v, step_h) if layer.first else (v + step_v, h + step_h)
        return self.skips(torch.cat(gated, dim=1))

    def typed_layers(self) -> list[GatedLayer]:
        return cast(list[GatedLayer], list(self.layers))

    def begin(self, batch: int, width: int, dtype: torch.dtype) -> GatedCache:
        return GatedCache(self, batch, width, dtype)

    def floats_per_image(self, width: int) -> int:
        """About how many numbers a GatedCache holds for each picture that is drawn."""
        return (4 * self.inputs + 6 * self.width * len(self.layers)) * width


# Of one layer at one pixel: what comes from above (B, D), the window (B, K) and its weights (K, D), where the
# gated features go (B, C); and for the residual what it is added to (B, C), its weights (C, C), and where the
# sum goes (B, C).
_Step = tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]


class _LayerCache:
    """Weights of one layer laid out for products, and its buffers.

    tanh(a) sigmoid(b) = 2 (sigmoid(2 a) - 1/2) sigmoid(b): with a's weights doubled, and those of whatever is
    fed by it, one function serves both halves (tanh takes seven times as long on a CPU). Doubling is exact.
    """

    def __init__(self, layer: GatedLayer, batch: int, width: int, like: Tensor) -> None:
        self.layer = layer
        channels = layer.across.weight_OIRK.shape[0] // 2
        twice_D = torch.cat([like.new_full((channels,), 2.0), like.new_ones(channels)])
        vertical, horizontal = layer.vertical, layer.horizontal
        assert vertical.bias_O is not None and horizontal.bias_O is not None
        self.vertical_DCRK = (vertical.weight_OIRK.to(like) * twice_D.view(-1, 1, 1, 1)).contiguous(
            memory_format=torch.channels_last
        )
        self.vertical_bias_D = vertical.bias_O.to(like) * twice_D
        self.horizontal_KD = (horizontal.taps().to(like) * twice_D).contiguous()
        self.horizontal_bias_D = horizontal.bias_O.to(like) * twice_D
        # From doubled numbers to doubled numbers: its input's first half is twice too large.
        self.across_DD = (layer.across.taps().to(like) * twice_D / twice_D[:, None]).contiguous()
        self.residual_CC = (
            None if layer.residual is None else (2 * layer.residual.taps().to(like)).contiguous()
        )
        self.rows = slice(0, -1) if layer.first else slice(None)
        self.from_above_BWD = like.new_zeros(batch, width, 2 * channels)


class GatedCache:
    """What is kept of a batch of pictures while they are drawn: `row`, then `pixel` for each column."""

    def __init__(self, stack: GatedStack, batch: int, width: int, dtype: torch.dtype) -> None:
        weight = stack.skips.weight_OIRK
        like = torch.empty(0, dtype=dtype, device=weight.device)
        layers = stack.typed_layers()
        self.layers = [_LayerCache(layer, batch, width, like) for layer in layers]
        reaches = [layer.reach for layer in layers]
        self.embedded = RowCache(batch, reaches[0], width, stack.inputs, reaches[0], like)
        inner = [RowCache(batch, reach, width, stack.width, reach, like) for reach in reaches[1:]]
        self.vertical = [self.embedded, *inner]
        # The horizontal stack looks at its own row alone, but for the embedded pixels, which both share.
        horizontal = [RowCache(batch, 0, width, stack.width, reach, like) for reach in reaches[1:]]
        self.horizontal = [self.embedded, *horizontal]
        self.skips_KS = (2 * stack.skips.taps().to(like)).contiguous()
        assert stack.skips.bias_O is not None
        self.skips_bias_S = stack.skips.bias_O.to(like)
        self.pre_BD = like.new_empty(batch, 2 * stack.width)
        self.a_BC, self.b_BC = self.pre_BD.chunk(2, dim=1)
        self.gated_BK = like.new_empty(batch, len(layers) * stack.width)
        self.gated = self.gated_BK.split(stack.width, dim=1)
        # Tensors of one number: they cost less than a Python number does, at each pixel and layer.
        self.zero, self.half = like.new_zeros(()), like.new_full((), 0.5)
        self.steps = [self._steps(column) for column in range(width)]

    def _steps(self, column: int) -> list[_Step]:
        """What one pixel's products work on, layer by layer: views made once, not at each pixel."""
        steps = []
        for number, cache in enumerate(self.layers):
            window_BK = self.horizontal[number].window(column, cache.layer.horizontal.columns)
            residual = None
            if cache.residual_CC is not None:
                here_BC = self.zero if cache.layer.first else self.horizontal[number].at(column)
                residual = here_BC, cache.residual_CC, self.horizontal[number + 1].at(column)
            from_above_BD = cache.from_above_BWD[:, column]
            steps.append((from_above_BD, window_BK, cache.horizontal_KD, self.gated[number], residual))
        return steps

    def row(self, above_BWE: Tensor | None) -> None:
        """Begin a row, given the embedded one above: the vertical stack, and what it adds to the other."""
        if above_BWE is not None:
            self.embedded.inside_BWF.copy_(above_BWE)
        self.embedded.next_row()
        for number, cache in enumerate(self.layers):
            source = self.vertical[number]
            pre_BWD = source.convolved(cache.vertical_DCRK, cache.vertical_bias_D, cache.rows)
            torch.addmm(
                cache.horizontal_bias_D,
                pre_BWD.flatten(0, 1),
                cache.across_DD,
                out=cache.from_above_BWD.flatten(0, 1),
            )
            if cache.residual_CC is None:
                return
            a_BWC, b_BWC = pre_BWD.sigmoid_().chunk(2, dim=2)
            a_BWC.sub_(0.5)
            target = self.vertical[number + 1]
            target.next_row()
            before = self.zero if cache.layer.first else source.inside_BWF
            torch.addcmul(before, a_BWC, b_BWC, value=2, out=target.inside_BWF)

    def pixel(self, column: int, left_BE: Tensor | None) -> Tensor:
        """Features (B, S) of the pixel at a column, given the embedded pixel to its left."""
        if left_BE is not None:
            self.embedded.at(column - 1).copy_(left_BE)
        pre_BD, a_BC, b_BC, half, addmm = self.pre_BD, self.a_BC, self.b_BC, self.half, torch.addmm
        for from_above_BD, window_BK, weight_KD, gated_BC, residual in self.steps[column]:
            addmm(from_above_BD, window_BK, weight_KD, out=pre_BD)
            pre_BD.sigmoid_()
            a_BC.sub_(half)
            torch.mul(a_BC, b_BC, out=gated_BC)
            if residual is not None:
                here_BC, weight_CC, next_BC = residual
                addmm(here_BC, gated_BC, weight_CC, out=next_BC)
        return addmm(self.skips_bias_S, self.gated_BK, self.skips_KS)
