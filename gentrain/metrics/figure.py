"""One measured number, with what has to be known to compare it with another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """`floor`: the same figure of real pictures in the place of the model's, by where these are from."""

    mean: float
    standard_error: float  # nan where there is none
    unit: str
    meaning: str
    protocol: dict[str, Any] = field(default_factory=dict)  # beyond what all figures of a file have in common
    floor: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    standard_error: float


def mean_of(values_N: Tensor) -> Estimate:
    """The mean of N independent values, and its standard error."""
    values = values_N.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(values.mean().item(), error)


def jackknife(left_out: Sequence[Tensor]) -> float:
    """The standard error of a statistic of independent samples (Efron & Stein 1981).

    `left_out`: for each sample, the statistic without each of its members (or of its equal blocks).
    """
    total = 0.0
    for values_G in left_out:
        count = len(values_G)
        total += (count - 1) / count * (values_G - values_G.mean()).square().sum().item()
    return math.sqrt(total)


def row_blocks(rows: int, columns: int, numbers: int = 2**24) -> list[slice]:
    """Stretches of rows, so that a block of a (rows, columns) matrix holds about so many numbers at most."""
    size = max(1, numbers // max(1, columns))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def squared_distances(x_ND: Tensor, y_MD: Tensor, consume: Callable[[slice, Tensor], None]) -> None:
    """Calls `consume` with blocks of rows of the (N, M) squared Euclidean distances, in float64.

    Of differences, not of products: equal rows are exactly at distance zero.
    """
    for rows in row_blocks(len(x_ND), len(y_MD)):
        distances = torch.cdist(
            x_ND[rows].double(), y_MD.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        consume(rows, distances.square_())
