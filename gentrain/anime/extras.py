"""What surrounds the face: clothes, accessories, backgrounds."""

import numpy as np

from gentrain.anime.paint import Ink
from gentrain.anime.palettes import INK, WHITE, Colour
from gentrain.anime.shapes import FINE, GRID, Mask, Path, Pen, grow, mirror, symmetric

CREAM: Colour = (255, 250, 240)
GOLD: Colour = (255, 210, 84)


def torso() -> list[Ink]:
    """Neck and a sailor's collar; the body never tilts."""
    pen = Pen()
    shoulders = pen.blob(symmetric(((32, 60), (24, 60.4), (14, 62.6), (8, 70, 1), (32, 70, 1))))
    neck = pen.blob(symmetric(((32, 50), (27.6, 50, 1), (27.4, 58), (25.4, 61.4), (32, 66))))
    collar: Path = ((26.6, 59.4, 1), (20, 61), (14.4, 66, 1), (26, 70, 1), (31.4, 66.6, 1))
    collars = pen.blob(collar) | pen.blob(mirror(collar))
    shade = pen.blob(symmetric(((32, 50), (27, 50, 1), (27.4, 58.6), (32, 61.4)))) & neck
    bow = pen.ellipse(32, 65.6, 3.4, 2.4)
    return [
        Ink(grow(shoulders, 3), INK),
        Ink(shoulders, CREAM),
        Ink(grow(neck, 2), "edge"),
        Ink(neck, "skin"),
        Ink(shade, "dark"),
        Ink(grow(collars, 2), INK),
        Ink(collars, "cloth"),
        Ink(grow(bow, 2), INK),
        Ink(bow, "glow"),
    ]


def accessory(pen: Pen, choice: str) -> list[Ink]:
    if choice == "ribbon":
        return _ribbon(pen)
    if choice == "cat_ears":
        ear: Path = ((8.6, 19.6, 1), (7.4, 10.6), (9.4, 2.4, 1), (17.4, 5.8), (24.0, 11.4, 1))
        inner: Path = ((11.0, 16.4, 1), (9.8, 11), (10.8, 6.0, 1), (15.4, 8.6), (19.0, 12.2, 1))
        outer_masks = pen.blob(ear) | pen.blob(mirror(ear))
        inner_masks = pen.blob(inner) | pen.blob(mirror(inner))
        return [Ink(grow(outer_masks, 3), INK), Ink(outer_masks, "cloth"), Ink(inner_masks, (255, 208, 214))]
    if choice == "flower":
        petals = [(0.0, -3.6), (3.4, -1.1), (2.1, 2.9), (-2.1, 2.9), (-3.4, -1.1)]
        whole = np.zeros((GRID, GRID), dtype=bool)
        for dx, dy in petals:
            whole = whole | pen.ellipse(14.4 + dx, 17.0 + dy, 2.9, 2.9)
        return [Ink(grow(whole, 3), "cloth"), Ink(whole, WHITE), Ink(pen.ellipse(14.4, 17.0, 2.1, 2.1), GOLD)]
    if choice == "hairclips":
        bars = pen.stroke(((42.6, 18.2), (51.6, 23.0)), 2.4, 1, 1) | pen.stroke(
            ((50.6, 17.4), (43.8, 24.0)), 2.4, 1, 1
        )
        return [Ink(grow(bars, 3), INK), Ink(bars, GOLD)]
    if choice == "headband":
        arc: Path = ((7.6, 27), (11.6, 17.4), (20, 11.2), (32, 9.2), (44, 11.2), (52.4, 17.4), (56.4, 27))
        band = pen.stroke(arc, 4.2, 0.6, 0.6)
        light = pen.stroke([(x, y - 0.9) for x, y in arc], 1.0, 0.4, 0.4)
        return [Ink(grow(band, 3), INK), Ink(band, "cloth"), Ink(light, WHITE, 150)]
    if choice == "glasses":
        return _glasses(pen)
    return []


def _ribbon(pen: Pen) -> list[Ink]:
    left: Path = ((47.4, 10.6), (41, 5.4, 1), (38.4, 9), (40.6, 15.2, 1))
    right: Path = ((48.4, 10.6), (55.4, 6.4, 1), (58.6, 11), (54.6, 17.2, 1))
    loops = pen.blob(left) | pen.blob(right)
    knot = pen.ellipse(48.0, 11.0, 2.4, 2.7)
    return [
        Ink(grow(loops | knot, 3), INK),
        Ink(loops, "cloth"),
        Ink(pen.stroke(((47, 9.8), (43.4, 8.2), (41.4, 7.6)), 1.3), WHITE, 150),
        Ink(grow(knot, 2), INK),
        Ink(knot, "glow"),
    ]


def _glasses(pen: Pen) -> list[Ink]:
    rims = np.zeros((GRID, GRID), dtype=bool)
    for x in (21.0, 43.0):
        lens = pen.ellipse(x, 41.6, 9.4, 8.6)
        rims = rims | (grow(lens, 4) & ~lens)
    bridge = pen.stroke(((30.0, 40.6), (32, 39.8), (34.0, 40.6)), 1.3, 1, 1)
    return [Ink(rims | bridge, "deep")]


def background(pattern: str) -> list[Ink]:
    """A soft gradient in sixteen bands; dots or stripes of a lighter tone on it."""
    everywhere = np.ones((GRID, GRID), dtype=bool)
    inks = [Ink(everywhere, "top")]
    rows = np.arange(GRID)[:, None]
    for band in range(1, 16):  # each lays its share on those before it: evenly spaced tones
        inks.append(Ink(everywhere & (rows >= GRID * band // 16), "bottom", 255 // (17 - band)))
    if pattern == "dots":
        inks.append(Ink(_dots(), "mark"))
    if pattern == "stripes":
        y, x = np.mgrid[0:GRID, 0:GRID]
        inks.append(Ink((x + y) % (10 * FINE) < 5 * FINE, "mark"))
    return inks


def _dots() -> Mask:
    """Dots in a diamond lattice."""
    y, x = np.mgrid[0:GRID, 0:GRID] + 0.5
    pitch, radius = 10 * FINE, 2.4 * FINE
    out = np.zeros((GRID, GRID), dtype=bool)
    for phase in (0, pitch / 2):
        dx = (x - phase) % pitch - pitch / 2
        dy = (y - phase) % pitch - pitch / 2
        out = out | (dx * dx + dy * dy < radius * radius)
    return out
