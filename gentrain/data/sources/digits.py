"""data=digits: 1,797 handwritten digits, 8 x 8, 17 levels of grey, as scikit-learn brings them.

The test set of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). With
data.levels=17 a model sees the numbers 0 .. 16 of the original.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Packed, Progress
from gentrain.data.sources.arrays import Native, pack_native
from gentrain.errors import UserError

BRIGHTEST = 16


@dataclass(frozen=True)
class Digits:
    """The keys of configs/data/digits.yaml."""

    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    held_out: Annotated[float, AtLeast(0), Below(0.5)]

    def check(self) -> None:
        if find_spec("sklearn") is None:
            raise UserError('data=digits needs scikit-learn; pip install "gentrain[digits]"')

    def key(self) -> dict[str, Any]:
        return asdict(self)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        from sklearn.datasets import load_digits  # an extra, and slow to import

        pixels_ND, classes_N = load_digits(return_X_y=True)
        images_NCHW = np.rint(pixels_ND * (255 / BRIGHTEST)).astype(np.uint8).reshape(-1, 1, 8, 8)
        native = Native(images_NCHW, classes_N.astype(np.int64), tuple("0123456789"), None)
        return pack_native(native, self, "digits", scratch, progress)
