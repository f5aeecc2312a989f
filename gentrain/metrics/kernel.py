"""The kernel distance: the squared maximum mean discrepancy, cubic kernel (arXiv 1801.01401, section 3).

k(a, b) = (a.b / D + 1)^3. The estimate is the unbiased one over all pairs, so that its mean is zero for two
sets from one distribution whatever their number, and it can be negative; not a mean over random subsets, so
that it needs no seed.

Legend: N, M pictures, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gentrain.metrics.figure import Estimate, jackknife, row_blocks


def kernel_distance(x_ND: Tensor, y_MD: Tensor) -> Estimate:
    """Between two sets of at least three features; the standard error leaves out one picture at a time."""
    x, y = x_ND.double(), y_MD.double()
    within_x, within_y = _row_sums(x, x, own=False), _row_sums(y, y, own=False)
    across_x, across_y = _row_sums(x, y), _row_sums(y, x)
    n, m = len(x), len(y)

    def mmd2(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    xx, yy, xy = within_x.sum(), within_y.sum(), across_x.sum()
    # Without picture i, its row and its column are gone.
    without_x = mmd2(xx - 2 * within_x, yy, xy - across_x, n - 1, m)
    without_y = mmd2(xx, yy - 2 * within_y, xy - across_y, n, m - 1)
    return Estimate(mmd2(xx, yy, xy, n, m).item(), jackknife([without_x, without_y]))


def _row_sums(x_ND: Tensor, y_MD: Tensor, own: bool = True) -> Tensor:
    """The sums over M of k(x, y), (N,); with `own` False for equal sets, without k(x, x)."""
    dims = x_ND.shape[1]
    parts = []
    for rows in row_blocks(len(x_ND), len(y_MD)):
        kernel = (x_ND[rows] @ y_MD.T / dims + 1) ** 3
        parts.append(kernel.sum(1))
    sums = torch.cat(parts)
    return sums if own else sums - (x_ND.square().sum(1) / dims + 1) ** 3
