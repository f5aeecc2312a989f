"""Convolutions that look only where they may, and what they have seen, row by row, while a picture is drawn.

Legend: B batch, I inputs, O outputs, H height, W width, R rows kept, K columns of a kernel, F features.

The order of pixels is that of reading: rows from the top, each from the left. A convolution with "mask A"
sees the pixels before its own, with "mask B" its own features too (van den Oord et al., arXiv 1601.06759,
section 3.4). Here no weight is made and then masked away: a ShiftedConv has only the taps that it uses, in
one rectangle; mask A or B of a square kernel is the sum of two, the rows above and the start of the own row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Span = tuple[int, int]


class ShiftedConv(nn.Module):
    """out(y, x) = bias + sum of weight[dy, dx] in(y + dy, x + dx), dy and dx within `rows` and `columns`.

    `rows` and `columns` are the first and the last offset, so rows=(-2, -1) are the two rows above. Outside
    the picture there is zero. (B, I, H, W) -> (B, O, H, W).
    """

    def __init__(self, inputs: int, outputs: int, rows: Span, columns: Span, bias: bool = True) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        size = rows[1] - rows[0] + 1, columns[1] - columns[0] + 1
        self.weight_OIRK = nn.Parameter(torch.empty(outputs, inputs, *size))
        self.bias_O = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight_OIRK, std=(inputs * size[0] * size[1]) ** -0.5)

    def forward(self, x_BIHW: Tensor) -> Tensor:
        # A negative width of padding cuts off: what lies before the first offset is never looked at.
        padding = (-self.columns[0], self.columns[1], -self.rows[0], self.rows[1])
        return F.conv2d(F.pad(x_BIHW, padding), self.weight_OIRK, self.bias_O)

    def taps(self) -> Tensor:
        """The weights of a kernel of one row as a matrix (K*I, O), for K pixels side by side."""
        return self.weight_OIRK[:, :, 0].permute(2, 1, 0).flatten(0, 1)


class RowCache:
    """The features of the last rows of a picture that is being drawn, with zeros around it.

    `last_BRWF` holds `above` finished rows and, at the end, the row in work; its columns are padded by `side`
    on the left and on the right.
    """

    def __init__(self, batch: int, above: int, width: int, features: int, side: int, like: Tensor) -> None:
        self.side, self.width = side, width
        self.last_BRWF = like.new_zeros(batch, above + 1, width + 2 * side, features)
        self.inside_BWF = self.last_BRWF[:, -1, side : side + width]

    def next_row(self) -> None:
        """Moves every row up. What is then in the work's row is old, and is written before it is read."""
        for row in range(self.last_BRWF.shape[1] - 1):
            self.last_BRWF[:, row].copy_(self.last_BRWF[:, row + 1])

    def at(self, column: int) -> Tensor:
        """The features of one pixel of the row in work, a view (B, F)."""
        return self.inside_BWF[:, column]

    def window(self, column: int, span: Span) -> Tensor:
        """Neighbours in the row in work, side by side: a view (B, K*F), as `ShiftedConv.taps` wants it."""
        first, last = column + self.side + span[0], column + self.side + span[1]
        return self.last_BRWF[:, -1, first : last + 1].flatten(1)

    def convolved(self, weight_OIRK: Tensor, bias_O: Tensor | None, rows: slice) -> Tensor:
        """A convolution over some of the rows, 2*side + 1 columns wide, at every column: (B, W, O)."""
        x_BFRW = self.last_BRWF[:, rows].permute(0, 3, 1, 2)
        return F.conv2d(x_BFRW, weight_OIRK, bias_O)[:, :, 0].permute(0, 2, 1)
