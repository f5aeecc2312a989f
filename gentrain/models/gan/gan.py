"""Generative adversarial networks (Goodfellow et al., arXiv 1406.2661): both networks and the objective.

A generator makes pictures of noise, a discriminator tells them from real ones, and each is trained against
the other: objective.py has what they minimise, gentrain/training/adversarial.py the steps. There is no
likelihood.

Legend: B batch, n images, C channels, H height, W width, Z latent dimensions. Images in and out are uint8
levels, but the pictures of both networks are floats about in [-1, 1].
"""

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gentrain.config.ranges import Above, AtLeast, Below, Between
from gentrain.errors import UserError
from gentrain.images import ImageShape, to_levels, to_unit
from gentrain.models.gan.augment import MOST, Change
from gentrain.models.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from gentrain.models.gan.objective import LOSSES, LossName, MonitorSettings, Objective
from gentrain.models.gan.r3 import Block, R3Discriminator, R3Generator
from gentrain.runtime.seeding import Random, normal_noise

SMALLEST = (4, 7)  # pixels a side of the first stage
Fraction = Annotated[float, AtLeast(0), Below(1)]
Share = Annotated[float, Above(0), Between(0, 1)]


class GAN(nn.Module):
    """Generator and discriminator; configs/model/gan.yaml says what each setting is."""

    likelihood_kind = None

    def __init__(
        self,
        shape: ImageShape,
        *,
        loss: LossName,
        gamma: Annotated[float, AtLeast(0)],
        gamma_final: Annotated[float, AtLeast(0)],
        anneal_images: Annotated[int, AtLeast(0)],
        lr_final: Share,
        beta2_final: Fraction | None,
        discriminator_steps: Annotated[int, Between(1, 1000)],
        discriminator_lr: Annotated[float, Above(0)] | None,
        discriminator_betas: tuple[Fraction, Fraction] | None,
        network: Literal["r3", "dcgan"],
        latent_dim: Annotated[int, AtLeast(1)],
        widths: list[Annotated[int, AtLeast(1)]],
        blocks: Annotated[int, Between(1, 1000)],
        expansion: Annotated[int, AtLeast(1)],
        group_width: Annotated[int, AtLeast(1)] | None,
        patch: Literal[1, 2],
        augment: list[Change],
        augment_probability: Annotated[float, Between(0, MOST)],
        alarm_every_steps: Annotated[int, AtLeast(1)],
        alarm_after_steps: Annotated[int, AtLeast(0)],
        alarm_checks: Annotated[int, AtLeast(1)],
        alarm_diversity: Share | None,
        alarm_d_right: Share | None,
    ) -> None:
        super().__init__()
        self.shape, self.latent_dim = shape, latent_dim
        self.objective = Objective(
            LOSSES[loss], discriminator_steps, gamma, gamma_final, anneal_images, lr_final, beta2_final,
            discriminator_lr, discriminator_betas, augment, augment_probability,
            MonitorSettings(
                alarm_every_steps, alarm_after_steps, alarm_checks, alarm_diversity, alarm_d_right
            ),
        )  # fmt: skip
        self.generator: R3Generator | DCGANGenerator
        self.discriminator: R3Discriminator | DCGANDiscriminator
        if network == "r3":
            block = Block(blocks, expansion, group_width)
            self.generator, self.discriminator = _r3_networks(shape, latent_dim, widths, block, patch)
        else:
            batch_norm = self.objective.loss.penalty == "none"
            self.generator, self.discriminator = _dcgan_networks(shape, latent_dim, widths, batch_norm)

    # -- noise

    def latents(self, n: int, noise: Random | None = None) -> Tensor:
        """z ~ N(0, I), (n, Z): drawn on the generator's device, or on the weights' by the default one."""
        return normal_noise((n, self.latent_dim), noise, next(self.parameters()))

    # -- what can be said of pictures

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """The discriminator's logits of each picture and of as many generated ones, float32 (B,) each.

        No figures of quality. Far below `train/logit_real`: it knows its training pictures by heart.
        """
        fake_BCHW = self.generator(self.latents(len(x_BCHW), generator))
        logit_real_B = self.discriminator(to_unit(x_BCHW, self.shape.levels))
        return {"logit_real": logit_real_B.float(), "logit_fake": self.discriminator(fake_BCHW).float()}

    # -- pictures

    def render(self, z_BZ: Tensor) -> Tensor:
        """The pictures of latents, float (B, C, H, W) about in [-1, 1], differentiable."""
        return self.generator(z_BZ)

    @torch.no_grad()
    def sample(self, n: int, generator: Random | None) -> Tensor:
        """uint8 (n, C, H, W)."""
        return self.decode(self.draw_codes(n, generator))

    def draw_codes(self, n: int, generator: Random | None) -> Tensor:
        """Latents as `sample` draws them, float32 (n, Z)."""
        return self.latents(n, generator)

    @torch.no_grad()
    def decode(self, z_BZ: Tensor) -> Tensor:
        """uint8 (B, C, H, W)."""
        return to_levels(self.generator(z_BZ), self.shape.levels)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The discriminator's last hidden layer, (B, F), of uint8 levels."""
        return self.discriminator.features(to_unit(x_BCHW, self.shape.levels))

    @torch.no_grad()
    def interpolate(self, rows: int, columns: int, generator: Random | None) -> Tensor:
        """uint8 (rows * columns, C, H, W): each row goes from one latent to another in `columns` steps.

        Along cos(t) a + sin(t) b, t = 0 .. pi/2, which is N(0, I) for every t where a and b are.
        """
        first_RZ, last_RZ = self.latents(2 * rows, generator).chunk(2)
        t_C = torch.linspace(0, math.pi / 2, columns, device=first_RZ.device)
        z_RCZ = t_C.cos()[:, None] * first_RZ[:, None] + t_C.sin()[:, None] * last_RZ[:, None]
        return self.decode(z_RCZ.flatten(0, 1))


