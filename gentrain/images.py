"""What an image is here, and the one line that turns nats into bits per dimension.

Shape legend, used in every file: B batch, N images, C channels, H height, W width. An image is uint8
(C, H, W) and holds level numbers 0 .. levels - 1; at 256 levels these are plain bytes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageShape:
    """The shape of one image and the number of levels that each of its values can take."""

    channels: int
    height: int
    width: int
    levels: int = 256

    @property
    def dims(self) -> int:
        """How many numbers an image holds: C*H*W, the divisor of bits per dimension."""
        return self.channels * self.height * self.width

    @property
    def chw(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def bits_per_dim(nats: Tensor, shape: ImageShape) -> Tensor:
    """Nats per image -> bits per dimension: nats / (C*H*W * ln 2)."""
    return nats / (shape.dims * math.log(2))


def psnr_db(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error in units of [-1, 1]: 10 log10(2^2 / mse)."""
    return 10 * torch.log10(4 / mse)


def to_unit(x: Tensor, levels: int) -> Tensor:
    """uint8 levels 0 .. levels - 1 -> float32 in [-1, 1]; the width of one level is 2 / (levels - 1)."""
    return x.to(torch.float32).mul(2 / (levels - 1)).sub(1)


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Floats -> the nearest of the uint8 levels 0 .. levels - 1; below -1 and above 1 are clamped."""
    return x.float().add(1).mul((levels - 1) / 2).round_().clamp_(0, levels - 1).to(torch.uint8)


def quantize(x: Tensor, levels: int) -> Tensor:
    """Bytes 0 .. 255 -> levels 0 .. levels - 1, in bins of equal width (256 levels: unchanged)."""
    if levels == 256:
        return x
    return (x.to(torch.int32) * levels // 256).to(torch.uint8)


def to_picture(x: Tensor, levels: int) -> Tensor:
    """uint8 levels 0 .. levels - 1 -> bytes 0 .. 255 for people to look at."""
    if levels == 256:
        return x
    return (x.to(torch.int32) * 255 // (levels - 1)).to(torch.uint8)
