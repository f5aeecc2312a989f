"""The mass that a density on the real line gives to the bin of a level. In nats where they are logarithms.

The point of a level and the width of its bin are those of `images.to_unit`; the outermost bins are open. All
is written to lose no precision in the tails, and to have finite gradients there.

Legend: B batch, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor

from gentrain.runtime.seeding import Random, device_of, drawn

# Where an open bin ends. A number, not infinity: infinity times a derivative of zero would be nan.
OPEN = 1e6


def bin_edges(x_BCHW: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The lower and upper edge of each level's bin, in units of [-1, 1]; -OPEN and OPEN at the ends."""
    # From whole numbers: neighbours share an edge to the last bit, so that the masses sum to one.
    twice_BCHW = x_BCHW.float() * 2
    lower_BCHW = ((twice_BCHW - levels) / (levels - 1)).masked_fill_(x_BCHW == 0, -OPEN)
    upper_BCHW = ((twice_BCHW - levels + 2) / (levels - 1)).masked_fill_(x_BCHW == levels - 1, OPEN)
    return lower_BCHW, upper_BCHW


def logistic_mass(lower: Tensor, upper: Tensor, mean: Tensor, inv_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The mass of a logistic distribution between two edges, as (exponent, factor): exp(exponent) * factor.

    With p = (upper - mean) / scale, m = (lower - mean) / scale and S the logistic function,
        S(p) - S(m) = S(p) S(-m) (1 - exp(m - p)),    S(p) = exp(min(p, 0)) S(|p|),
    which subtracts nothing that could cancel. The exponent (<= 0) carries the tails, linear and so with a
    finite gradient however far; the factor stays within [(1 - exp(m - p)) / 4, 1]. Factors of several
    channels may therefore be multiplied, and mixture components added, before one logarithm a pixel:
    logarithms are what this costs.
    """
    p = (upper - mean) * inv_scale
    m = (lower - mean) * inv_scale
    gap = (upper - lower) * inv_scale
    # minimum and maximum share the gradient at a tie, where |.| gives 0: exact at an edge too.
    zero = p.new_zeros(())
    exponent = torch.minimum(p, zero) - torch.maximum(m, zero)
    # 1 - exp(-gap), without cancellation for small gaps, from functions that are fast on a CPU.
    between = torch.tanh(gap / 2) * (1 + torch.exp(-gap))
    return exponent, torch.sigmoid(p.abs()) * torch.sigmoid(m.abs()) * between


def mills_denominator(y: Tensor) -> Tensor:
    """density(y) / N(-y) for y >= 5, N the normal distribution function: y + 1/(y + 2/(y + 3/(y + ...)))."""
    fraction = y
    for n in range(6, 0, -1):
        fraction = y + n / fraction
    return fraction


def gaussian_log_mass(lower: Tensor, upper: Tensor, mean: Tensor, inv_sigma: Tensor) -> Tensor:
    """log(N(p) - N(m)), N the normal distribution function, p and m the standardised edges.

    Mirrored into the lower tail, where N keeps its precision. Below p = -5 the density is taken out,
    log density(p) + log(1/f(p) - density(m)/density(p)/f(m)), f Laplace's continued fraction above:
    torch.special.log_ndtr's float32 gradient is wrong or nan far out.
    """
    gap = (upper - lower) * inv_sigma
    p = torch.minimum((upper - mean) * inv_sigma, (mean - lower) * inv_sigma)  # mirrored: -m is the nearer
    # Each branch is given -5 where the other is used: `where` must not meet a nan in what it drops.
    in_tail, switch = p < -5, p.new_full((), -5)
    tail_p, body_p = torch.where(in_tail, p, switch), torch.where(in_tail, switch, p)
    ratio = torch.exp(gap * (tail_p - gap / 2)) / mills_denominator(gap - tail_p)
    tail = -0.5 * tail_p.square() - 0.5 * math.log(2 * math.pi)
    tail = tail + torch.log(1 / mills_denominator(-tail_p) - ratio)
    body = torch.erfc(body_p * -(0.5**0.5)) - torch.erfc((gap - body_p) * 0.5**0.5)
    return torch.where(in_tail, tail, torch.log(body.clamp(min=1e-37) / 2))


def uniform_noise(shape: tuple[int, ...], generator: Random | None, like: Tensor) -> Tensor:
    """Uniform on the open interval (0, 1), drawn where the generator is, returned on `like`'s device."""
    noise = drawn(torch.rand, shape, generator, device_of(generator, like))
    return noise.clamp_(2**-25, 1 - 2**-24).to(like.device)
