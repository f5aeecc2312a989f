"""Did the model learn its pictures by heart? How near its samples lie to training pictures, against how near
held-out pictures do (Meehan et al. 2020, arXiv 2004.05675, who standardise the statistic).

Legend: N training pictures, M others, K neighbours, D numbers of a picture or of its features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gentrain.metrics.figure import Estimate, jackknife, row_blocks

CANDIDATES = 4  # more than are asked for, of which the nearest are chosen exactly
# So many products of numbers in -128 .. 127 can be added up in float32 without rounding: 2^10 * 2^14 = 2^24.
ADDED_EXACTLY = 2**10


@dataclass(frozen=True)
class Nearest:
    """Of M pictures: the nearest training pictures' squared distances, float64, and numbers, (M, K) each."""

    squared_MK: Tensor
    index_MK: Tensor

    @property
    def nearest_M(self) -> Tensor:
        return self.squared_MK[:, 0]


def nearest(x_MD: Tensor, training: Iterable[Tensor], k: int = 1) -> Nearest:
    """The k nearest of the training rows, which come in blocks (B, D); equal rows are at distance zero.

    Candidates are found by products, and their distances are then taken anew from differences.
    """
    best = Nearest(
        torch.zeros(len(x_MD), 0, dtype=torch.float64), torch.zeros(len(x_MD), 0, dtype=torch.int64)
    )
    start = 0
    for block_BD in training:
        most = min(k + CANDIDATES, len(block_BD))
        index = torch.cat(
            [
                squared_by_products(x_MD[rows], block_BD).topk(most, largest=False).indices
                for rows in row_blocks(len(x_MD), len(block_BD))
            ]
        )
        # A few rows at a time: float64 copies of thousands of large pictures would not fit into memory.
        exact = torch.cat(
            [_exactly(x_MD[rows], block_BD, index[rows]) for rows in row_blocks(len(x_MD), x_MD.shape[1])]
        )
        squared = torch.cat([best.squared_MK, exact.cpu()], 1)
        numbers = torch.cat([best.index_MK, index.cpu() + start], 1)
        order = squared.argsort(dim=1, stable=True)[:, :k]
        best = Nearest(squared.gather(1, order), numbers.gather(1, order))
        start += len(block_BD)
    return best


def squared_by_products(x_MD: Tensor, y_BD: Tensor) -> Tensor:
    """|x|^2 + |y|^2 - 2 x.y, float64 (M, B): exactly of uint8, else by sums in float64.

    The difference of such sums may be far smaller than they are: in float32, which has 24 bits, pictures of
    64x64x3 bytes are 16 apart or not at all.
    """
    if x_MD.dtype != torch.uint8:
        x, y = x_MD.double(), y_BD.double()
        return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    x, y = x_MD.float() - 128, y_BD.float() - 128
    squared = x.square().sum(1, dtype=torch.float64)[:, None] + y.square().sum(1, dtype=torch.float64)
    for x_part, y_part in zip(x.split(ADDED_EXACTLY, 1), y.split(ADDED_EXACTLY, 1), strict=True):
        squared.sub_(x_part @ y_part.T, alpha=2)
    return squared


def _exactly(x_MD: Tensor, block_BD: Tensor, index_MK: Tensor) -> Tensor:
    """The squared distances (M, K) to some rows of a block, float64."""
    return torch.stack(
        [(x_MD.double() - block_BD[column].double()).square().sum(1) for column in index_MK.T], 1
    )


def nearer(model_M: Tensor, held_out_N: Tensor) -> Estimate:
    """The probability that a sample's distance is less than a held-out picture's (of equal ones, half of it).

    0.5: as near as new pictures are. The Mann-Whitney statistic over N * M.
    """
    pairs = _wins(model_M, held_out_N), _wins(held_out_N, model_M)
    m, n = len(model_M), len(held_out_N)
    value = pairs[0].mean()
    # With one left out, the mean over the others.
    left_out = [(m * value - pairs[0]) / (m - 1), (n * (1 - value) - pairs[1]) / (n - 1)]
    return Estimate(value.item(), jackknife(left_out))


def _wins(x_M: Tensor, y_N: Tensor) -> Tensor:
    """For each x the share of y above it, equal ones counting half, (M,)."""
    y, x = y_N.double().sort().values, x_M.double().contiguous()
    above = len(y) - torch.searchsorted(y, x, right=True)
    equal = torch.searchsorted(y, x, right=True) - torch.searchsorted(y, x)
    return (above.double() + equal / 2) / len(y)
