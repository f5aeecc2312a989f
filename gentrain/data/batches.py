"""Which images make up which batch: a function of (seed, step), so that no step has to be replayed.

Each epoch is a permutation drawn from (seed, stream, epoch). Batches are consecutive stretches of the
endless row of epochs, so every image is seen once an epoch and no batch is short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gentrain.images import quantize
from gentrain.seeding import generator

FITS = 0.3  # of a GPU's free memory may be taken by the data set


class Images:
    """One split as levels, on the device whole when it fits, else fetched batch by batch."""

    def __init__(self, images_NCHW: np.ndarray, levels: int, device: torch.device) -> None:
        self.levels, self.device = levels, device
        self._images = torch.from_numpy(images_NCHW)
        if device.type != "cpu" and images_NCHW.nbytes < FITS * free_bytes(device):
            self._images = self._images.to(device)

    def __len__(self) -> int:
        return len(self._images)

    def take(self, indices: Tensor) -> Tensor:
        """Images by their numbers, as uint8 levels (B, C, H, W) on the device."""
        taken = self._images[indices.to(self._images.device)]
        return quantize(taken.to(self.device, non_blocking=True), self.levels)

    def first(self, count: int) -> Tensor:
        return self.take(torch.arange(min(count, len(self))))

    def chunks(self, batch_size: int) -> list[Tensor]:
        """All image numbers in order, in batches of which the last may be short."""
        return list(torch.arange(len(self)).split(batch_size))


class Batches:
    """The training batches of a run."""

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        self.images, self.batch_size = images, batch_size
        count = len(images)

        # Two epochs a stream: a batch may straddle them. A few streams: each player has its own.
        @lru_cache(maxsize=8)
        def permutation(stream: int, epoch: int) -> Tensor:
            return torch.randperm(count, generator=generator(seed, "batches", stream, epoch))

        self._permutation = permutation

    def indices(self, step: int, stream: int = 0) -> Tensor:
        """The numbers of the images in the batch of `step`; streams are independent of each other."""
        count = len(self.images)
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while position < end:
            epoch, offset = divmod(position, count)
            parts.append(self._permutation(stream, epoch)[offset : offset + end - position])
            position += len(parts[-1])
        return torch.cat(parts)

    def at(self, step: int) -> Callable[[], Tensor]:
        """`next_batch` for one step: each call gives uint8 (B, C, H, W) from a stream of its own."""
        stream = -1

        def next_batch() -> Tensor:
            nonlocal stream
            stream += 1
            return self.images.take(self.indices(step, stream))

        return next_batch


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**32
