"""Shapes: outlines in a 64 x 64 unit picture -> yes-or-no masks on a fine grid -> coverage per pixel.

Only + - * / sqrt and comparisons on float64 and integer counts, so that every machine draws the same
bytes. Legend: G the fine grid's side, S the canvas's side in pixels (the picture and its margin).
"""

import math
from collections.abc import Sequence

import numpy as np

UNITS = 64
MARGIN_UNITS = 2  # room around the picture, for faces shifted by one pixel of a 32 x 32 picture
FINE = 4  # fine cells a unit: 8 x 8 samples a pixel at size 32, 4 x 4 at size 64
GRID = (UNITS + 2 * MARGIN_UNITS) * FINE
CURVE_STEPS = 8
CIRCLE_STEPS = 6  # points an eighth of a circle

Mask = np.ndarray  # bool (G, G)
Path = Sequence[tuple[float, ...]]  # (x, y) passes smoothly, (x, y, 1) is a corner


def mirror(path: Path) -> list[tuple[float, ...]]:
    """The same path on the other side of the face."""
    return [(UNITS - point[0], *point[1:]) for point in reversed(path)]


def symmetric(path: Path) -> list[tuple[float, ...]]:
    """A closed path from its left half, which starts and ends at or near the middle line."""
    return [*path, *mirror([point for point in path if point[0] != UNITS / 2])]


def canvas_side(size: int) -> int:
    return size + 2 * MARGIN_UNITS * size // UNITS


def coverage(mask: Mask, size: int) -> np.ndarray:
    """How much of each pixel lies inside, uint16 (S, S) in 0 .. 255."""
    side = canvas_side(size)
    step = GRID // side
    counts_SS = mask.reshape(side, step, side, step).sum(axis=(1, 3), dtype=np.uint32)
    samples = step * step
    return ((counts_SS * 255 + samples // 2) // samples).astype(np.uint16)


def grow(mask: Mask, cells: int) -> Mask:
    """The mask and all that lies within about `cells` fine cells of it (an octagon's reach)."""
    out = mask
    for step in range(cells):
        padded = np.pad(out, 1)
        cross = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1]
        cross = cross | padded[1:-1, :-2] | padded[1:-1, 2:]
        if step % 2:
            cross = cross | padded[:-2, :-2] | padded[:-2, 2:] | padded[2:, :-2] | padded[2:, 2:]
        out = cross
    return out


def moved(mask: Mask, right: float, down: float) -> Mask:
    """The mask moved by units (to whole fine cells); what comes in at the borders is outside."""
    dx, dy = int(right * FINE), int(down * FINE)
    out = np.zeros_like(mask)
    source = mask[max(0, -dy) : GRID - max(0, dy), max(0, -dx) : GRID - max(0, dx)]
    out[max(0, dy) : max(0, dy) + source.shape[0], max(0, dx) : max(0, dx) + source.shape[1]] = source
    return out


def smooth(path: Path, closed: bool) -> np.ndarray:
    """Points (n, 2) of a curve through the path: cubic Hermite, tangents from neighbours, 0 at corners."""
    points = np.array([point[:2] for point in path], dtype=np.float64)
    if closed:
        before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    else:
        before = np.concatenate([points[:1], points[:-1]])
        after = np.concatenate([points[1:], points[-1:]])
    is_corner = np.array([len(point) > 2 for point in path])
    tangents = np.where(is_corner[:, None], 0.0, (after - before) / 2)
    ends, end_tangents = np.roll(points, -1, axis=0), np.roll(tangents, -1, axis=0)
    curve = []
    for step in range(CURVE_STEPS):
        t = step / CURVE_STEPS
        h_start, h_end = (2 * t - 3) * t * t + 1, (3 - 2 * t) * t * t
        h_out, h_in = t * (1 - t) * (1 - t), t * t * (t - 1)
        curve.append(points * h_start + ends * h_end + tangents * h_out + end_tangents * h_in)
    dense = np.stack(curve, axis=1)
    if closed:
        return dense.reshape(-1, 2)
    return np.concatenate([dense[:-1].reshape(-1, 2), points[-1:]])


def inside(points: np.ndarray) -> Mask:
    """The fine cells whose centres a closed polygon (n, 2), in units, winds around (nonzero rule)."""
    x0, y0 = (points[:, 0] + MARGIN_UNITS) * FINE, (points[:, 1] + MARGIN_UNITS) * FINE
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    first = min(max(0, math.floor(y0.min()) - 1), GRID)
    last = max(min(GRID, math.ceil(y0.max()) + 1), first)
    centre = np.arange(first, last)[:, None] + 0.5
    row, edge = np.nonzero((y0 <= centre) != (y1 <= centre))
    along = (centre[row, 0] - y0[edge]) / (y1[edge] - y0[edge])
    crossing = x0[edge] + along * (x1[edge] - x0[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, GRID).astype(np.int64)
    turns = np.zeros((last - first, GRID + 1), dtype=np.int16)
    np.add.at(turns, (row, column), np.where(y1[edge] > y0[edge], 1, -1).astype(np.int16))
    out = np.zeros((GRID, GRID), dtype=bool)
    out[first:last] = np.cumsum(turns, axis=1, dtype=np.int16)[:, :GRID] != 0
    return out


class Pen:
    """Draws masks of shapes given upright, turned about the neck by `half_tan`, tan of half the angle."""

    PIVOT = (32.0, 54.0)

    def __init__(self, half_tan: float = 0.0) -> None:
        self.half_tan = half_tan
        self.cos = (1 - half_tan * half_tan) / (1 + half_tan * half_tan)
        self.sin = 2 * half_tan / (1 + half_tan * half_tan)

    def polygon(self, points: np.ndarray) -> Mask:
        x, y = points[:, 0] - self.PIVOT[0], points[:, 1] - self.PIVOT[1]
        turned = [x * self.cos - y * self.sin + self.PIVOT[0], x * self.sin + y * self.cos + self.PIVOT[1]]
        return inside(np.stack(turned, axis=1))

    def blob(self, path: Path) -> Mask:
        """The inside of a smooth closed curve through the path."""
        return self.polygon(smooth(path, closed=True))

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Mask:
        t = np.arange(-CIRCLE_STEPS, CIRCLE_STEPS) / CIRCLE_STEPS  # a quarter of the circle, rationally
        c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        unit_x, unit_y = np.concatenate([c, -s, -c, s]), np.concatenate([s, c, -s, -c])
        return self.polygon(np.stack([x + rx * unit_x, y + ry * unit_y], axis=1))

    def stroke(self, path: Path, width: float, start: float = 0.0, end: float = 0.0) -> Mask:
        """A smooth line `width` units thick in the middle, and these shares of it at `start` and `end`."""
        curve = smooth(path, closed=False)
        ahead = np.concatenate([curve[1:], curve[-1:]]) - np.concatenate([curve[:1], curve[:-1]])
        length = np.sqrt(ahead[:, 0] * ahead[:, 0] + ahead[:, 1] * ahead[:, 1]) + 1e-9
        normal = np.stack([-ahead[:, 1] / length, ahead[:, 0] / length], axis=1)
        t = np.arange(len(curve)) / (len(curve) - 1)
        bulge = 4 * t * (1 - t)
        ends = start * (1 - t) + end * t
        half = (width / 2 * (ends + (1 - ends) * bulge))[:, None]
        return self.polygon(np.concatenate([curve + normal * half, (curve - normal * half)[::-1]]))
