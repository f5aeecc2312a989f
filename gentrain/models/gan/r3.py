"""The residual generator and discriminator of R3GAN (Huang et al., arXiv 2501.05441, section 3 and appendix).

Stages of residual blocks at sizes that double, without normalisation, style or attention. A block is

    x + conv1x1(a(conv3x3 in groups(a(conv1x1(x))))),    a(y) = leaky_relu(y + bias, 0.2)

so biases are in the activation, and no convolution has its own. Weights start as in Fixup (arXiv 1901.09321):
the last convolution of a block at zero, so that a new network is its skeleton alone, and the two others at
He's scale (arXiv 1502.01852) times L^(-1/4), L the number of blocks in the network: depth then does
not change how far a step of the optimizer moves the output.

Legend: B batch, C channels, H height, W width, Z latent dimensions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.models.gan.resample import downsample, upsample

SLOPE = 0.2
# Half of N(0, 1) is scaled by SLOPE in a leaky ReLU: its second moment becomes (1 + SLOPE^2) / 2.
GAIN = (2 / (1 + SLOPE**2)) ** 0.5
CONVOLUTIONS = 3  # in a block


@dataclass(frozen=True)
class Block:
    """How the blocks of a network are made."""

    per_stage: int
    expansion: int  # a block's inner channels: this many times the outer ones
    group_width: int | None  # inner channels a group of the 3x3 convolution; None: one group


def conv(before: int, after: int, kernel: int, groups: int, gain: float) -> nn.Conv2d:
    """Without bias; its weights N(0, gain^2 / inputs), `inputs` numbers entering each sum."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, std=gain / (before // groups * kernel**2) ** 0.5)
    return layer


def linear(before: int, after: int) -> nn.Linear:
    """Without bias, at the scale that keeps a variance of 1."""
    layer = nn.Linear(before, after, bias=False)
    nn.init.normal_(layer.weight, std=before**-0.5)
    return layer


class BiasedActivation(nn.Module):
    """leaky_relu(x + bias), one bias a channel, 0 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.leaky_relu(x_BCHW + self.bias.to(x_BCHW.dtype).view(1, -1, 1, 1), SLOPE)


class ResidualBlock(nn.Module):
    """See above; `blocks` is L."""

    def __init__(self, width: int, block: Block, blocks: int) -> None:
        super().__init__()
        inner = width * block.expansion
        groups = 1 if block.group_width is None else max(1, inner // block.group_width)
        gain = GAIN * blocks ** (-1 / (2 * CONVOLUTIONS - 2))
        self.f = nn.Sequential(
            conv(width, inner, 1, 1, gain),
            BiasedActivation(inner),
            conv(inner, inner, 3, groups, gain),
            BiasedActivation(inner),
            conv(inner, width, 1, 1, 0.0),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.f(x_BCHW)


def stage(width: int, block: Block, stages: int) -> nn.Sequential:
    return nn.Sequential(
        *(ResidualBlock(width, block, stages * block.per_stage) for _ in range(block.per_stage))
    )


class Basis(nn.Module):
    """z -> (B, C, h, w): a learned constant picture a channel, times a linear function of z."""

    def __init__(self, latent_dim: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(width, *size))
        self.weigh = linear(latent_dim, width)

    def forward(self, z_BZ: Tensor) -> Tensor:
        weights_BC = self.weigh(z_BZ)
        return self.constant.to(weights_BC.dtype) * weights_BC[:, :, None, None]


class R3Generator(nn.Module):
    """z (B, Z) -> pictures (B, C, H, W), about in [-1, 1]: no tanh, whoever makes levels of them clamps.

    `widths`: the channels of the stages, the smallest size first; `size`: that of the first stage;
    `patch`: pixels a side of the picture for one of the last stage.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: int,
        widths: Sequence[int],
        size: tuple[int, int],
        block: Block,
        patch: int,
    ) -> None:
        super().__init__()
        self.basis = Basis(latent_dim, widths[0], size)
        self.stages = nn.ModuleList(stage(width, block, len(widths)) for width in widths)
        self.transitions = nn.ModuleList(transition(a, b) for a, b in itertools.pairwise(widths))
        self.to_patches = conv(widths[-1], channels * patch**2, 1, 1, 1.0)
        # All pixels of a patch the same at first: else a new network's pictures are chequered, and stay so.
        same = self.to_patches.weight[:: patch**2].repeat_interleave(patch**2, 0)
        self.to_patches.weight = nn.Parameter(same.detach().clone())
        self.patch = patch

    def forward(self, z_BZ: Tensor) -> Tensor:
        x_BCHW = self.stages[0](self.basis(z_BZ))
        for change, blocks in zip(self.transitions, self.stages[1:], strict=True):
            x_BCHW = blocks(upsample(change(x_BCHW)))
        return F.pixel_shuffle(self.to_patches(x_BCHW), self.patch)


class R3Discriminator(nn.Module):
    """Pictures (B, C, H, W) -> logits (B,). The generator's arguments, and its stages the other way round."""

    def __init__(
        self, channels: int, widths: Sequence[int], size: tuple[int, int], block: Block, patch: int
    ) -> None:
        super().__init__()
        largest_first = list(reversed(widths))
        self.from_patches = conv(channels * patch**2, largest_first[0], 1, 1, 1.0)
        self.patch = patch
        self.stages = nn.ModuleList(stage(width, block, len(widths)) for width in largest_first)
        self.transitions = nn.ModuleList(transition(a, b) for a, b in itertools.pairwise(largest_first))
        # The basis's counterpart: what each channel looks like against a learned picture of its own.
        self.compare = nn.Conv2d(widths[0], widths[0], size, groups=widths[0], bias=False)
        nn.init.normal_(self.compare.weight, std=(size[0] * size[1]) ** -0.5)
        self.to_logit = linear(widths[0], 1)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, F): what the logit is a linear function of."""
        x_BCHW = self.from_patches(F.pixel_unshuffle(x_BCHW, self.patch))
        for blocks, change in zip(self.stages, self.transitions, strict=False):
            x_BCHW = change(downsample(blocks(x_BCHW)))
        return self.compare(self.stages[-1](x_BCHW)).flatten(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.to_logit(self.features(x_BCHW)).squeeze(1)


def transition(before: int, after: int) -> nn.Module:
    """Another number of channels, linearly; nothing where it stays the same."""
    return nn.Identity() if before == after else conv(before, after, 1, 1, 1.0)
