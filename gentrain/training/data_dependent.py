"""What a network takes from the training pictures apart from gradients, for the families that ask for it.

Both are functions of the weights, the pictures and the seed alone, so that they do not stand in the way of an
exact resume, and what they find lies in the checkpoint with the weights.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from gentrain.data.dataset import ImageSplit
from gentrain.models.interface import InitsFromData, RefitsBuffers
from gentrain.runtime.seeding import generator

PICTURES = 4096  # at most; as many as there are, if there are fewer
BATCH = 256
# A start has all its pictures at once, as floats: fewer of large ones, 512 MiB (all 4096 to 64 px in colour).
START_NUMBERS, FEWEST = 2**27, 256


def init_from_data(network: object, images: ImageSplit, seed: int) -> None:
    """Initial weights from training pictures, before the first step of a new run."""
    if isinstance(network, InitsFromData):
        dims = math.prod(images.take(torch.tensor([0])).shape[1:])
        most = max(FEWEST, START_NUMBERS // dims)
        network.init_from_data(images.take(_chosen(images, seed)[:most]), generator(seed, "start"))


@torch.no_grad()
def refit_buffers(network: nn.Module, images: ImageSplit, seed: int) -> None:
    """What a network must know of the training pictures to be sampled, by its weights as they are now."""
    if isinstance(network, RefitsBuffers):
        network.eval()
        network.refit_buffers(images.take(part) for part in _chosen(images, seed).split(BATCH))


def _chosen(images: ImageSplit, seed: int) -> torch.Tensor:
    return torch.randperm(len(images), generator=generator(seed, "from pictures"))[:PICTURES]
