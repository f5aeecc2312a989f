"""A mixture of factor analysers: Gaussians whose covariance is low rank plus diagonal (Ghahramani and Hinton,
1996; on pictures: Richardson and Weiss, arXiv 1805.12462). The explicit baseline that a VAE generalises.

Legend: B batch, N pictures, C channels, H height, W width, D = C*H*W, K components, R factors.

    p(y) = sum_k pi_k N(y; mu_k, F_k F_k^T + diag psi_k),    y = 2 (x + u) / levels - 1,  u ~ U[0, 1)^D

A density says nothing of a discrete picture until uniform noise u is added (Theis et al., arXiv 1511.01844,
section 3.1). P(x) is then the mass of the cell that x + u lies in, and by Jensen's inequality

    -log P(x) <= E_u[-log p(y)] - D log(2 / levels)

so what is reported is an upper bound, although log p(y) itself is exact.
"""

import math
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn

from gentrain.config.ranges import AtLeast
from gentrain.errors import UserError
from gentrain.images import ImageShape, bits_per_dim
from gentrain.models.discretized import uniform_noise
from gentrain.models.gmm_init import start_mixture
from gentrain.runtime.seeding import Random, drawn, normal_noise

# Log-variances lie in about [-12, 0], means in [-1, 1]; Adam moves all parameters by the same step.
LOG_SPEED = 4.0
MAX_LOG_VARIANCE = 8.0
# Numbers held at once in evaluation, (K, B, D): bounds its memory, 64 MB a copy.
CHUNK = 2**24


