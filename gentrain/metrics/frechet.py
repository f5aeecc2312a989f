"""The Frechet distance of two Gaussians fitted to features (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), with unbiased covariances. It is biased upwards, the more
the fewer pictures there are, so that only figures of equal numbers may be compared.

Legend: N, M pictures, D features, G blocks that the jackknife leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gentrain.metrics.figure import Estimate, jackknife

BLOCKS = 10


@dataclass(frozen=True)
class Moments:
    """Of a set of features: how many, their sum (D,), and the sum of their products (D, D), float64."""

    count: int
    sum_D: Tensor
    products_DD: Tensor

    @classmethod
    def of(cls, features_ND: Tensor) -> Moments:
        features = features_ND.double()
        return cls(len(features), features.sum(0), features.T @ features)

    def __sub__(self, part: Moments) -> Moments:
        return Moments(self.count - part.count, self.sum_D - part.sum_D, self.products_DD - part.products_DD)

    @property
    def mean_D(self) -> Tensor:
        return self.sum_D / self.count

    @property
    def covariance_DD(self) -> Tensor:
        outer = self.mean_D[:, None] * self.sum_D
        return (self.products_DD - outer) / (self.count - 1)


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> Estimate:
    """Between two sets of features, at least two of each; its standard error by a jackknife over blocks."""
    centre = y_MD.double().mean(0)  # so that sums of products lose no digits to a common offset
    sets = [x_ND.double() - centre, y_MD.double() - centre]
    whole = [Moments.of(features) for features in sets]
    value = distance(*whole)
    left_out = []
    for which, features in enumerate(sets):
        blocks = [Moments.of(block) for block in features.tensor_split(min(BLOCKS, len(features)))]
        # Both with as many left out, or the distance's bias would differ.
        pairs = [
            [moments - block if i == which else moments for i, moments in enumerate(whole)]
            for block in blocks
        ]
        usable = all(moments.count > 1 for pair in pairs for moments in pair)
        left_out.append(torch.tensor([distance(*pair) for pair in pairs] if usable else [torch.nan]))
    return Estimate(value, jackknife(left_out))


def distance(x: Moments, y: Moments) -> float:
    """At least 0: rounding is cut off there."""
    root_DD = _square_root(x.covariance_DD)
    # The eigenvalues of S_x S_y are those of the symmetric root(S_x) S_y root(S_x).
    between = torch.linalg.eigvalsh(root_DD @ y.covariance_DD @ root_DD).clamp(min=0).sqrt().sum()
    spread = x.covariance_DD.trace() + y.covariance_DD.trace() - 2 * between
    return max(0.0, ((x.mean_D - y.mean_D).square().sum() + spread).item())


def _square_root(covariance_DD: Tensor) -> Tensor:
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    return (vectors_DD * values_D.clamp(min=0).sqrt()) @ vectors_DD.T
