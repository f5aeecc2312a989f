"""A generative stochastic network: a denoising network whose Markov chain is the model (Bengio et al., arXiv
1306.1091; with the picture as the only state, the generalised denoising autoencoder of arXiv 1305.6663).

Legend: B batch, n pictures, C channels, H height, W width, D numbers in the code, P parameter channels.

    x~ ~ C(x~ | x),   h = encoder(x~) + noise,   x' ~ P(x | h),   and so on from x'

Trained to find x likely given x~: -log P(x | h). If P were the true distribution of the x that a corrupted x~
came from, the chain's stationary distribution would be that of the data (arXiv 1305.6663, theorem 1). There
is no likelihood: nobody can say how often the chain visits a picture.

Walkback (arXiv 1305.6663, algorithm 1): x~ is also taken from some steps down the chain that starts in x, and
must lead back to x. So the network learns to return from where its own chain strays.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gentrain.config.ranges import AtLeast, Between
from gentrain.errors import UserError
from gentrain.images import ImageShape, bits_per_dim, to_levels, to_unit
from gentrain.models.conv import Decoder, Encoder, check_size, keep_scale
from gentrain.models.discretized import uniform_noise
from gentrain.models.likelihoods import Bernoulli, Gaussian, Likelihood, LogisticMixture
from gentrain.runtime.seeding import Random, normal_noise


class GSN(nn.Module):
    """Images in and out are uint8 levels (B, C, H, W); configs/model/gsn.yaml says what each setting is."""

    likelihood_kind = None

    def __init__(
        self,
        shape: ImageShape,
        *,
        latent_dim: Annotated[int, AtLeast(1)],
        width: Annotated[int, AtLeast(1)],
        encoder_blocks: Annotated[int, Between(0, 1000)],
        decoder_blocks: Annotated[int, Between(0, 1000)],
        hidden: Annotated[int, AtLeast(1)],
        output: Literal["gaussian", "logistic_mixture", "bernoulli"],
        mixtures: Annotated[int, AtLeast(1)],
        corruption: Annotated[float, Between(0, 1)],
        hidden_noise: Annotated[float, AtLeast(0)],
        walkback_steps: Annotated[int, Between(1, 1000)],
        sample_steps: Annotated[int, Between(1, 100_000)],
        sample_mode: Literal["mean", "draw"],
    ) -> None:
        super().__init__()
        check_size("gsn", shape)
        if output == "bernoulli" and shape.levels != 2:
            raise UserError(
                f"model.output=bernoulli needs data.levels=2, but data.levels is {shape.levels}: set "
                "data.levels=2, or take model.output=gaussian"
            )
        self.shape, self.latent_dim = shape, latent_dim
        self.corruption, self.hidden_noise = corruption, hidden_noise
        self.walkback_steps, self.sample_steps, self.sample_mode = walkback_steps, sample_steps, sample_mode
        self.likelihood: Likelihood
        if output == "gaussian":
            self.likelihood = Gaussian(shape.channels, shape.levels, "learned", 0.3)
        elif output == "logistic_mixture":
            self.likelihood = LogisticMixture(shape.channels, shape.levels, mixtures)
        else:
            self.likelihood = Bernoulli(shape.channels, shape.levels)
        self.encoder = Encoder(*shape.chw, width, encoder_blocks, hidden, 0.0)
        self.to_code = nn.Linear(self.encoder.features, latent_dim)
        keep_scale(self.to_code, self.encoder.features)
        out = self.likelihood.param_channels
        self.decoder = Decoder(latent_dim, out, shape.height, shape.width, width, decoder_blocks, hidden, 0.0)
        self.decoder.start_at(self.likelihood.initial_params())

    # -- one step of the chain

    def corrupt(self, x_BCHW: Tensor, generator: Random | None) -> Tensor:
        """Salt and pepper: each pixel, with probability `corruption`, becomes one of random levels.

        uint8 (B, C, H, W); a pixel's channels are struck together.
        """
        batch, _, height, width = x_BCHW.shape
        struck = uniform_noise((batch, 1, height, width), generator, x_BCHW) < self.corruption
        uniform_BCHW = uniform_noise(tuple(x_BCHW.shape), generator, x_BCHW)
        random_BCHW = (uniform_BCHW * self.shape.levels).floor().clamp(max=self.shape.levels - 1)
        return torch.where(struck, random_BCHW.to(torch.uint8), x_BCHW)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the encoder makes of clean pictures, before the code: (B, F)."""
        return self.encoder(to_unit(x_BCHW, self.shape.levels))

    def forward(self, corrupted_BCHW: Tensor, noise_BD: Tensor) -> Tensor:
        """uint8 x~ and standard normal noise -> parameter maps of P(x | h), (B, P, H, W).

        h = c + hidden_noise * noise with c the code brought to length sqrt(D), so that no code can grow until
        the noise is nothing beside it.
        """
        code_BD = self.to_code(self.encoder(to_unit(corrupted_BCHW, self.shape.levels))).float()
        code_BD = code_BD * (code_BD.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return self.decoder(code_BD + self.hidden_noise * noise_BD).contiguous()

    def denoise(self, x_BCHW: Tensor, generator: Random | None) -> Tensor:
        """Parameter maps of P(x' | h) for one step of the chain from x, (B, P, H, W)."""
        noise_BD = normal_noise((len(x_BCHW), self.latent_dim), generator, self.to_code.weight)
        return self(self.corrupt(x_BCHW, generator), noise_BD)

    # -- training and evaluation

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """-log P(x | h) in bits per dimension, the mean over the steps of the walk, a scalar.

        The walk draws x' from P(x | h) and goes on from it; no gradient goes through a draw. These bits are
        those of undoing the corruption, and no bound on those of a picture.
        """
        state_BCHW = x_BCHW
        losses = []
        for number in range(self.walkback_steps):
            params_BPHW = self.denoise(state_BCHW, None)
            losses.append(bits_per_dim(self.likelihood.nll(x_BCHW, params_BPHW).mean(), self.shape))
            if number + 1 < self.walkback_steps:
                with torch.no_grad():
                    state_BCHW = self.likelihood.sample(params_BPHW, None)
        loss = torch.stack(losses).mean()
        return loss, {"first_step": losses[0].detach(), "last_step": losses[-1].detach()}

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """`mse`, (B,): squared error per dimension, in [-1, 1], between x and the mean of P(x | h) after one
        corruption of it."""
        mean_BCHW = self.likelihood.mean(self.denoise(x_BCHW, generator))
        return {"mse": (mean_BCHW - to_unit(x_BCHW, self.shape.levels)).square().mean((1, 2, 3))}

    # -- the chain

    @torch.no_grad()
    def chain(
        self,
        start_BCHW: Tensor,
        steps: int,
        generator: Random | None,
        known_11HW: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """What to show after each step, uint8 (B, C, H, W): the mean of P(x | h), or the state, which is
        drawn from it, as sample_mode says. The state stays the start where `known_11HW`, a bool."""
        state_BCHW = start_BCHW
        for _ in range(steps):
            params_BPHW = self.denoise(state_BCHW, generator)
            state_BCHW = self.likelihood.sample(params_BPHW, generator)
            if known_11HW is not None:
                state_BCHW = torch.where(known_11HW, start_BCHW, state_BCHW)
            if self.sample_mode == "draw":
                yield state_BCHW
            else:
                yield to_levels(self.likelihood.mean(params_BPHW), self.shape.levels)

    def noise(self, n: int, generator: Random | None) -> Tensor:
        """Where a chain starts that starts from no picture: uniform random levels, uint8 (n, C, H, W)."""
        uniform = uniform_noise((n, *self.shape.chw), generator, self.to_code.weight)
        return (uniform * self.shape.levels).floor().clamp(max=self.shape.levels - 1).to(torch.uint8)

    @torch.no_grad()
    def sample(self, n: int, generator: Random | None) -> Tensor:
        """uint8 (n, C, H, W), n chains of sample_steps from noise: the last P(x | h)'s mean, or a draw."""
        shown_BCHW = self.noise(n, generator)
        for next_BCHW in self.chain(shown_BCHW, self.sample_steps, generator):
            shown_BCHW = next_BCHW  # one at a time, and not all in memory
        return shown_BCHW

    def samples_in_words(self) -> str:
        what = {"mean": "the mean of the last", "draw": "a draw from the last"}
        return f"{self.sample_steps} steps of the chain from noise; {what[self.sample_mode]} P(x | h)"
