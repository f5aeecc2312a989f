"""The variational autoencoder (Kingma and Welling, arXiv 1312.6114).

Legend: B batch, C channels, H height, W width, Z latent dimensions, F features, P parameter channels,
K importance samples. `s` is the LOG-VARIANCE of q(z|x): z = m + exp(s/2) e, and docs/vae.md says what
goes wrong when the two conventions are mixed.

    log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)),    p(z) = N(0, I),  q(z|x) = N(m(x), diag exp(s(x)))
"""

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gentrain.config.ranges import Above, AtLeast, Between
from gentrain.images import ImageShape, bits_per_dim, to_levels, to_unit
from gentrain.models.conv import Decoder, Encoder, check_size, keep_scale
from gentrain.models.likelihoods import Bernoulli, Gaussian, Likelihood, LogisticMixture
from gentrain.runtime.distributed import in_place_of, mean_over_processes
from gentrain.runtime.seeding import Random, normal_noise

# s is clamped to [-20, 20]: a standard deviation of 5e-5 .. 2e4, outside of which exp(s) soon leaves
# float32. The clamped s both draws z and enters the KL, so q stays one Gaussian and the bound a bound.
MAX_LOG_VARIANCE = 20.0
# Decoder outputs held at once by `importance_nats`: bounds its memory (64 MB a copy), whatever k is.
IMPORTANCE_CHUNK = 2**24


def kl_to_prior(m_BZ: Tensor, s_BZ: Tensor) -> Tensor:
    """KL(N(m, diag exp(s)) || N(0, I)) of each dimension, nats (B, Z): 1/2 (exp(s) - 1 - s + m^2)."""
    return 0.5 * (torch.expm1(s_BZ) - s_BZ + m_BZ.square())


