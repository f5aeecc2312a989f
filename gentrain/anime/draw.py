"""Faces from their factors: pre-drawn layers laid over one another in batches, in integer arithmetic.

Legend: N faces, F factors, S the canvas's side in pixels, P pixels of the canvas (S * S unless chosen).
"""

import numpy as np

from gentrain.anime.factors import INDEX, check_factors
from gentrain.anime.layers import layers, margin_pixels, shift_pixels
from gentrain.anime.paint import over
from gentrain.anime.shapes import canvas_side
from gentrain.errors import UserError

VERSION = 1  # goes up when any pixel changes
SIZES = (32, 64)
CHUNK = 256  # faces drawn at once: a few megabytes, which fit a cache


def draw(factors_NF: np.ndarray, size: int) -> np.ndarray:
    """Factor choices (N, F) -> pictures, RGB bytes, uint8 (N, 3, size, size); size is 32 or 64."""
    check_size(size)
    factors_NF = np.asarray(factors_NF)
    check_factors(factors_NF)
    images = np.empty((len(factors_NF), 3, size, size), dtype=np.uint8)
    for start in range(0, len(factors_NF), CHUNK):
        chunk = factors_NF[start : start + CHUNK]
        _crop(_canvases(chunk, size), chunk, images[start : start + CHUNK])
    return images


def check_size(size: int) -> None:
    if size not in SIZES:
        raise UserError(
            f"anime faces are drawn at 32 or 64 pixels, not {size}: set data.size to one of these."
        )


def _canvases(factors_NF: np.ndarray, size: int) -> np.ndarray:
    """All layers over one another on the canvas that moves with the face: uint16 (N, 3, S, S)."""
    side = canvas_side(size)
    out = np.empty((len(factors_NF), 3, side, side), dtype=np.uint16)
    for depth, layer in enumerate(layers(size)):
        top, bottom, left, right = layer.box
        choice = tuple(factors_NF[:, f] for f in layer.factors)
        rgba = layer.table[..., top:bottom, left:right][choice]
        if depth == 0:
            out[...] = rgba[:, :3]
            continue
        region = out[:, :, top:bottom, left:right]
        region[...] = over(region, rgba[:, :3], rgba[:, 3:].astype(np.uint16))
    return out


def _crop(canvases: np.ndarray, factors_NF: np.ndarray, images: np.ndarray) -> None:
    """Cuts each picture out of its canvas where its shift puts it."""
    size, margin = images.shape[-1], margin_pixels(images.shape[-1])
    moves_x, moves_y = shift_pixels(size)
    shift_x, shift_y = factors_NF[:, INDEX["shift_x"]], factors_NF[:, INDEX["shift_y"]]
    for i, dx in enumerate(moves_x):
        for j, dy in enumerate(moves_y):
            chosen = (shift_x == i) & (shift_y == j)
            top, left = margin - int(dy), margin - int(dx)
            images[chosen] = canvases[chosen, :, top : top + size, left : left + size]
