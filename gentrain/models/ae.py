"""The autoencoder: a picture through a narrow code and back (Hinton and Salakhutdinov, Science 2006).

Legend: B batch, N pictures, C channels, H height, W width, D numbers in a code.

    z = encoder(x~),   minimise  mean (decoder(z) - x)^2 + l1 * mean |z|,   both means over all numbers

x~ is x itself, or x with noise added (the denoising autoencoder, Vincent et al., ICML 2008). Pixels are in
[-1, 1]. There is no likelihood, hence no bits per dimension; and no prior over codes either, so a sample is
decoded from a draw of the Gaussian that has the mean and covariance of the training pictures' codes.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gentrain.config.ranges import AtLeast, Between
from gentrain.errors import UserError
from gentrain.images import ImageShape, to_levels, to_unit
from gentrain.models.conv import Decoder, Encoder, check_size, keep_scale
from gentrain.models.dense import DenseDecoder, DenseEncoder
from gentrain.runtime.seeding import Random, drawn, normal_noise, normal_noise_like


class AE(nn.Module):
    """Images in and out are uint8 levels (B, C, H, W); configs/model/ae.yaml says what each setting is."""

    likelihood_kind = None

    def __init__(
        self,
        shape: ImageShape,
        *,
        network: Literal["conv", "mlp"],
        latent_dim: Annotated[int, AtLeast(1)],
        width: Annotated[int, AtLeast(1)],
        encoder_blocks: Annotated[int, Between(0, 1000)],
        decoder_blocks: Annotated[int, Between(0, 1000)],
        hidden: Annotated[int, AtLeast(1)],
        layers: Annotated[int, Between(0, 1000)],
        dropout: Annotated[float, Between(0, 0.9)],
        noise: Literal["none", "gaussian", "masking"],
        noise_level: Annotated[float, AtLeast(0)],
        l1: Annotated[float, AtLeast(0)],
    ) -> None:
        super().__init__()
        if noise == "masking" and noise_level > 1:
            raise UserError(
                f"model.noise_level={noise_level} is not possible with model.noise=masking: it is the "
                "probability that a pixel is hidden, so at most 1"
            )
        self.shape, self.latent_dim = shape, latent_dim
        self.noise, self.noise_level, self.l1 = noise, noise_level, l1
        self.encoder: Encoder | DenseEncoder
        self.decoder: Decoder | DenseDecoder
        if network == "conv":
            check_size("ae", shape)
            self.encoder = Encoder(*shape.chw, width, encoder_blocks, hidden, dropout)
            self.decoder = Decoder(latent_dim, *shape.chw, width, decoder_blocks, hidden, dropout)
        else:
            self.encoder = DenseEncoder(shape.dims, hidden, layers, dropout)
            self.decoder = DenseDecoder(latent_dim, shape.chw, hidden, layers, dropout)
        self.to_code = nn.Linear(self.encoder.features, latent_dim)
        keep_scale(self.to_code, self.encoder.features)
        self.decoder.start_at(torch.zeros(shape.channels))
        # The Gaussian that samples are decoded from: code = mean + root @ standard normal.
        self.code_mean_D: Tensor
        self.code_root_DD: Tensor
        self.code_count: Tensor
        self.register_buffer("code_mean_D", torch.zeros(latent_dim))
        self.register_buffer("code_root_DD", torch.eye(latent_dim))
        self.register_buffer("code_count", torch.zeros((), dtype=torch.int64))

    # -- training

    def forward(self, noisy_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Float pictures -> what the decoder makes of their codes, float32 (B, C, H, W), and those (B, D)."""
        z_BD = self.to_code(self.encoder(noisy_BCHW)).float()
        return self.decoder(z_BD).float(), z_BD

    def corrupt(self, unit_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1] with the noise of `model.noise`, from torch's default generator.

        gaussian: noise_level is its standard deviation. masking: each pixel, all its channels, is 0, which
        is mid-grey, with probability noise_level.
        """
        if self.noise == "gaussian":
            return unit_BCHW + self.noise_level * normal_noise_like(unit_BCHW)
        if self.noise == "masking":
            batch, _, height, width = unit_BCHW.shape
            uniform_B1HW = drawn(torch.rand, (batch, 1, height, width), None, unit_BCHW.device)
            return unit_BCHW * (uniform_B1HW >= self.noise_level)
        return unit_BCHW

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, a scalar, and its two terms: `mse`, with the noise on, and `code_l1`, mean |z|."""
        unit_BCHW = to_unit(x_BCHW, self.shape.levels)
        out_BCHW, z_BD = self(self.corrupt(unit_BCHW))
        mse, code_l1 = (out_BCHW - unit_BCHW).square().mean(), z_BD.abs().mean()
        loss = mse + self.l1 * code_l1 if self.l1 else mse
        return loss, {"mse": mse.detach(), "code_l1": code_l1.detach()}

    # -- evaluation

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """`mse`, (B,): squared error per dimension of the reconstruction of the clean picture, in [-1, 1]."""
        unit_BCHW = to_unit(x_BCHW, self.shape.levels)
        return {"mse": (self(unit_BCHW)[0].clamp(-1, 1) - unit_BCHW).square().mean((1, 2, 3))}

    # -- codes and pictures

    def features(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> the encoder's last hidden layer, (B, F)."""
        return self.encoder(to_unit(x_BCHW, self.shape.levels))

    @torch.no_grad()
    def encode(self, x_BCHW: Tensor) -> Tensor:
        """Codes, float32 (B, D)."""
        return self.to_code(self.features(x_BCHW)).float()

    @torch.no_grad()
    def decode(self, z_BD: Tensor) -> Tensor:
        """The picture of a code, uint8 (B, C, H, W)."""
        return to_levels(self.decoder(z_BD), self.shape.levels)

    def reconstruct(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, C, H, W), of the picture as it is: no noise."""
        return self.decode(self.encode(x_BCHW))

    @torch.no_grad()
    def refit_buffers(self, pictures: Iterable[Tensor]) -> None:
        """Fits the Gaussian of the codes, with its full covariance, to batches of clean training pictures."""
        z_ND = torch.cat([self.encode(x_BCHW).cpu().double() for x_BCHW in pictures])
        mean_D = z_ND.mean(0)
        centred_ND = z_ND - mean_D
        variance_D, axes_DD = torch.linalg.eigh(centred_ND.T @ centred_ND / max(1, len(z_ND) - 1))
        # A square root by eigenvalues: there is one for codes that fill no D dimensions, too.
        self.code_root_DD.copy_(axes_DD * variance_D.clamp(min=0).sqrt())
        self.code_mean_D.copy_(mean_D)
        self.code_count.fill_(len(z_ND))

    def draw_codes(self, n: int, generator: Random | None) -> Tensor:
        """Draws of the Gaussian of the training codes, (n, D)."""
        noise_BD = normal_noise((n, self.latent_dim), generator, self.code_mean_D)
        return self.code_mean_D + noise_BD @ self.code_root_DD.T

    @torch.no_grad()
    def sample(self, n: int, generator: Random | None) -> Tensor:
        """uint8 (n, C, H, W), decoded from draws of the Gaussian of the training codes."""
        return self.decode(self.draw_codes(n, generator))

    def samples_in_words(self) -> str:
        return f"codes drawn from a Gaussian fitted to the codes of {int(self.code_count)} training pictures"
