"""data=moons: a moon at some phase. In training only at a few phases, in the test at those between them.

The size and the place of a moon vary freely everywhere; its phase is one of PHASES. So it can be measured
whether "halfway between a half moon and a full moon" is a three-quarter moon to a model that has never seen
one: see analysis/moon_midpoints.py.

Legend: N pictures, S size in pixels, K subrows of a row. Lengths are in pixels; phases in degrees: 0 new,
90 half (its right half is lit), 180 full, 270 half (its left half).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast, Between
from gentrain.data.packed import Label, Packed, Progress
from gentrain.data.reading.entries import SPLITS
from gentrain.errors import UserError

VERSION = 1
STEP = 15
PHASES = tuple(range(0, 360, STEP))
HELD_OUT = 1000  # images of the validation split, and again of the test split
SKY, EARTHSHINE, SUNLIT = 0, 48, 240  # bytes; a new moon is not invisible: the earth lights it
RADIUS = (0.20, 0.34)  # of the picture's size
SHIFT = 0.12  # of the picture's size, to either side
SUBROWS = 8
AT_ONCE = 2**21  # subpixels drawn at once: bounds memory


@dataclass(frozen=True)
class Places:
    """Where moons are: (N,) each. A picture's middle is at size / 2."""

    x_N: np.ndarray
    y_N: np.ndarray
    radius_N: np.ndarray

    @classmethod
    def draw(cls, count: int, size: int, seed: int, split: str) -> Places:
        """Uniform, independent; the same for the first ones whatever `count` is."""
        random = np.random.default_rng([seed, SPLITS.index(split)])
        u_N3 = random.random((count, 3))
        x_N, y_N = (size * (0.5 + SHIFT * (2 * u_N3[:, k] - 1)) for k in (0, 1))
        return cls(x_N, y_N, size * (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * u_N3[:, 2]))

    def take(self, which: np.ndarray | slice) -> Places:
        return Places(self.x_N[which], self.y_N[which], self.radius_N[which])

    def __len__(self) -> int:
        return len(self.x_N)


def draw(phases_N: np.ndarray, places: Places, size: int) -> np.ndarray:
    """uint8 (N, 1, S, S): anti-aliased, a pixel's light being the area of it that is lit.

    At height v (in radii) the disc reaches from -w to w, w = sqrt(1 - v^2), and the border of the light, half
    an ellipse, is at w cos(phase): a waxing moon is lit to the right of it. Of the lit part of a whole disc
    that makes (1 - cos phase) / 2. Widths are exact within each of K subrows of a pixel.
    """
    images = np.empty((len(places), 1, size, size), np.uint8)
    chunk = max(1, AT_ONCE // (size * size * SUBROWS))
    for start in range(0, len(places), chunk):
        part = slice(start, start + chunk)
        images[part, 0] = _draw(np.asarray(phases_N)[part] % 360, places.take(part), size)
    return images


def _draw(phases_N: np.ndarray, places: Places, size: int) -> np.ndarray:
    y_SK = ((np.arange(size * SUBROWS) + 0.5) / SUBROWS).reshape(size, SUBROWS)
    v_NSK = (y_SK - places.y_N[:, None, None]) / places.radius_N[:, None, None]
    half_NSK = places.radius_N[:, None, None] * np.sqrt(np.clip(1 - v_NSK**2, 0, None))
    edge_NSK = half_NSK * np.cos(np.deg2rad(phases_N))[:, None, None]
    waning_N11 = (phases_N > 180)[:, None, None]
    left_NSK = np.where(waning_N11, -half_NSK, edge_NSK)
    right_NSK = np.where(waning_N11, -edge_NSK, half_NSK)
    disc_NSS = _covered(-half_NSK, half_NSK, places.x_N, size)
    lit_NSS = _covered(left_NSK, right_NSK, places.x_N, size)
    light_NSS = SKY + (EARTHSHINE - SKY) * disc_NSS + (SUNLIT - EARTHSHINE) * lit_NSS
    return np.rint(light_NSS).astype(np.uint8)


def _covered(left_NSK: np.ndarray, right_NSK: np.ndarray, x_N: np.ndarray, size: int) -> np.ndarray:
    """The share (N, S, S) of each pixel that lies between two borders, given relative to a moon's middle."""
    columns_S = np.arange(size)
    middle_N111 = x_N[:, None, None, None]
    starts, ends = left_NSK[..., None] + middle_N111, right_NSK[..., None] + middle_N111
    covered_NSKS = np.clip(np.minimum(ends, columns_S + 1) - np.maximum(starts, columns_S), 0, 1)
    return covered_NSKS.mean(2)


@dataclass(frozen=True)
class Moons:
    """The keys of configs/data/moons.yaml."""

    size: Annotated[int, Between(16, 128)]
    channels: Literal[1, 3]
    count: Annotated[int, Between(1, 1_000_000)]
    phases: list[int]
    seed: Annotated[int, AtLeast(0)]

    def check(self) -> None:
        if not self.phases or not set(self.phases) < set(PHASES) or len(set(self.phases)) < len(self.phases):
            raise UserError(
                f"data.phases={self.phases} is not possible; it must hold some, not all, of the phases "
                f"0, {STEP}, {2 * STEP} .. {PHASES[-1]} (degrees), each once: the others are the test"
            )

    def key(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        """In training and validation `phases`, in the test all others, each equally often."""
        between = [phase for phase in PHASES if phase not in self.phases]
        seen = sorted(self.phases)
        images, labels = [], []
        counts = {"train": self.count, "valid": HELD_OUT, "test": HELD_OUT}
        for split, count in counts.items():
            choices = np.array(between if split == "test" else seen)
            phases_N = choices[np.arange(count) % len(choices)]
            images.append(self.draw(phases_N, self.places(split, count)))
            labels.append(phases_N // STEP)
            progress(sum(map(len, images)), sum(counts.values()))
        label = Label("phase", tuple(map(str, PHASES)))
        return Packed(np.concatenate(images), counts, np.concatenate(labels)[:, None], (label,))

    def places(self, split: str, count: int) -> Places:
        """Those of the first pictures of a split."""
        return Places.draw(count, self.size, self.seed, split)

    def draw(self, phases_N: np.ndarray, places: Places) -> np.ndarray:
        """uint8 (N, C, S, S)."""
        return draw(phases_N, places, self.size).repeat(self.channels, 1)
