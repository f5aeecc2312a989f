"""Hair: what hangs behind the head (`back_hair`) and what frames the face (`fringe`)."""

from collections.abc import Sequence

from gentrain.anime.face import face_mask
from gentrain.anime.paint import Ink
from gentrain.anime.shapes import Mask, Path, Pen, grow, mirror, moved, symmetric

OUTLINE_CELLS = 3

# Left halves, from the top of the head down and back to the middle line.
_HALVES: dict[str, Path] = {
    "bob": ((32, 5.5), (19, 7.5), (9, 16), (5, 30), (4.4, 42), (6.4, 52, 1), (14, 53.5), (24, 51), (32, 50)),
    "long": ((32, 5.5), (19, 7.5), (9, 16), (5.4, 30), (4.6, 46), (3.4, 58), (2.4, 70, 1), (32, 70, 1)),
    "spiky": (
        (32, 4.6),
        (24, 3.6),
        (14.5, -1.6, 1),
        (14.4, 4.2),
        (12.4, 8.4, 1),
        (7.4, 6.4),
        (0.6, 7.4, 1),
        (4.6, 11.4),
        (6.6, 16.6, 1),
        (2.6, 18.2),
        (-1.8, 23.4, 1),
        (2.8, 24.6),
        (5.0, 29.4, 1),
        (1.4, 34),
        (-1.6, 42.6, 1),
        (3.4, 40.8),
        (5.6, 43.4, 1),
        (2.8, 49.6),
        (3.4, 57.6, 1),
        (7.6, 52.6),
        (11, 50.4, 1),
        (11.4, 55),
        (14.6, 59.6, 1),
        (17, 54),
        (22, 50, 1),
        (32, 50),
    ),
    "wavy": (
        (32, 5.5),
        (19, 7),
        (8.5, 15),
        (3.6, 25),
        (5.4, 32),
        (0.6, 40),
        (4.0, 47),
        (-0.6, 55),
        (3.0, 61),
        (0.0, 70, 1),
        (32, 70, 1),
    ),
    "cap": ((32, 5.5), (19, 7.5), (9, 16), (6.4, 28), (7.6, 40), (12, 47), (22, 50), (32, 50)),
}
_TWIN_TAIL: Path = (
    (10.4, 14.4), (3.6, 14.6), (-1.6, 24), (-2.2, 38), (1.6, 50), (4.0, 57), (9.0, 64.5, 1), (10.4, 60),
    (15.4, 62.6, 1), (13.6, 54), (11.4, 47), (9.6, 36), (10.6, 25),
)  # fmt: skip
_PONYTAIL: Path = (
    (52, 9), (59, 7.4), (65.4, 13), (67, 27), (64.6, 42), (60, 53), (53.4, 62.4, 1), (54.6, 57),
    (49.0, 59.4, 1),
    (53.0, 50), (55.6, 38), (55, 24),
)  # fmt: skip
_BRAID_BEADS = ((9.6, 47.5, 4.6), (8.2, 53.2, 4.3), (7.4, 58.6, 3.9), (7.0, 63.6, 3.5))


