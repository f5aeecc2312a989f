"""Codes: paths between two of them, which of their numbers are used, and whether they fill the prior.

Legend: N pictures, B pairs, T points of a path, D (or Z) numbers in a code. Sums in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ACTIVE = 0.01  # the threshold of Burda et al. (arXiv 1509.00519, section 5.2)
STRAIGHT = 1e-6  # below this sine two codes lie in one direction, and an arc between them is a line
MIXTURE_AT_ONCE = 2**23  # numbers of a mixture's log densities held at once


def linear(from_BD: Tensor, to_BD: Tensor, t_T: Tensor) -> Tensor:
    """(1 - t) a + t b, shape (B, T, D)."""
    t_T1 = t_T[:, None]
    return (1 - t_T1) * from_BD[:, None] + t_T1 * to_BD[:, None]


def spherical(from_BD: Tensor, to_BD: Tensor, t_T: Tensor) -> Tensor:
    """(sin((1 - t) w) a + sin(t w) b) / sin(w), w the angle between a and b at 0; shape (B, T, D).

    Shoemake, SIGGRAPH 1985. Between codes of one length it keeps that length: draws of a Gaussian in many
    dimensions all have about the same, and the middle of a straight line between two is shorter (White,
    arXiv 1609.04468). A line where a or b is 0, or both lie in one direction or in opposite ones.
    """
    a, b = from_BD.double(), to_BD.double()
    lengths_B = a.norm(dim=1) * b.norm(dim=1)
    cosine_B = ((a * b).sum(1) / lengths_B.clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1, 1)
    angle_B = cosine_B.arccos()
    straight_B11 = ((angle_B.sin() < STRAIGHT) | (lengths_B == 0))[:, None, None]
    angle_B1 = angle_B[:, None]
    shares = [((1 - t_T) * angle_B1).sin(), (t_T * angle_B1).sin()]
    before, after = (share[..., None] / angle_B.sin().clamp(min=STRAIGHT)[:, None, None] for share in shares)
    arc_BTD = before * a[:, None] + after * b[:, None]
    return torch.where(straight_B11, linear(a, b, t_T.double()), arc_BTD).to(from_BD.dtype)


def cross_fade(from_BCHW: Tensor, to_BCHW: Tensor, t_T: Tensor) -> Tensor:
    """Between two pictures and not their codes: uint8 (B, T, C, H, W). What needs no model."""
    path_BTN = linear(from_BCHW.flatten(1).double(), to_BCHW.flatten(1).double(), t_T.double())
    return path_BTN.round().to(torch.uint8).unflatten(2, from_BCHW.shape[1:])


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}


@dataclass(frozen=True)
class Aggregate:
    """q(z) = mean over pictures of q(z|x) = N(m, diag exp(s)), beside the prior N(0, I). KLs are in nats."""

    kl_Z: Tensor  # mean over x of KL(q(z_j|x) || p(z_j)): what a dimension says, and costs
    active_Z: Tensor  # Var over x of E[z_j|x]: an active unit has more than ACTIVE
    mean_Z: Tensor  # of q(z_j); the prior's is 0
    variance_Z: Tensor  # of q(z_j): Var m_j + mean exp(s_j); the prior's is 1
    noise_Z: Tensor  # mean over x of the standard deviation of q(z_j|x)
    marginal_kl_Z: Tensor  # KL(q(z_j) || p(z_j)), by one draw a picture
    kl_to_prior: float  # KL(q(z) || p(z)), by one draw a picture: an upper estimate
    kl_to_prior_gaussian: float  # of the Gaussian with q(z)'s mean and covariance: a lower bound
    information: float  # the mutual information of picture and code: kl_Z.sum() - kl_to_prior; at most log N


def aggregate(m_NZ: Tensor, s_NZ: Tensor, generator: Generator) -> Aggregate:
    """How codes of N pictures lie together; s is the log-variance.

    The mean KL splits into the information that z has of x and the KL of q(z) (Hoffman and Johnson 2016,
    "ELBO surgery"). q(z) is taken as the mixture over these very N pictures, z drawn once from each: an
    unbiased estimate for that mixture, whose KL is in expectation above that of all pictures' q(z), since KL
    is convex. No mixture of N tells more than log N nats of x apart, so with many used dimensions
    the estimate stays near kl - log N, and the lower bound says more. The bound: log of a Gaussian over the
    prior is quadratic, so KL(q || p) = KL(q || g) + KL(g || p) for the Gaussian g with q's two moments.
    """
    m_NZ, s_NZ = m_NZ.cpu().double(), s_NZ.cpu().double()
    noise_NZ = torch.randn(m_NZ.shape, generator=generator, dtype=torch.float64)
    z_NZ = m_NZ + (s_NZ / 2).exp() * noise_NZ
    joint_N, marginal_NZ = _log_mixture(z_NZ, m_NZ, s_NZ)
    log_prior_NZ = -0.5 * (z_NZ.square() + math.log(2 * math.pi))
    kl_Z = (0.5 * (torch.expm1(s_NZ) - s_NZ + m_NZ.square())).mean(0)
    to_prior = (joint_N - log_prior_NZ.sum(1)).mean().item()
    mean_Z = m_NZ.mean(0)
    centred_NZ = m_NZ - mean_Z
    covariance_ZZ = centred_NZ.T @ centred_NZ / len(m_NZ) + s_NZ.exp().mean(0).diag()
    gaussian = 0.5 * (covariance_ZZ.trace() + mean_Z.square().sum() - len(mean_Z) - covariance_ZZ.logdet())
    return Aggregate(
        kl_Z,
        centred_NZ.square().mean(0),
        mean_Z,
        covariance_ZZ.diag(),
        (s_NZ / 2).exp().mean(0),
        (marginal_NZ - log_prior_NZ).mean(0),
        to_prior,
        gaussian.item(),
        kl_Z.sum().item() - to_prior,
    )


def shares_of_label(z_ND: Tensor, labels_N: Tensor) -> Tensor:
    """The share of each latent's variance that is between the classes of a label (eta squared): (D,), 0 .. 1.

    By chance alone it is about (classes - 1) / (N - 1).
    """
    z_ND = z_ND.cpu().double()
    classes, class_N = labels_N.unique(return_inverse=True)
    sums_KD = z_ND.new_zeros(len(classes), z_ND.shape[1]).index_add_(0, class_N, z_ND)
    counts_K1 = class_N.bincount().double()[:, None]
    between_D = (counts_K1 * (sums_KD / counts_K1 - z_ND.mean(0)).square()).sum(0)
    total_D = (z_ND - z_ND.mean(0)).square().sum(0)
    return between_D / total_D.clamp(min=torch.finfo(torch.float64).tiny)


def _log_mixture(z_NZ: Tensor, m_NZ: Tensor, s_NZ: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z), (N,), and log q(z_j) of each dimension, (N, Z), q the mean of all N Gaussians."""
    chunk = max(1, MIXTURE_AT_ONCE // m_NZ.numel())
    joint, marginal = [], []
    for part_PZ in z_NZ.split(chunk):
        difference_PNZ = part_PZ[:, None] - m_NZ
        log_PNZ = -0.5 * (difference_PNZ.square() * (-s_NZ).exp() + s_NZ + math.log(2 * math.pi))
        joint.append(log_PNZ.sum(2).logsumexp(1))
        marginal.append(log_PNZ.logsumexp(1))
    log_count = math.log(len(m_NZ))
    return torch.cat(joint) - log_count, torch.cat(marginal) - log_count
