"""Precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797): features as balls.

The ball of a feature reaches to the k-th nearest other feature of its set. All four are means over one of the
sets, with the standard error that the spread over that set gives while the balls are held fixed.

Legend: N real pictures, M of the model, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gentrain.metrics.figure import Estimate, mean_of, squared_distances

K_PRECISION = 3  # of precision and recall, as in their paper
K_DENSITY = 5  # of density and coverage, as in theirs


def precision_recall(real_ND: Tensor, fake_MD: Tensor, k: int = K_PRECISION) -> tuple[Estimate, Estimate]:
    """The share of the model's pictures in a real one's ball; of real ones in a ball of the model's."""
    return mean_of(_inside(fake_MD, real_ND, k) > 0), mean_of(_inside(real_ND, fake_MD, k) > 0)


def density_coverage(real_ND: Tensor, fake_MD: Tensor, k: int = K_DENSITY) -> tuple[Estimate, Estimate]:
    """How many real balls one of the model's pictures lies in, over k (about 1 if all is well, or more);
    the share of real balls with at least one of the model's pictures in them.
    """
    return mean_of(_inside(fake_MD, real_ND, k).double() / k), mean_of(
        _nearest(real_ND, fake_MD) <= _radii(real_ND, k)
    )


def _inside(points_MD: Tensor, centres_ND: Tensor, k: int) -> Tensor:
    """In how many balls of the centres each point lies, borders included, (M,)."""
    radii_N, counts = _radii(centres_ND, k), []
    squared_distances(points_MD, centres_ND, lambda rows, block: counts.append((block <= radii_N).sum(1)))
    return torch.cat(counts)


def _radii(x_ND: Tensor, k: int) -> Tensor:
    """The squared distance to the k-th nearest other row, (N,): of equal rows the distance is 0."""
    found: list[Tensor] = []
    # The nearest row is the row itself, at distance zero.
    squared_distances(x_ND, x_ND, lambda rows, block: found.append(block.kthvalue(k + 1, dim=1).values))
    return torch.cat(found)


def _nearest(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """The squared distance to the nearest row of y, (N,)."""
    found: list[Tensor] = []
    squared_distances(x_ND, y_MD, lambda rows, block: found.append(block.amin(1)))
    return torch.cat(found)