def back_hair(pen: Pen, style: str) -> list[Ink]:
    half = _HALVES.get(style, _HALVES["cap"])
    inks = _hank(pen.blob(symmetric(half)), "shade")
    if style == "long":
        inks += _strands(pen, (((8.4, 36), (7.6, 48), (6.4, 62)), ((12.6, 46), (12.4, 56), (11.4, 66))))
    if style == "wavy":
        inks += _strands(
            pen, (((7.6, 34), (5.4, 42), (8.0, 50), (5.0, 60)), ((12, 46), (10.6, 54), (12, 64)))
        )
    if style == "twin_tails":
        for path in (_TWIN_TAIL, mirror(_TWIN_TAIL)):
            inks += _hank(pen.blob(path), "base")
        inks += _strands(
            pen, (((5.6, 20), (1.8, 32), (3.0, 44), (8.4, 58)), ((8.4, 24), (6.0, 34), (7.6, 46), (11.4, 57)))
        )
        inks += [Ink(pen.ellipse(x, 19.0, 2.6, 3.4), "line") for x in (9.2, 54.8)]
    if style == "ponytail":
        inks += _hank(pen.blob(_PONYTAIL), "base")
        inks.append(Ink(pen.stroke(((57, 13), (62.4, 24), (61.4, 38), (55.4, 54)), 1.6), "shade"))
        inks.append(Ink(pen.ellipse(53.6, 13.0, 2.8, 3.6), "line"))
    if style == "buns":
        for x in (11.6, 52.4):
            inks += _hank(pen.ellipse(x, 8.6, 8.0, 7.6), "base")
            inks.append(Ink(pen.ellipse(x - 1.6, 5.6, 3.4, 1.9), "light", 200))
    if style == "braids":
        for right in (False, True):
            for x, y, r in reversed(_BRAID_BEADS):
                inks += _hank(pen.ellipse(64 - x if right else x, y, r, r * 0.95), "base")
    return inks


def _hank(mask: Mask, fill: str) -> list[Ink]:
    """Outline, fill, and a darker lower edge."""
    low = mask & ~moved(mask, 0, -2.5)
    return [Ink(grow(mask, OUTLINE_CELLS), "line"), Ink(mask, fill), Ink(low, "line", 60)]


def _strands(pen: Pen, paths: Sequence[Path]) -> list[Ink]:
    return [Ink(pen.stroke(q, 1.3), "line", 150) for p in paths for q in (p, mirror(p))]


# The crown's left edge down to the cheek: where every fringe starts and ends.
_CROWN_LEFT: Path = ((7.4, 38, 1), (6.4, 28), (8.2, 18), (14.5, 9.4), (23, 5.4), (32, 4.4))
_CROWN: Path = (*_CROWN_LEFT, *mirror(_CROWN_LEFT[:-1]))

