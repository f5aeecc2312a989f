"""Which images make up which batch: a function of (seed, step), so that no step has to be replayed.

Each epoch is a permutation drawn from (seed, stream, epoch). Batches are consecutive stretches of the
endless row of epochs, so every image is seen once an epoch and no batch is short.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from gentrain.config.settings import Preprocessing
from gentrain.data.augment import augment
from gentrain.data.dataset import ImageSplit
from gentrain.runtime.ranks import shard_rows
from gentrain.runtime.seeding import generator, rows_of

AHEAD = 2  # steps that are fetched before they are asked for


class Batches:
    """The training batches of a run. `batch_size` is over all processes, each of which reads its own rows."""

    def __init__(self, images: ImageSplit, batch_size: int, seed: int, accumulate_steps: int = 1) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self._mine = torch.tensor(shard_rows(batch_size, accumulate_steps))
        self._fetcher = None if images.resident else _Ahead(self)
        count = len(images)

        # Two epochs a stream: a batch may straddle them. A few streams: a GAN's two networks have one each.
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
        """`next_batch` for one step: each call gives uint8 (B, C, H, W) from a stream of its own: of several
        processes each gets its rows of the batch."""
        stream = -1

        def next_batch() -> Tensor:
            nonlocal stream
            stream += 1
            return self._batch(step, stream)

        return next_batch

    def _batch(self, step: int, stream: int) -> Tensor:
        """All randomness from generators of its own, so that the step's noise does not depend on it."""
        view = self.images.view
        fetch = self._fetcher.fetch if self._fetcher else self.fetch
        rng = generator(self.seed, "binarize", stream, step) if view.binarize == "dynamic" else None
        mine = fetch(step, stream)
        with rows_of(self.batch_size, self._mine):
            images = self.images.show(mine, rng)
            if moves(view):
                images = augment(images, view, generator(self.seed, "augment", stream, step))
        return images

    def fetch(self, step: int, stream: int) -> Tensor:
        return self.images.fetch(self.indices(step, stream)[self._mine])


def moves(view: Preprocessing) -> bool:
    return view.flip or view.shift > 0


class _Ahead:
    """Reads the batches of the next steps in a thread while this step is computed."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: dict[tuple[int, int], Future[Tensor]] = {}

    def fetch(self, step: int, stream: int) -> Tensor:
        for later in range(step, step + AHEAD + 1):
            if (later, stream) not in self._coming:
                self._coming[later, stream] = self._thread.submit(self._batches.fetch, later, stream)
        for old in [key for key in self._coming if key[0] < step]:
            del self._coming[old]
        return self._coming.pop((step, stream)).result()