class GMM(nn.Module):
    """Images in and out are uint8 levels (B, C, H, W); configs/model/gmm.yaml says what each setting is."""

    likelihood_kind = "bound"

    def __init__(
        self,
        shape: ImageShape,
        *,
        components: Annotated[int, AtLeast(1)],
        factors: Annotated[int, AtLeast(0)],
        start: Literal["kmeans", "random"],
        sample_mode: Literal["draw", "mean"],
    ) -> None:
        super().__init__()
        if factors >= shape.dims:
            raise UserError(
                f"model.factors={factors} is not possible: pictures of {shape.dims} numbers have fewer than "
                f"{shape.dims} factors"
            )
        self.shape, self.start, self.sample_mode = shape, start, sample_mode
        # The variance of the uniform noise within a cell, (2 / levels)^2 / 12. With psi above it no variance
        # can shrink to nothing, and no constant pixel make the density infinite; data that has this noise in
        # it needs no smaller one.
        self.floor = (2 / shape.levels) ** 2 / 12
        dims = shape.dims
        self.logit_K = nn.Parameter(torch.zeros(components))
        self.mean_KD = nn.Parameter(0.1 * torch.randn(components, dims))
        self.axis_KDR = nn.Parameter(0.01 * torch.randn(components, dims, factors))
        # The length of an axis, beside its D numbers. Their gradients' noise makes it grow, and costs so
        # few nats (the logarithm of a length, against a sum over D) that they alone would not mend it.
        self.raw_length_KR = nn.Parameter(torch.zeros(components, factors))
        self.raw_psi_KD = nn.Parameter(torch.zeros(components, dims))

    # -- the density

    def psi(self) -> Tensor:
        """The diagonal part of the covariances, (K, D), above the floor."""
        raw_KD = self.raw_psi_KD.float() * LOG_SPEED
        return raw_KD.clamp(max=MAX_LOG_VARIANCE).exp() + self.floor

    def factors(self) -> Tensor:
        """F, (K, D, R)."""
        length_KR = (self.raw_length_KR.float() * LOG_SPEED).clamp(max=MAX_LOG_VARIANCE).exp()
        return self.axis_KDR.float() * length_KR[:, None]

    def log_joint(self, y_BD: Tensor) -> Tensor:
        """log pi_k + log N(y; component k), nats (B, K), in float32 under autocast too.

        With m = M^-1 F^T psi^-1 d, d = y - mu and M = I + F^T psi^-1 F (R, R), the matrix lemmas say
            d^T Sigma^-1 d = |d - F m|^2 / psi + |m|^2,    log det Sigma = log det M + sum log psi.
        The quadratic form is a sum of squares, so nothing cancels; and m minimises it, so that neither its
        rounding nor its gradient counts.
        """
        with torch.autocast(y_BD.device.type, enabled=False):
            psi_KD, factor_KDR = self.psi(), self.factors()
            d_KBD = y_BD - self.mean_KD.float()[:, None]
            m_KBR, half_logdet_K = self._posterior(psi_KD, factor_KDR, d_KBD.detach())
            rest_KBD = torch.baddbmm(d_KBD, m_KBR, factor_KDR.transpose(1, 2), alpha=-1)
            square_KB = torch.einsum("kbd,kbd,kd->kb", rest_KBD, rest_KBD, psi_KD.reciprocal())
            square_KB = square_KB + m_KBR.square().sum(2)
            half_logdet_K = half_logdet_K + 0.5 * psi_KD.log().sum(1)
            constant = 0.5 * self.shape.dims * math.log(2 * math.pi)
            log_p_KB = -0.5 * square_KB - half_logdet_K[:, None] - constant
            return (log_p_KB + self.logit_K.float().log_softmax(0)[:, None]).T

    def _posterior(self, psi_KD: Tensor, factor_KDR: Tensor, d_KBD: Tensor) -> tuple[Tensor, Tensor]:
        """m, detached (K, B, R), and log det M / 2, (K,). M is near singular next to its largest numbers, so
        it is factorised in float64 where the device has it."""
        wide = torch.float32 if psi_KD.device.type == "mps" else torch.float64
        scaled_KDR = factor_KDR.to(wide) * psi_KD.to(wide).rsqrt()[..., None]
        eye_RR = torch.eye(factor_KDR.shape[2], dtype=wide, device=psi_KD.device)
        root_KRR, failed_K = torch.linalg.cholesky_ex(eye_RR + scaled_KDR.transpose(1, 2) @ scaled_KDR)
        # Of weights that are not finite there is none: figures are NaN then, as those of any other family.
        root_KRR = torch.where((failed_K == 0)[:, None, None], root_KRR, math.nan)
        with torch.no_grad():
            right_KBR = d_KBD @ (factor_KDR / psi_KD[..., None])
            m_KRB = torch.cholesky_solve(right_KBR.to(wide).transpose(1, 2), root_KRR)
        half_logdet_K = root_KRR.diagonal(dim1=1, dim2=2).log().sum(1)
        return m_KRB.transpose(1, 2).to(psi_KD.dtype), half_logdet_K.to(psi_KD.dtype)

    def log_density(self, y_BD: Tensor) -> Tensor:
        """log p(y), nats (B,), of points with pixels in [-1, 1]; exact."""
        return self.log_joint(y_BD).logsumexp(1)

    def forward(self, x_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """-log p(y) - D log(2 / levels), nats (B,), at noise u in [0, 1): a bound on -log P(x) on average."""
        y_BD = (x_BCHW + noise_BCHW).flatten(1) * (2 / self.shape.levels) - 1
        return -self.log_density(y_BD) - self.shape.dims * math.log(2 / self.shape.levels)

    # -- training and evaluation

    def init_from_data(self, x_NCHW: Tensor, generator: Generator) -> None:
        """k-means, and the principal axes of each cluster, unless `model.start` is random."""
        if self.start == "random":
            return
        y_ND = (x_NCHW.flatten(1) + 0.5) * (2 / self.shape.levels) - 1
        components, _, factors = self.axis_KDR.shape
        begun = start_mixture(y_ND, components, factors, generator)
        with torch.no_grad():
            self.logit_K.copy_(begun.weight_K.log())
            self.mean_KD.copy_(begun.mean_KD)
            self.axis_KDR.copy_(begun.factor_KDR)
            self.raw_length_KR.zero_()
            # The variance that is left, without that of the noise within a cell, which the floor adds.
            self.raw_psi_KD.copy_(begun.rest_KD.clamp(min=0.1 * self.floor).log() / LOG_SPEED)

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Bits per dimension, an upper bound with one draw of the noise, a scalar: also the metric."""
        noise_BCHW = drawn(torch.rand, tuple(x_BCHW.shape), None, x_BCHW.device)
        bits = bits_per_dim(self(x_BCHW, noise_BCHW).mean(), self.shape)
        return bits, {"bits_per_dim": bits.detach()}

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """`nats`, (B,): an upper bound on -log P(x) in expectation, with one draw of the noise an image."""
        noise_BCHW = uniform_noise(tuple(x_BCHW.shape), generator, self.mean_KD)
        at_once = max(1, CHUNK // self.mean_KD.numel())
        parts = zip(x_BCHW.split(at_once), noise_BCHW.split(at_once), strict=True)
        return {"nats": torch.cat([self(x, noise) for x, noise in parts])}

    @torch.no_grad()
    def importance_nats(self, x_BCHW: Tensor, k: int, generator: Random | None) -> Tensor:
        """-log 1/k sum_i p(y_i) with k draws of the noise, nats (B,): eq. 8 of arXiv 1509.00519.

        At k = 1 the bound of `evaluate`; as k grows it falls, in expectation, towards -log P(x).
        """
        draws_KB = torch.stack([self.evaluate(x_BCHW, generator)["nats"] for _ in range(k)])
        return math.log(k) - (-draws_KB).logsumexp(0)

    # -- pictures

    @torch.no_grad()
    def sample(self, n: int, generator: Random | None) -> Tensor:
        """uint8 (n, C, H, W): a component, a point of it, and the level whose cell that lies in.

        Exact but for points outside of [-1, 1], which become the outermost levels. sample_mode "mean" leaves
        out the pixels' own noise, psi: smoother, and no draw from the model.
        """
        uniform_B = uniform_noise((n,), generator, self.mean_KD)
        edges_K = self.logit_K.float().softmax(0).cumsum(0)
        k_B = torch.searchsorted(edges_K, uniform_B).clamp(max=len(edges_K) - 1)
        z_BR = normal_noise((n, self.axis_KDR.shape[2]), generator, self.mean_KD)
        noise_BD = normal_noise((n, self.shape.dims), generator, self.mean_KD)
        y_ND, factor_KDR = self.mean_KD[k_B], self.factors()
        # Component by component: a copy of the factors for each picture would be large.
        for k in k_B.unique():
            y_ND[k_B == k] += z_BR[k_B == k] @ factor_KDR[k].T
        if self.sample_mode == "draw":
            y_ND = y_ND + self.psi()[k_B].sqrt() * noise_BD
        levels_ND = ((y_ND + 1) * (self.shape.levels / 2)).floor().clamp(0, self.shape.levels - 1)
        return levels_ND.to(torch.uint8).view(n, *self.shape.chw)

    def samples_in_words(self) -> str:
        what = {"draw": "draws from the density", "mean": "draws without the pixels' own noise"}
        return f"{what[self.sample_mode]}, rounded to levels and clamped to the range of pixels"