# The lower edge, from the right cheek to the left one.
_EDGES: dict[str, Path] = {
    "straight": (
        (56.0, 50, 1), (51.6, 51, 1), (50.6, 40), (49.8, 29.6, 1), (46.4, 30.6), (43.4, 29.4, 1),
        (42.6, 30.6),
        (37.6, 30.4), (36.4, 28.6, 1), (35.4, 30.6), (29.4, 30.6), (28.2, 28.8, 1), (27.0, 30.6),
        (21.2, 30.6),
        (20.4, 29.4, 1), (17.6, 30.6), (14.2, 29.6, 1), (13.4, 40), (12.4, 51, 1), (8.0, 50, 1),
    ),
    "parted": (
        (55.4, 44, 1), (53.6, 52, 1), (50.4, 42), (48.4, 34), (43.4, 27.4), (37.0, 22), (32.6, 13.6, 1),
        (31.4, 13.6, 1), (27.0, 22), (20.6, 27.4), (15.6, 34), (13.6, 42), (10.4, 52, 1), (8.6, 44, 1),
    ),
    "swept": (
        (55.6, 42, 1), (53.4, 49, 1), (51.4, 40), (48.6, 30), (44.6, 21.6), (41.6, 16.4, 1), (38.6, 23),
        (33.4, 28), (28.0, 31.2, 1), (28.0, 28.6), (24.0, 30.6), (18.4, 33.8, 1), (18.2, 30.4, 1),
        (14.6, 36),
        (12.6, 44), (9.4, 50, 1), (8.6, 42, 1),
    ),
    "spiky": (
        (56.0, 40, 1), (53.0, 47, 1), (51.6, 34), (49.6, 27, 1), (46.6, 31), (44.4, 34.4, 1), (42.6, 27),
        (40.4, 23.4, 1), (37.4, 29.4), (34.4, 33.6, 1), (32.4, 27), (29.6, 22.8, 1), (27.0, 28),
        (21.6, 33.4, 1),
        (21.4, 28), (19.6, 24.8, 1), (16.4, 30), (12.8, 36), (10.8, 47, 1), (8.0, 40, 1),
    ),
    "centre_lock": (
        (56.0, 42, 1), (53.4, 50, 1), (51.2, 38), (48.0, 29), (43.2, 22.4), (39.4, 18.6, 1), (37.2, 27),
        (34.0, 34), (31.4, 40.6, 1), (30.6, 33), (29.6, 26), (27.2, 18.6, 1), (22.2, 23.6), (16.4, 30),
        (13.4, 40), (10.4, 50, 1), (8.0, 42, 1),
    ),
    "forehead": (
        (55.2, 40, 1), (54.0, 48, 1), (52.4, 38), (51.6, 31), (49.4, 38), (47.4, 41.6, 1), (48.6, 33),
        (48.6, 28),
        (44.6, 21.8), (38.6, 18.6), (32, 17.8), (25.4, 18.6), (19.4, 21.8), (15.4, 28), (15.4, 33),
        (16.6, 41.6, 1),
        (14.6, 38), (12.4, 31), (11.6, 38), (10.0, 48, 1), (8.8, 40, 1),
    ),
}  # fmt: skip
_PARTINGS: dict[str, Sequence[Path]] = {
    "straight": (((21, 12), (18.4, 20), (19.4, 28)), ((30, 12), (28.0, 20), (28.2, 27)),
                 ((37, 12), (37, 20), (36.4, 27)), ((45, 13), (46, 20), (43.8, 28))),
    "parted": (((31.6, 6), (24, 12), (16.6, 22), (13, 34)), ((32.4, 6), (40, 12), (47.4, 22), (51, 34))),
    "swept": (((42, 8), (36, 16), (27, 24), (19.4, 29)), ((43, 9), (47.6, 16), (51, 26), (52.6, 36)),
              ((40, 7), (29, 14), (18, 24), (13, 34))),
    "spiky": (((28, 9), (22, 18), (19.8, 25)), ((33, 9), (30.6, 16), (29.8, 23)), ((38, 9), (40, 16),
    (40.4, 24)),
              ((43, 10), (49, 18), (50, 27))),
    "centre_lock": (((29, 8), (28.6, 14), (27.6, 19)), ((36, 8), (38.4, 13), (39, 19)),
                    ((26, 8), (17, 17), (12.6, 32)), ((38, 8), (47, 17), (51.4, 32))),
    "forehead": (((28, 6), (22, 11), (15, 21), (11, 32)), ((32, 6), (32, 11), (32, 16.4)),
                 ((36, 6), (42, 11), (49, 21), (53, 32))),
}  # fmt: skip


def fringe(pen: Pen, style: str) -> list[Ink]:
    """The crown and the fringe, with its shadow on the forehead, a shine band and parting lines."""
    hair = pen.blob((*_CROWN, *_EDGES[style]))
    shadow = moved(hair, 0, 2.0) & ~hair & face_mask(pen)
    tips = hair & ~moved(hair, 0, -3.5)
    return [
        Ink(shadow, "shadow", 70),
        Ink(grow(hair, OUTLINE_CELLS), "line"),
        Ink(hair, "base"),
        Ink(tips, "shade", 190),
        Ink(_shine(pen) & hair, "light", 230),
        *(Ink(pen.stroke(path, 1.2, 0.3, 0.3) & hair, "line", 150) for path in _PARTINGS[style]),
    ]


def _shine(pen: Pen) -> Mask:
    """The bright ring around the crown, with a ragged lower edge: the genre's halo."""
    upper = [(14.0, 19.4, 1), (20, 14.8), (32, 12.6), (44, 14.8), (50.0, 19.4, 1)]
    teeth = [
        (47.4, 18.6),
        (45.6, 20.4, 1),
        (43.0, 17.6, 1),
        (39.6, 19.2, 1),
        (36.0, 16.4, 1),
        (32.4, 18.4, 1),
    ]
    teeth += [(28.4, 16.4, 1), (24.8, 19.4, 1), (21.2, 17.4, 1), (18.4, 20.4, 1), (16.6, 18.6)]
    return pen.blob([*upper, *teeth])
