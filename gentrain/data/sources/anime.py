"""data=anime: faces that gentrain draws itself. Works anywhere, and its true distribution is known.

The factors of a face (gentrain.anime.FACTORS) are independent and uniform, and no two combinations of
them give the same picture, so the entropy of a picture is log2(number of combinations) bits: the bits per
image that no model can beat. That holds for colour pictures at 256 levels; otherwise pictures may coincide,
and no entropy is stated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain import anime
from gentrain.config.ranges import AtLeast, Between
from gentrain.data.packed import Label, Packed, Progress

HELD_OUT = 1000  # images of the validation split, and again of the test split
MOST = 1_000_000  # training images
CHUNK = 1000


@dataclass(frozen=True)
class Anime:
    """The keys of configs/data/anime.yaml."""

    size: Literal[32, 64]
    channels: Literal[1, 3]
    count: Annotated[int, Between(1, MOST)]
    seed: Annotated[int, AtLeast(0)]

    def check(self) -> None:
        """Every combination of the settings is possible."""

    def key(self) -> dict[str, Any]:
        return {"version": anime.VERSION, **asdict(self)}

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        """The held-out faces have the first numbers, so that they are the same whatever `count` is."""
        numbers = np.concatenate(
            [np.arange(2 * HELD_OUT, 2 * HELD_OUT + self.count), np.arange(2 * HELD_OUT)]
        )
        factors_NF = anime.combinations(numbers, self.seed)
        images = np.empty((len(numbers), self.channels, self.size, self.size), np.uint8)
        for start in range(0, len(numbers), CHUNK):
            chunk = slice(start, start + CHUNK)
            images[chunk] = grey_or_color(anime.draw(factors_NF[chunk], self.size), self.channels)
            progress(min(start + CHUNK, len(numbers)), len(numbers))
        return Packed(
            images,
            {"train": self.count, "valid": HELD_OUT, "test": HELD_OUT},
            factors_NF,
            tuple(Label(factor.name, factor.choices) for factor in anime.FACTORS),
            {"entropy_bits": anime.ENTROPY_BITS} if self.channels == 3 else {},
        )

    def fresh(self, count: int, seed: int) -> np.ndarray:
        """Faces that are in no split, whatever `count` is: their numbers begin after all of those."""
        first = 2 * HELD_OUT + MOST
        start = first + seed % (anime.COMBINATIONS - first - count)
        factors_NF = anime.combinations(np.arange(start, start + count), self.seed)
        return grey_or_color(anime.draw(factors_NF, self.size), self.channels)


def grey_or_color(rgb_NCHW: np.ndarray, channels: int) -> np.ndarray:
    """RGB -> itself, or luma by ITU-R BT.601 in integers, as Pillow converts."""
    if channels == 3:
        return rgb_NCHW
    red, green, blue = (rgb_NCHW[:, [channel]].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
