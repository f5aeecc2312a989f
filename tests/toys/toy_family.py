"""The smallest family: every value of every picture is drawn around one learned mean.

Legend: B batch, n images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from gentrain.config.ranges import AtLeast
from gentrain.images import ImageShape
from gentrain.runtime.seeding import Random, normal_noise


class ToyFamily(nn.Module):
    likelihood_kind = None

    def __init__(self, shape: ImageShape, *, spread: Annotated[float, AtLeast(0)]) -> None:
        super().__init__()
        self.shape, self.spread = shape, spread
        self.mean_CHW = nn.Parameter(torch.zeros(shape.chw))

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._mse(x_BCHW).mean()
        return loss, {"mse": loss.detach()}

    def evaluate(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        return {"mse": self._mse(x_BCHW)}

    def sample(self, n: int, generator: Random) -> Tensor:
        noise_nCHW = normal_noise((n, *self.shape.chw), generator, self.mean_CHW)
        levels = self.shape.levels - 1
        return ((self.mean_CHW + self.spread * noise_nCHW).clamp(0, 1) * levels).round().to(torch.uint8)

    def _mse(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW.float() / (self.shape.levels - 1) - self.mean_CHW).square().flatten(1).mean(1)