def _r3_networks(
    shape: ImageShape, latent_dim: int, widths: list[int], block: Block, patch: int
) -> tuple[R3Generator, R3Discriminator]:
    """Generator and discriminator of R3GAN. UserError for a size or widths that they cannot have."""
    size, doublings = smallest_size(shape, patch)
    of_stages = stage_widths(doublings + 1, widths)
    _check_groups(of_stages, block)
    generator = R3Generator(latent_dim, shape.channels, of_stages, size, block, patch)
    return generator, R3Discriminator(shape.channels, of_stages, size, block, patch)


def _dcgan_networks(
    shape: ImageShape, latent_dim: int, widths: list[int], batch_norm: bool
) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Generator and discriminator of DCGAN. UserError for a size that they cannot have."""
    if not (min(shape.chw[1:]) >= 28 and max(shape.chw[1:]) <= 128):
        raise UserError(
            f"model.network=dcgan takes pictures of 28 to 128 pixels a side, but these are "
            f"{shape.height}x{shape.width}; set data.size, or model.network=r3"
        )
    size, doublings = smallest_size(shape, 1)
    of_stages = stage_widths(doublings, widths)
    generator = DCGANGenerator(latent_dim, shape.channels, of_stages, size)
    return generator, DCGANDiscriminator(shape.channels, of_stages, size, batch_norm)


def smallest_size(shape: ImageShape, patch: int) -> tuple[tuple[int, int], int]:
    """The size of the first stage, 4 to 7 pixels on the shorter side, and how often it is doubled.

    UserError unless the picture is such a size doubled, with `patch` pixels a side left for the last step.
    """
    height, width = shape.height, shape.width
    doublings = 0
    while min(height, width) > SMALLEST[1] * patch and height % 2 == width % 2 == 0:
        height, width, doublings = height // 2, width // 2, doublings + 1
    if not SMALLEST[0] * patch <= min(height, width) <= SMALLEST[1] * patch or (
        height % patch or width % patch
    ):
        raise UserError(
            f"model=gan makes pictures by doubling 4 to 7 pixels a side, which cannot give {shape.height}x"
            f"{shape.width}; set data.size to 28, 32, 40, 48, 56, 64, 80, 96, 112 or 128"
        )
    return (height // patch, width // patch), doublings


def stage_widths(stages: int, widths: list[int]) -> list[int]:
    """Channels of each stage, the smallest size first; the last one given is that of all further stages."""
    if not widths:
        raise UserError("model.widths=[] is not possible; give the channels of at least one stage")
    return [widths[min(number, len(widths) - 1)] for number in range(stages)]


def _check_groups(widths: list[int], block: Block) -> None:
    """Each stage's inner channels must split into groups."""
    for channels in widths:
        inner = channels * block.expansion
        if block.group_width is not None and inner > block.group_width and inner % block.group_width:
            raise UserError(
                f"a stage of {channels} channels has {inner} inner ones (model.expansion={block.expansion}), "
                f"which model.group_width={block.group_width} does not divide"
            )
