"""Inks: masks with a colour's name -> a premultiplied RGBA picture a palette, all in integers.

Legend: K palettes, S the canvas's side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gentrain.anime.palettes import Colour, Palette
from gentrain.anime.shapes import Mask, canvas_side, coverage


@dataclass(frozen=True)
class Ink:
    """A shape filled with a colour: one of the palette's, by name, or always the same."""

    mask: Mask
    colour: str | Colour
    opacity: int = 255


def over(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Premultiplied uint16 `above` laid on `below`: above + below * (255 - alpha) / 255, rounded."""
    return above + divide_255(below * (255 - alpha))


def divide_255(x: np.ndarray) -> np.ndarray:
    """x / 255 to the nearest integer, for uint16 0 .. 255 * 255, without leaving uint16."""
    x = x + 128
    return (x + (x >> 8)) >> 8


def paint(inks: Sequence[Ink], palettes: Sequence[Palette], size: int) -> np.ndarray:
    """The inks one over another, in each palette: premultiplied RGBA, uint8 (K, 4, S, S)."""
    side = canvas_side(size)
    out = np.zeros((len(palettes), 4, side, side), dtype=np.uint16)
    for ink in inks:
        alpha_SS = divide_255(coverage(ink.mask, size) * ink.opacity)
        rows, columns = np.flatnonzero(alpha_SS.any(axis=1)), np.flatnonzero(alpha_SS.any(axis=0))
        if not len(rows):
            continue
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        colours = [ink.colour if isinstance(ink.colour, tuple) else p[ink.colour] for p in palettes]
        rgba_K4 = np.array([(*colour, 255) for colour in colours], dtype=np.uint16)[:, :, None, None]
        alpha = alpha_SS[box]
        out[:, :, *box] = over(out[:, :, *box], divide_255(rgba_K4 * alpha), alpha)
    return out.astype(np.uint8)