class VAE(nn.Module):
    """Images in and out are uint8 levels (B, C, H, W); configs/model/vae.yaml says what each setting is."""

    likelihood_kind = "bound"

    def __init__(
        self,
        shape: ImageShape,
        *,
        latent_dim: Annotated[int, AtLeast(1)],
        width: Annotated[int, AtLeast(1)],
        encoder_blocks: Annotated[int, Between(0, 1000)],
        decoder_blocks: Annotated[int, Between(0, 1000)],
        hidden: Annotated[int, AtLeast(1)],
        dropout: Annotated[float, Between(0, 0.9)],
        likelihood: Literal["logistic_mixture", "gaussian", "bernoulli"],
        mixtures: Annotated[int, AtLeast(1)],
        sigma: Literal["fixed", "learned", "predicted"],
        sigma_value: Annotated[float, Above(0)],
        beta: Annotated[float, AtLeast(0)],
        kl_warmup_steps: Annotated[int, AtLeast(0)],
        free_bits: Annotated[float, AtLeast(0)],
        sample_mode: Literal["mean", "draw"],
    ) -> None:
        super().__init__()
        check_size("vae", shape)
        self.shape, self.latent_dim, self.sample_mode = shape, latent_dim, sample_mode
        self.beta, self.kl_warmup_steps, self.free_bits = beta, kl_warmup_steps, free_bits
        self.likelihood = _build_likelihood(shape, likelihood, mixtures, sigma, sigma_value)
        self.encoder = Encoder(*shape.chw, width, encoder_blocks, hidden, dropout)
        self.to_posterior = nn.Linear(self.encoder.features, 2 * latent_dim)
        keep_scale(self.to_posterior, self.encoder.features)
        self.decoder = Decoder(
            latent_dim,
            self.likelihood.param_channels,
            shape.height,
            shape.width,
            width,
            decoder_blocks,
            hidden,
            dropout,
        )
        self.decoder.start_at(self.likelihood.initial_params())

    # -- the two networks

    def features(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> the encoder's last hidden layer, (B, F)."""
        return self.encoder(to_unit(x_BCHW, self.shape.levels))

    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images -> m and s of q(z|x), float32 (B, Z) each."""
        features_BF = self.features(x_BCHW)
        m_BZ, s_BZ = self.to_posterior(features_BF).float().chunk(2, dim=1)
        return m_BZ, s_BZ.clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def decode_params(self, z_BZ: Tensor) -> Tensor:
        """Latents -> the likelihood's parameter maps (B, P, H, W)."""
        # The likelihood works map by map: channels-last maps would be strided.
        return self.decoder(z_BZ).contiguous()

    def forward(self, x_BCHW: Tensor, noise_BZ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> -log p(x|z) at z = m + exp(s/2) noise, nats (B,); m and s of q(z|x), (B, Z) each.

        All that is heavy and differentiable, in one call: this is what `module.compile()` compiles.
        """
        m_BZ, s_BZ = self.posterior(x_BCHW)
        params_BPHW = self.decode_params(m_BZ + (s_BZ / 2).exp() * noise_BZ)
        return self.likelihood.nll(x_BCHW, params_BPHW), m_BZ, s_BZ

    # -- training

    def beta_at(self, step: int) -> float:
        """The weight of the KL at a step, counted from 0: reaches beta after kl_warmup_steps steps."""
        if self.kl_warmup_steps == 0:
            return self.beta
        return self.beta * min(1.0, (step + 1) / self.kl_warmup_steps)

    @torch.no_grad()
    def batch_means(self, x_BCHW: Tensor) -> Tensor | None:
        """The mean KL of each dimension, nats (Z,), where free bits make the loss a function of it."""
        return kl_to_prior(*self.posterior(x_BCHW)).mean(0) if self.free_bits else None

    def train_loss(
        self, x_BCHW: Tensor, step: int, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective in bits per dimension, a scalar, and detached metrics, means over the batch.

        Objective: nll + beta_t * sum_j max(free_bits, KL_j), KL_j the batch's mean KL of dimension j
        (Kingma et al., arXiv 1606.04934, appendix C.8, with one dimension a group). The metrics ignore
        beta and free bits: `bits_per_dim` is the bound itself, `nll_nats` and `kl_nats` are per image.
        `whole`: what `batch_means` is over all parts of the batch, of which `x_BCHW` is one.
        """
        noise_BZ = normal_noise((len(x_BCHW), self.latent_dim), None, x_BCHW)
        nll_B, m_BZ, s_BZ = self(x_BCHW, noise_BZ)
        kl_Z = kl_to_prior(m_BZ, s_BZ).mean(0)
        if self.free_bits:  # what is free is decided by the mean over all parts and processes
            kl_Z = mean_over_processes(kl_Z) if whole is None else in_place_of(kl_Z, whole)
        nll, kl = nll_B.mean(), kl_Z.sum()
        penalty = kl_Z.clamp(min=self.free_bits).sum()
        loss = bits_per_dim(nll + self.beta_at(step) * penalty, self.shape)
        bound = bits_per_dim(nll + kl, self.shape)
        metrics = {"bits_per_dim": bound, "nll_nats": nll, "kl_nats": kl}
        return loss, {name: value.detach() for name, value in metrics.items()}

    # -- evaluation

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """One value an image, float32 (B,).

        `nats`: the negative ELBO with one draw of z, an upper bound on -log p(x) in expectation;
        `nll_nats` and `kl_nats`, its two terms; `mse`: the mean squared error per dimension between x
        and the decoder's mean at z = m, both in [-1, 1].
        """
        m_BZ, s_BZ = self.posterior(x_BCHW)
        z_BZ = m_BZ + (s_BZ / 2).exp() * normal_noise(tuple(m_BZ.shape), generator, m_BZ)
        nll_B = self.likelihood.nll(x_BCHW, self.decode_params(z_BZ))
        kl_B = kl_to_prior(m_BZ, s_BZ).sum(1)
        mean_BCHW = self.likelihood.mean(self.decode_params(m_BZ))
        mse_B = (mean_BCHW - to_unit(x_BCHW, self.shape.levels)).square().mean((1, 2, 3))
        return {"nats": nll_B + kl_B, "nll_nats": nll_B, "kl_nats": kl_B, "mse": mse_B}

    @torch.no_grad()
    def importance_nats(self, x_BCHW: Tensor, k: int, generator: Random | None) -> Tensor:
        """The importance-weighted bound of Burda et al. (arXiv 1509.00519, eq. 8), negated: nats (B,).

        -log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x), z_i ~ q. At k = 1 the ELBO with its KL sampled; as k
        grows it falls, in expectation, towards -log p(x).
        """
        m_BZ, s_BZ = self.posterior(x_BCHW)
        batch = len(x_BCHW)
        log_sum_B = m_BZ.new_full((batch,), -math.inf)
        maps = self.likelihood.param_channels * self.shape.height * self.shape.width
        at_once = max(1, IMPORTANCE_CHUNK // (maps * max(1, batch)))
        for start in range(0, k, at_once):
            chunk = min(at_once, k - start)
            noise_BKZ = normal_noise((batch, chunk, self.latent_dim), generator, m_BZ)
            noise_KBZ = noise_BKZ.transpose(0, 1)  # drawn a row an image, whatever the chunks are
            z_KBZ = m_BZ + (s_BZ / 2).exp() * noise_KBZ
            params = self.decode_params(z_KBZ.flatten(0, 1))
            nll_KB = self.likelihood.nll(x_BCHW.repeat(chunk, 1, 1, 1), params).view(chunk, batch)
            # log p(z) - log q(z|x): the two (2 pi) terms cancel.
            log_ratio_KB = 0.5 * (s_BZ + noise_KBZ.square() - z_KBZ.square()).sum(2)
            log_sum_B = torch.logaddexp(log_sum_B, (log_ratio_KB - nll_KB).logsumexp(0))
        return math.log(k) - log_sum_B

    # -- pictures

    @torch.no_grad()
    def encode(self, x_BCHW: Tensor) -> Tensor:
        """The posterior's mean, float32 (B, Z)."""
        return self.posterior(x_BCHW)[0]

    def render(self, z_BZ: Tensor) -> Tensor:
        """The decoder's mean picture, float (B, C, H, W) in [-1, 1], differentiable."""
        return self.likelihood.mean(self.decode_params(z_BZ))

    @torch.no_grad()
    def decode(self, z_BZ: Tensor) -> Tensor:
        """The same, rounded: uint8 (B, C, H, W)."""
        return to_levels(self.render(z_BZ), self.shape.levels)

    def reconstruct(self, x_BCHW: Tensor) -> Tensor:
        """The decoder's mean picture at the posterior's mean, uint8 (B, C, H, W)."""
        return self.decode(self.encode(x_BCHW))

    def draw_codes(self, n: int, generator: Random | None) -> Tensor:
        """z ~ N(0, I), (n, Z)."""
        return normal_noise((n, self.latent_dim), generator, self.to_posterior.weight)

    @torch.no_grad()
    def sample(self, n: int, generator: Random | None) -> Tensor:
        """uint8 (n, C, H, W) at z ~ N(0, I): the decoder's mean, or a draw, as sample_mode says."""
        z_BZ = self.draw_codes(n, generator)
        if self.sample_mode == "mean":
            return self.decode(z_BZ)
        return self.likelihood.sample(self.decode_params(z_BZ), generator)

    def samples_in_words(self) -> str:
        what = {"mean": "the mean of p(x|z), which is no draw from the model", "draw": "draws from p(x|z)"}
        return f"{what[self.sample_mode]}, at z from N(0, I)"


def _build_likelihood(
    shape: ImageShape,
    likelihood: Literal["logistic_mixture", "gaussian", "bernoulli"],
    mixtures: int,
    sigma: Literal["fixed", "learned", "predicted"],
    sigma_value: float,
) -> Likelihood:
    if likelihood == "logistic_mixture":
        return LogisticMixture(shape.channels, shape.levels, mixtures)
    if likelihood == "gaussian":
        return Gaussian(shape.channels, shape.levels, sigma, sigma_value)
    return Bernoulli(shape.channels, shape.levels)
