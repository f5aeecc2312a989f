"""Probabilities of a discrete picture, given parameter maps that a network predicted. In nats.

Legend: B batch, C channels, H height, W width, M mixture components, P parameter channels, V levels.

A pixel holds a level 0 .. levels - 1, seen by the formulas as a point of [-1, 1] (`images.to_unit`). A
density on the real line becomes a distribution over levels by giving each level the mass of the bin
around its point, 2 / (levels - 1) wide; the two outermost bins are open, so the masses sum to one.

Everything runs in float32, under autocast too: bfloat16 cannot tell neighbouring levels apart.
"""

import math
from functools import reduce
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.errors import UserError
from gentrain.images import to_levels, to_unit
from gentrain.models.discretized import bin_edges, gaussian_log_mass, logistic_mass, uniform_noise
from gentrain.runtime.seeding import Random

# The floor under scale and sigma, in widths of a level: sharp enough to put 99.9 % on one level, and an
# outlier still costs a finite number of nats. Added, not clamped, so that the gradient never vanishes.
FLOOR_IN_LEVELS = 1 / 16
# The ceiling over log-scales. Scale 3000 is flat over [-1, 1] already; exp() of more would overflow.
MAX_LOG_SCALE = 8.0


SigmaKind = Literal["fixed", "learned", "predicted"]


class Likelihood(Protocol):
    """What a decoder needs of a distribution over pictures. Images are uint8 (B, C, H, W)."""

    param_channels: int
    """P: how many maps the network predicts, all channels together."""

    def initial_params(self) -> Tensor:
        """(P,): where the network's output should start, the same at every pixel."""
        ...

    def nll(self, x_BCHW: Tensor, params_BPHW: Tensor) -> Tensor:
        """-log p(x), nats per image, float32 (B,)."""
        ...

    def mean(self, params_BPHW: Tensor) -> Tensor:
        """The expected picture, float32 (B, C, H, W) in [-1, 1]."""
        ...

    def sample(self, params_BPHW: Tensor, generator: Random | None) -> Tensor:
        """A draw, uint8 (B, C, H, W)."""
        ...


