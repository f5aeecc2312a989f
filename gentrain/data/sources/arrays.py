"""Data sets that come as arrays of one native size -> packed pictures of the size and channels asked for.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from gentrain.data.packed import Label, Packed, Progress
from gentrain.data.reading import splitting
from gentrain.data.reading.decode import frame
from gentrain.data.reading.rows import Rows, arrange, hash64

CHUNK = 1000
BLACK = (0, 0, 0)  # never seen: native pictures are square


class Wanted(Protocol):
    """What a source's settings say of its pictures."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def count(self) -> int | None: ...
    @property
    def held_out(self) -> float: ...


@dataclass(frozen=True)
class Native:
    """Pictures as their files hold them."""

    images_NCHW: np.ndarray  # uint8, square
    classes_N: np.ndarray  # indices into `choices`
    choices: tuple[str, ...]
    given_N: np.ndarray | None  # TRAIN or TEST of reading/splitting.py; None: the source has no test split

    @classmethod
    def of_two(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        choices: tuple[str, ...],
    ) -> Native:
        """From (images_NCHW, classes_N) of the source's own two splits."""
        given = np.repeat([splitting.TRAIN, splitting.TEST], [len(train[0]), len(test[0])])
        return cls(
            np.concatenate([train[0], test[0]]),
            np.concatenate([train[1], test[1]]).astype(np.int64),
            choices,
            given,
        )


def pack_native(native: Native, wanted: Wanted, what: str, scratch: Path, progress: Progress) -> Packed:
    """Resized where another size is wanted, else the very pixels; split by the pixels that result."""
    total = len(native.images_NCHW)
    rows = Rows(scratch / "rows", (wanted.channels, wanted.size, wanted.size))
    hashes = np.empty(total, np.uint64)
    for number, image in enumerate(_shown(native.images_NCHW, wanted.size, wanted.channels)):
        rows.append(image)
        hashes[number] = hash64(image.tobytes())
        if (number + 1) % CHUNK == 0 or number + 1 == total:
            progress(number + 1, total)
    parts = splitting.split(hashes, native.given_N, wanted.held_out, wanted.count, what)
    return Packed(
        arrange(rows.close(), parts.order, scratch / "images.npy"),
        parts.counts,
        native.classes_N[parts.order, None],
        (Label("class", native.choices),),
        parts.facts,
    )


def _shown(images_NCHW: np.ndarray, size: int, channels: int) -> Iterator[np.ndarray]:
    """Each picture as uint8 (channels, size, size). Grey to colour repeats, colour to grey is BT.601 luma."""
    native_channels, native_size = images_NCHW.shape[1], images_NCHW.shape[2]
    if (size, channels) == (native_size, native_channels):
        yield from images_NCHW
        return
    for image_CHW in images_NCHW:
        pixels = image_CHW[0] if native_channels == 1 else np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
        yield frame(Image.fromarray(pixels), size, channels, "stretch", BLACK)
