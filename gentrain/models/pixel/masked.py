"""The plain PixelCNN's masked convolutions (van den Oord et al., arXiv 1601.06759, sections 3.4 and 3.5).

Legend: B batch, H height, W width, E features of an embedded pixel, C width, D = 2*C, S features handed to
the head, I inputs, O outputs, K numbers that enter a product.

A first convolution with mask A, then residual blocks: relu, 1x1 (D to C), relu, masked convolution with mask
B, relu, 1x1 (C to D). It has a blind spot: what is above and far to the right is not seen (docs/pixelcnn.md).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.models.pixel.causal import RowCache, ShiftedConv


class MaskedConv(nn.Module):
    """A square kernel's taps before its centre (mask A), and the centre itself with mask B."""

    def __init__(self, inputs: int, outputs: int, kernel: int, mask: str) -> None:
        super().__init__()
        reach = kernel // 2
        self.above = ShiftedConv(inputs, outputs, (-reach, -1), (-reach, reach))
        self.beside = ShiftedConv(inputs, outputs, (0, 0), (-reach, 0 if mask == "B" else -1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(x) + self.beside(x)


class MaskedBlock(nn.Module):
    """x + f(x) on D channels. f starts small, so that a deep stack starts near the identity."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.down = ShiftedConv(2 * width, width, (0, 0), (0, 0))
        self.masked = MaskedConv(width, width, kernel, "B")
        self.up = ShiftedConv(width, 2 * width, (0, 0), (0, 0))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.up.weight_OIRK, std=0.1 * width**-0.5)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        middle = self.masked(F.relu(self.down(F.relu(x_BDHW))))
        return x_BDHW + self.up(self.dropout(F.relu(middle)))


class MaskedStack(nn.Module):
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
        self.first = MaskedConv(inputs, 2 * width, first_kernel, "A")
        self.blocks = nn.ModuleList(MaskedBlock(width, kernel, dropout) for _ in range(layers - 1))
        self.last = ShiftedConv(2 * width, features, (0, 0), (0, 0))

    def forward(self, e_BEHW: Tensor) -> Tensor:
        x_BDHW = self.first(e_BEHW)
        for block in self.blocks:
            x_BDHW = block(x_BDHW)
        return self.last(F.relu(x_BDHW))

    def begin(self, batch: int, width: int, dtype: torch.dtype) -> MaskedCache:
        return MaskedCache(self, batch, width, dtype)

    def floats_per_image(self, width: int) -> int:
        """About how many numbers a MaskedCache holds for each picture that is drawn."""
        return (4 * self.inputs + 5 * self.width * (1 + len(self.blocks))) * width


class MaskedConvCache:
    """A MaskedConv while a picture is drawn: the rows that it looks at, and what those above add."""

    def __init__(self, conv: MaskedConv, batch: int, width: int, like: Tensor) -> None:
        outputs, inputs = conv.above.weight_OIRK.shape[:2]
        reach = conv.above.columns[1]
        self.rows = RowCache(batch, reach, width, inputs, reach, like)
        assert conv.above.bias_O is not None
        self.above_OIRK = conv.above.weight_OIRK.to(like).contiguous(memory_format=torch.channels_last)
        self.bias_O = conv.above.bias_O.to(like)
        self.beside_KO = conv.beside.taps().to(like).contiguous()
        self.windows = [self.rows.window(column, conv.beside.columns) for column in range(width)]
        self.from_above_BWO = like.new_zeros(batch, width, outputs)

    def row(self) -> None:
        self.rows.next_row()
        self.from_above_BWO.copy_(self.rows.convolved(self.above_OIRK, self.bias_O, slice(0, -1)))

    def pixel(self, column: int) -> Tensor:
        return torch.addmm(self.from_above_BWO[:, column], self.windows[column], self.beside_KO)


class MaskedCache:
    """What is kept of a batch of pictures while they are drawn: `row`, then `pixel` for each column."""

    def __init__(self, stack: MaskedStack, batch: int, width: int, dtype: torch.dtype) -> None:
        like = torch.empty(0, dtype=dtype, device=stack.last.weight_OIRK.device)
        blocks = cast(list[MaskedBlock], list(stack.blocks))
        self.embedded = MaskedConvCache(stack.first, batch, width, like)
        self.convs = [MaskedConvCache(block.masked, batch, width, like) for block in blocks]
        self.downs = [product(block.down, like) for block in blocks]
        self.ups = [product(block.up, like) for block in blocks]
        self.last = product(stack.last, like)

    def row(self, above_BWE: Tensor | None) -> None:
        """Begin a row, given the embedded row above: what all rows above add to each masked convolution."""
        if above_BWE is not None:
            self.embedded.rows.inside_BWF.copy_(above_BWE)
        for conv in (self.embedded, *self.convs):
            conv.row()

    def pixel(self, column: int, left_BE: Tensor | None) -> Tensor:
        """Features (B, S) of the pixel at a column, given the embedded pixel to its left."""
        if left_BE is not None:
            self.embedded.rows.at(column - 1).copy_(left_BE)
        x_BD = self.embedded.pixel(column)
        for conv, (down_DC, down_bias), (up_CD, up_bias) in zip(
            self.convs, self.downs, self.ups, strict=True
        ):
            middle_BC = torch.addmm(down_bias, F.relu(x_BD), down_DC).relu_()
            conv.rows.at(column).copy_(middle_BC)
            x_BD = x_BD + torch.addmm(up_bias, conv.pixel(column).relu_(), up_CD)
        weight_DS, bias_S = self.last
        return torch.addmm(bias_S, x_BD.relu_(), weight_DS)


def product(conv: ShiftedConv, like: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (I, O) and the bias (O,) of a 1x1 convolution."""
    assert conv.bias_O is not None
    return conv.taps().to(like).contiguous(), conv.bias_O.to(like)
