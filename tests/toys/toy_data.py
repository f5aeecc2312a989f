"""The smallest data source: noise, as arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Packed, Progress
from gentrain.data.sources.arrays import Native, pack_native


@dataclass(frozen=True)
class ToyData:
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    held_out: Annotated[float, AtLeast(0), Below(0.5)]

    def check(self) -> None:
        pass

    def key(self) -> dict[str, Any]:
        return asdict(self)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        images_NCHW = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), np.uint8)
        native = Native(images_NCHW, np.arange(60) % 2, ("even", "odd"), None)
        return pack_native(native, self, "toy", scratch, progress)