class LogisticMixture(nn.Module):
    """A discretized mixture of logistics (PixelCNN++, arXiv 1701.05517, eq. 2 and section 2.2).

    One mixture index a pixel, shared by the channels. With 3 channels a component's mean of G moves
    linearly with R, and that of B with R and G: p(R, G, B) = sum_k pi_k p_k(R) p_k(G | R) p_k(B | R, G).

    Parameter maps, in this order: M mixture logits, M*C means, M*C raw log-scales, and with 3 channels
    M*3 raw coefficients (tanh gives G <- R, B <- R, B <- G). scale = exp(raw) + FLOOR_IN_LEVELS widths.
    """

    def __init__(self, channels: int, levels: int, mixtures: int) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise UserError(f"data.channels is {channels}, but a logistic mixture needs 1 or 3: set one.")
        self.channels, self.levels, self.mixtures = channels, levels, mixtures
        self.coupled = channels == 3
        self.param_channels = mixtures * (10 if self.coupled else 3)
        self.scale_floor = FLOOR_IN_LEVELS * 2 / (levels - 1)

    def initial_params(self) -> Tensor:
        """Equal weights, means spread over [-0.8, 0.8] (equal components would stay equal), scale 0.2."""
        spread_M = torch.linspace(-0.8, 0.8, self.mixtures) if self.mixtures > 1 else torch.zeros(1)
        params = [torch.zeros(self.mixtures), spread_M.repeat_interleave(self.channels)]
        params.append(torch.full((self.mixtures * self.channels,), math.log(0.2)))
        if self.coupled:
            params.append(torch.zeros(self.mixtures * 3))
        return torch.cat(params)

    def _split(self, params_BPHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, M, H, W); means, scales (B, M, C, H, W), coefficients (B, M, 3 or 0, H, W); float32, or
        float64 if the parameters are."""
        m, c, links = self.mixtures, self.channels, 3 if self.coupled else 0
        params_BPHW = params_BPHW.to(torch.promote_types(params_BPHW.dtype, torch.float32))
        logits_BMHW, *rest = params_BPHW.split([m, m * c, m * c, m * links], dim=1)
        means, raw_scales, raw_coefs = (
            maps.unflatten(1, (m, n)) for maps, n in zip(rest, (c, c, links), strict=True)
        )
        scales = raw_scales.clamp(max=MAX_LOG_SCALE).exp() + self.scale_floor
        return logits_BMHW, means, scales, torch.tanh(raw_coefs)

    @staticmethod
    def _mean_given(c: int, means: Tensor, coefs: Tensor, earlier: list[Tensor]) -> Tensor:
        """Channel c's component means, given the channels before it (in [-1, 1])."""
        mean = means.select(2, c)
        for j in range(c):
            mean = mean + coefs.select(2, c * (c - 1) // 2 + j) * earlier[j]
        return mean

    def nll(self, x_BCHW: Tensor, params_BPHW: Tensor) -> Tensor:
        """-log p(x), nats per image (B,). Each pixel needs one log-sum-exp over its components."""
        with torch.autocast(params_BPHW.device.type, enabled=False):
            logits_BMHW, means, scales, coefs = self._split(params_BPHW)
            lower_B1CHW, upper_B1CHW = (edge.unsqueeze(1) for edge in bin_edges(x_BCHW, self.levels))
            unit = list(to_unit(x_BCHW, self.levels).split(1, dim=1))  # C times (B, 1, H, W)
            given = [self._mean_given(c, means, coefs, unit) for c in range(self.channels)]
            means = torch.stack(given, dim=2)
            exponents, factors = logistic_mass(lower_B1CHW, upper_B1CHW, means, scales.reciprocal())
            exponent_BMHW = logits_BMHW + exponents.sum(2)
            factor_BMHW = reduce(torch.mul, factors.unbind(2))
            top_B1HW = exponent_BMHW.detach().amax(1, keepdim=True)
            mass_BHW = ((exponent_BMHW - top_B1HW).exp() * factor_BMHW).sum(1)
            log_p_BHW = mass_BHW.log() + top_B1HW.squeeze(1) - logits_BMHW.logsumexp(1)
            return -log_p_BHW.sum((1, 2))

    def level_log_mass(self, params_BP: Tensor, channel: int, earlier_BC: Tensor) -> Tensor:
        """log p(level | the channels before it), nats (B, V), of every level of one channel of single pixels.

        `earlier_BC` holds the levels of at least `channel` channels. They change what is left to draw in two
        ways: they move the means, and they say which component the pixel may have come from,
            p(x_c | x_<c) = sum_k w_k p_k(x_c | x_<c),    w_k ~ pi_k prod_{j<c} p_k(x_j | x_<j).
        """
        with torch.autocast(params_BP.device.type, enabled=False):
            logits_BM11, means, scales, coefs = self._split(params_BP[:, :, None, None])
            inv_scales = scales.reciprocal()
            earlier = list(earlier_BC[:, :channel, None, None].split(1, dim=1))  # each (B, 1, 1, 1)
            unit = [to_unit(level, self.levels) for level in earlier]
            log_weight_BM11 = logits_BM11
            for j in range(channel):
                exponent, factor = logistic_mass(
                    *bin_edges(earlier[j], self.levels),
                    self._mean_given(j, means, coefs, unit),
                    inv_scales.select(2, j),
                )
                log_weight_BM11 = log_weight_BM11 + exponent + factor.log()
            log_weight_BM11 = log_weight_BM11 - log_weight_BM11.logsumexp(1, keepdim=True)
            all_levels = torch.arange(self.levels, device=params_BP.device).view(1, 1, 1, -1)
            exponent_BM1V, factor_BM1V = logistic_mass(
                *bin_edges(all_levels, self.levels),
                self._mean_given(channel, means, coefs, unit),
                inv_scales.select(2, channel),
            )
            exponent_BM1V = exponent_BM1V + log_weight_BM11
            top_B11V = exponent_BM1V.amax(1, keepdim=True)
            mass_B1V = ((exponent_BM1V - top_B11V).exp() * factor_BM1V).sum(1)
            return (mass_B1V.log() + top_B11V.squeeze(1)).squeeze(1)

    def mean(self, params_BPHW: Tensor) -> Tensor:
        """The expected picture before rounding to levels, (B, C, H, W) in [-1, 1].

        A logistic clamped to [-1, 1] has mean 1 - (its distribution function integrated over [-1, 1]).
        A later channel's mean uses the earlier channels' means in place of their values.
        """
        with torch.autocast(params_BPHW.device.type, enabled=False):
            logits_BMHW, means, scales, coefs = self._split(params_BPHW)
            earlier: list[Tensor] = []
            for c in range(self.channels):
                mean, scale = self._mean_given(c, means, coefs, earlier), scales.select(2, c)
                below = F.softplus((1 - mean) / scale) - F.softplus((-1 - mean) / scale)
                earlier.append((1 - scale * below).clamp(-1, 1))
            weights_BM1HW = logits_BMHW.softmax(1).unsqueeze(2)
            return (weights_BM1HW * torch.stack(earlier, dim=2)).sum(1).clamp(-1, 1)

    def sample(self, params_BPHW: Tensor, generator: Random | None) -> Tensor:
        """A draw, uint8 (B, C, H, W): a component a pixel, then its channels, each given those before."""
        with torch.autocast(params_BPHW.device.type, enabled=False):
            logits_BMHW, means, scales, coefs = self._split(params_BPHW)
            gumbel_BMHW = -(-uniform_noise(tuple(logits_BMHW.shape), generator, logits_BMHW).log()).log()
            chosen_B1HW = (logits_BMHW + gumbel_BMHW).argmax(1, keepdim=True)
            drawn: list[Tensor] = []
            for c in range(self.channels):
                mean = self._mean_given(c, means, coefs, drawn).gather(1, chosen_B1HW)
                scale = scales.select(2, c).gather(1, chosen_B1HW)
                logistic = torch.logit(uniform_noise(tuple(mean.shape), generator, mean))
                # Rounded before the next channel sees it: the likelihood too is given the level.
                drawn.append(to_unit(to_levels(mean + scale * logistic, self.levels), self.levels))
            return to_levels(torch.cat(drawn, dim=1), self.levels)


class Gaussian(nn.Module):
    """A discretized normal distribution for each value, all independent.

    sigma, in units of [-1, 1]: "fixed" at sigma_value; "learned", one free number a channel that starts
    there; or "predicted" by the network for each value, starting there. Only fixed sigmas may be below
    FLOOR_IN_LEVELS widths of a level. Parameter maps: C means, and with "predicted" C raw log-sigmas.
    """

    def __init__(self, channels: int, levels: int, sigma: SigmaKind, sigma_value: float) -> None:
        super().__init__()
        self.channels, self.levels, self.sigma, self.sigma_value = channels, levels, sigma, sigma_value
        self.param_channels = channels * (2 if sigma == "predicted" else 1)
        self.sigma_floor = FLOOR_IN_LEVELS * 2 / (levels - 1)
        self.raw_start = math.log(max(sigma_value - self.sigma_floor, 1e-3 * self.sigma_floor))
        if sigma == "learned":
            self.raw_sigma_C = nn.Parameter(torch.full((channels,), self.raw_start))

    def initial_params(self) -> Tensor:
        raw_sigmas = torch.full((self.param_channels - self.channels,), self.raw_start)
        return torch.cat([torch.zeros(self.channels), raw_sigmas])

    def _split(self, params_BPHW: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, C, H, W) and sigmas that broadcast against them, in float32."""
        params_BPHW = params_BPHW.float()
        mean_BCHW = params_BPHW[:, : self.channels]
        if self.sigma == "fixed":
            return mean_BCHW, mean_BCHW.new_full((), self.sigma_value)
        raw = params_BPHW[:, self.channels :]
        if self.sigma == "learned":
            raw = self.raw_sigma_C.float().view(1, -1, 1, 1)
        return mean_BCHW, raw.clamp(max=MAX_LOG_SCALE).exp() + self.sigma_floor

    def nll(self, x_BCHW: Tensor, params_BPHW: Tensor) -> Tensor:
        """-log p(x), nats per image (B,)."""
        with torch.autocast(params_BPHW.device.type, enabled=False):
            mean_BCHW, sigma = self._split(params_BPHW)
            lower_BCHW, upper_BCHW = bin_edges(x_BCHW, self.levels)
            return -gaussian_log_mass(lower_BCHW, upper_BCHW, mean_BCHW, sigma.reciprocal()).sum((1, 2, 3))

    def mean(self, params_BPHW: Tensor) -> Tensor:
        """The normal's mean clamped to [-1, 1], (B, C, H, W): its most likely picture, before rounding."""
        return self._split(params_BPHW)[0].clamp(-1, 1)

    def sample(self, params_BPHW: Tensor, generator: Random | None) -> Tensor:
        """A draw, uint8 (B, C, H, W)."""
        with torch.autocast(params_BPHW.device.type, enabled=False):
            mean_BCHW, sigma = self._split(params_BPHW)
            normal = torch.special.ndtri(uniform_noise(tuple(mean_BCHW.shape), generator, mean_BCHW))
            return to_levels(mean_BCHW + sigma * normal, self.levels)


class Bernoulli(nn.Module):
    """Independent coin flips, for pictures of two levels. Parameter maps: C logits of level 1."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        if levels != 2:
            raise UserError(
                f"model.likelihood=bernoulli needs data.levels=2, but data.levels is {levels}: "
                "set data.levels=2, or take model.likelihood=logistic_mixture."
            )
        self.param_channels = channels

    def initial_params(self) -> Tensor:
        return torch.zeros(self.param_channels)

    def nll(self, x_BCHW: Tensor, params_BPHW: Tensor) -> Tensor:
        """-log p(x), nats per image (B,)."""
        with torch.autocast(params_BPHW.device.type, enabled=False):
            x_BCHW = x_BCHW.float()
            nats_BCHW = F.binary_cross_entropy_with_logits(params_BPHW.float(), x_BCHW, reduction="none")
            return nats_BCHW.sum((1, 2, 3))

    def mean(self, params_BPHW: Tensor) -> Tensor:
        """2 P(level 1) - 1 = tanh(logit / 2), (B, C, H, W) in [-1, 1]."""
        return torch.tanh(params_BPHW.float() / 2)

    def sample(self, params_BPHW: Tensor, generator: Random | None) -> Tensor:
        """A draw, uint8 (B, C, H, W)."""
        uniform = uniform_noise(tuple(params_BPHW.shape), generator, params_BPHW)
        return (uniform < params_BPHW.float().sigmoid()).to(torch.uint8)
