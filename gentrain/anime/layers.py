"""The layers of a picture, pre-drawn for every choice that they depend on, from the bottom to the top.

Legend: S the canvas's side in pixels: the picture and a margin, within which a face is shifted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gentrain.anime import extras, face, hair
from gentrain.anime.factors import FACTORS, INDEX
from gentrain.anime.paint import Ink, paint
from gentrain.anime.palettes import BACKGROUND, EYES, HAIR, SKIN, Palette
from gentrain.anime.shapes import MARGIN_UNITS, UNITS, Pen, canvas_side

HALF_TANS = (-0.05, 0.0, 0.05)  # tilts of 5.7 degrees: tan of half the angle
SHIFTS_X = (-1, 0, 1)  # in pixels of a 32 x 32 picture
SHIFTS_Y = (-1, 0)


@dataclass(frozen=True)
class Layer:
    """One layer in all its variants.

    `table` is premultiplied RGBA, uint8 (one axis a factor of `factors`, 4, S, S); nothing lies outside
    the rows and columns of `box` = (top, bottom, left, right).
    """

    factors: tuple[int, ...]
    table: np.ndarray
    box: tuple[int, int, int, int]


@lru_cache(maxsize=2)
def layers(size: int) -> tuple[Layer, ...]:
    """All layers for pictures of size x size pixels, bottom first."""
    dressed = [{**skin, **eye} for skin in SKIN for eye in EYES]
    side = canvas_side(size)
    torso = paint(extras.torso(), dressed, size).reshape(len(SKIN), len(EYES), 4, side, side)
    return (
        _layer(("background", "pattern", "shift_x", "shift_y"), _backgrounds(size)),
        _layer(("tilt", "hair_style", "hair_color"), _variants("hair_style", hair.back_hair, HAIR, size)),
        _layer(("skin", "eye_color"), torso),
        _layer(("tilt", "blush", "skin"), _variants("blush", face.face, SKIN, size)),
        _layer(("tilt", "mouth"), _variants("mouth", face.mouth, ({},), size)[:, :, 0]),
        _layer(("tilt", "eye_shape", "eye_color"), _variants("eye_shape", face.eyes, EYES, size)),
        _layer(("tilt", "fringe", "hair_color"), _variants("fringe", hair.fringe, HAIR, size)),
        _layer(("tilt", "brow", "hair_color"), _variants("brow", face.brows, HAIR, size)),
        _layer(("tilt", "accessory", "eye_color"), _variants("accessory", extras.accessory, EYES, size)),
    )


def shift_pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    """How far each choice of shift_x, shift_y moves a face right and down, in pixels."""
    return np.array(SHIFTS_X) * (size // 32), np.array(SHIFTS_Y) * (size // 32)


def margin_pixels(size: int) -> int:
    return MARGIN_UNITS * size // UNITS


def _layer(names: tuple[str, ...], table: np.ndarray) -> Layer:
    visible = np.asarray(table.reshape(-1, *table.shape[-3:])[:, 3].any(axis=0))
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    return Layer(tuple(INDEX[name] for name in names), table, box)


def _variants(
    name: str, draw_inks: Callable[[Pen, str], list[Ink]], palettes: Sequence[Palette], size: int
) -> np.ndarray:
    """A part of the head at each tilt, in each choice of factor `name`, in each palette."""
    choices = FACTORS[INDEX[name]].choices
    return np.stack(
        [
            np.stack([paint(draw_inks(Pen(half_tan), choice), palettes, size) for choice in choices])
            for half_tan in HALF_TANS
        ]
    )


def _backgrounds(size: int) -> np.ndarray:
    """Backgrounds stay where they are: on the canvas, which moves with the face, they move the other way."""
    patterns = FACTORS[INDEX["pattern"]].choices
    still = np.stack([paint(extras.background(pattern), BACKGROUND, size) for pattern in patterns], axis=1)
    moves_x, moves_y = shift_pixels(size)
    return np.stack(
        [
            np.stack([np.roll(still, (-int(dy), -int(dx)), axis=(-2, -1)) for dy in moves_y], axis=2)
            for dx in moves_x
        ],
        axis=2,
    )
