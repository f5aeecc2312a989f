"""`valid/frechet_distance`: how near a model's samples are to validation pictures while it trains.

What chooses the best checkpoint of a family that has no other figure (a GAN), and a curve for all others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gentrain.data.dataset import ImageSplit
from gentrain.metrics.extractors import Extractor
from gentrain.metrics.frechet import frechet_distance
from gentrain.runtime.seeding import image_streams
from gentrain.runtime.streams import Streams

TAG = "valid/frechet_distance"


class ValidationDistance:
    """From the same noise at every step, so that the curve shows the weights and not the draw."""

    def __init__(self, extractor: Extractor, valid: ImageSplit, samples: int) -> None:
        """`samples`: drawn pictures, and validation pictures at most; more than the features' dims."""
        self.count = min(samples, len(valid))
        # Two distances are comparable only if this is equal.
        self.measured = f"{extractor.label}, {self.count} samples"
        self._extractor, self._levels = extractor, valid.view.levels
        parts = [valid.take(part) for part in torch.arange(self.count).split(256)]
        self._real_ND = torch.cat([extractor.features(part, self._levels).cpu() for part in parts])

    def of(
        self,
        sample: Callable[[int, Streams], Tensor],
        batch_size: int,
        seed: int,
        stopped: Callable[[], bool],
    ) -> float | None:
        """None if stopped meanwhile."""
        noise, features = image_streams(self.count, seed, "frechet"), []
        for start in range(0, self.count, batch_size):
            if stopped():
                return None
            part = noise[start : start + batch_size]
            drawn = sample(len(part), part)
            features.append(self._extractor.features(drawn, self._levels).cpu())
        return frechet_distance(torch.cat(features), self._real_ND).value


def too_few(valid: ImageSplit, extractor: Extractor) -> str | None:
    """Why there is no such figure, in words; None if there can be one."""
    if len(valid) > extractor.dims:
        return None
    return (
        f"{TAG} is left out: the validation split has {len(valid)} pictures, and features of "
        f"{extractor.dims} numbers need more than that"
    )
