"""Where a mixture of Gaussians starts: k-means, and the principal axes of each cluster.

Legend: N points, D numbers in a point, K clusters, R axes, n points of one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ROUNDS = 15  # of Lloyd's algorithm
FROM_A_CLUSTER = 1024  # points of which axes are found: bounds the time
# A cluster's own variances count as much as those of all clusters together once it has this many points.
PRIOR_POINTS = 20


@dataclass(frozen=True)
class MixtureStart:
    weight_K: Tensor
    mean_KD: Tensor
    factor_KDR: Tensor
    rest_KD: Tensor  # variance that the factors leave


def start_mixture(y_ND: Tensor, clusters: int, factors: int, generator: Generator) -> MixtureStart:
    """From points, float32 on their device; clusters without points of their own are like all the others."""
    member_N, mean_KD = k_means(y_ND, clusters, generator)
    within_D = (y_ND - mean_KD[member_N]).square().mean(0)
    weights, factor_list, rest_list = [], [], []
    for k in range(clusters):
        own_nD = y_ND[member_N == k][:FROM_A_CLUSTER] - mean_KD[k]
        n = len(own_nD)
        share = n / (n + PRIOR_POINTS)
        variance_D = share * own_nD.square().mean(0) + (1 - share) * within_D if n else within_D
        factor_DR = share**0.5 * principal_axes(own_nD, factors)
        factor_DR = factor_DR + 1e-3 * torch.randn(
            factor_DR.shape, generator=generator, device=generator.device
        ).to(y_ND)
        weights.append((int((member_N == k).sum()) + 1) / (len(y_ND) + clusters))
        factor_list.append(factor_DR)
        rest_list.append((variance_D - factor_DR.square().sum(1)).clamp(min=0.05 * variance_D))
    return MixtureStart(
        torch.tensor(weights, device=y_ND.device), mean_KD, torch.stack(factor_list), torch.stack(rest_list)
    )


def k_means(y_ND: Tensor, clusters: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The cluster of each point, (N,), and the centres, (K, D).

    Lloyd's algorithm from centres chosen as k-means++ does (Arthur and Vassilvitskii, 2007).
    """
    chosen = [int(torch.randint(len(y_ND), (1,), generator=generator))]
    nearest_N = (y_ND - y_ND[chosen[0]]).square().sum(1)
    while len(chosen) < clusters:
        odds_N = nearest_N.cpu().double() + 1e-12
        chosen.append(int(torch.multinomial(odds_N, 1, generator=generator)))
        nearest_N = torch.minimum(nearest_N, (y_ND - y_ND[chosen[-1]]).square().sum(1))
    centre_KD = y_ND[chosen].clone()
    # By products, which differ by far less than they are: in float64, that is, which MPS has not.
    wide_ND = (y_ND.cpu() if y_ND.device.type == "mps" else y_ND).double()
    for _ in range(ROUNDS):
        member_N = _nearest(wide_ND, centre_KD.to(wide_ND)).to(y_ND.device)
        for k in range(clusters):
            own_nD = y_ND[member_N == k]
            if len(own_nD):
                centre_KD[k] = own_nD.mean(0)
    return member_N, centre_KD


def _nearest(y_ND: Tensor, centre_KD: Tensor) -> Tensor:
    """The number of the nearest centre, (N,): |y - c|^2 without |y|^2."""
    return (centre_KD.square().sum(1) - 2 * y_ND @ centre_KD.T).argmin(1)


def principal_axes(centred_nD: Tensor, count: int) -> Tensor:
    """The first axes, (D, R), each as long as the standard deviation along it beyond that of those left out;
    zeros where there are fewer (probabilistic PCA: Tipping and Bishop, 1999, eq. 7)."""
    n, dims = centred_nD.shape
    out_DR = centred_nD.new_zeros(dims, count)
    found = min(count, n - 1, dims)
    if found <= 0:
        return out_DR
    variance_n, vectors_nn = torch.linalg.eigh((centred_nD @ centred_nD.T).cpu().double() / n)
    variance_n, vectors_nn = variance_n.flip(0), vectors_nn.flip(1)
    noise = variance_n[found:].sum() / max(1, dims - found)
    length_R = (variance_n[:found] - noise).clamp(min=0).sqrt()
    scale_R = length_R / (n * variance_n[:found].clamp(min=1e-12)).sqrt()
    out_DR[:, :found] = centred_nD.T @ (vectors_nn[:, :found] * scale_R).to(centred_nD)
    return out_DR
