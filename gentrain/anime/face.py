"""Face, eyes, brows, mouth: the inks of each choice, drawn with a pen that knows the head's tilt."""

from gentrain.anime.paint import Ink
from gentrain.anime.palettes import INK, WHITE
from gentrain.anime.shapes import UNITS, Mask, Path, Pen, grow, mirror, moved

EYE_X, EYE_Y = 21.5, 39.5  # the left eye's centre; the right one mirrors it
EYE_WIDTH, EYE_HEIGHT = 14.5, 16.5

FACE: Path = (
    (12.0, 24),
    (11.6, 36),
    (13.9, 45.2),
    (18.8, 51.8),
    (25.8, 56.6),
    (32, 58.2),
    (38.2, 56.6),
    (45.2, 51.8),
    (50.1, 45.2),
    (52.4, 36),
    (52.0, 24),
    (32, 10),
)


def face_mask(pen: Pen) -> Mask:
    return pen.blob(FACE)


def face(pen: Pen, blush: str) -> list[Ink]:
    """The head without its features: skin, a darker lower rim, the hint of a nose, blush on the cheeks."""
    head = face_mask(pen)
    rim = head & ~moved(head, 0, -1.6)
    inks = [Ink(grow(head, 3), "edge"), Ink(head, "skin"), Ink(rim, "dark", 130)]
    inks.append(Ink(pen.blob(((31.4, 46.2), (32.9, 47.2), (31.9, 48.2))), "edge", 170))
    if blush == "pink":
        for x in (16.4, UNITS - 16.4):
            inks.append(Ink(pen.ellipse(x, 49.0, 4.6, 2.7) & head, "blush", 110))
            inks.append(Ink(pen.ellipse(x, 49.0, 3.2, 1.7) & head, "blush", 160))
    return inks


# How each eye shape differs: how high above the eye's centre the upper lid runs at its inner corner, its
# middle and its outer corner, in units.
_LIDS: dict[str, tuple[float, float, float]] = {
    "round": (5.6, 8.4, 4.6),
    "sharp": (3.6, 7.4, 7.2),
    "droopy": (7.0, 7.6, 1.6),
    "half_lidded": (4.2, 4.4, 3.4),
}


def eyes(pen: Pen, shape: str) -> list[Ink]:
    return [*_eye(pen, shape, False), *_eye(pen, shape, True)]


def _eye(pen: Pen, shape: str, is_right: bool) -> list[Ink]:
    """White, iris (dark above, glowing below), pupil, highlights, lashes; both are lit from the left."""
    left_paths = (_opening(shape), _lower_lash(), _upper_lash(shape))
    opening_path, lower_path, lash_path = (mirror(path) if is_right else path for path in left_paths)
    opening = pen.blob(opening_path)
    x, y = UNITS - EYE_X - 0.5 if is_right else EYE_X + 0.5, EYE_Y
    iris = pen.ellipse(x, y + 0.2, 5.3, 8.0) & opening
    return [
        Ink(opening, WHITE),
        Ink(opening & moved(~opening, 0, 2.5), (206, 206, 228)),
        Ink(iris, "deep"),
        Ink(pen.ellipse(x, y + 0.9, 4.3, 6.6) & iris, "iris"),
        Ink(pen.ellipse(x, y - 4.4, 5.3, 5.2) & iris, "deep", 200),
        Ink(pen.ellipse(x, y + 5.0, 4.2, 3.4) & iris, "glow", 235),
        Ink(pen.ellipse(x, y + 0.6, 2.1, 3.3) & iris, INK),
        Ink(pen.ellipse(x - 2.3, y - 3.2, 2.2, 2.6) & opening, WHITE),
        Ink(pen.ellipse(x + 2.3, y + 4.1, 1.25, 1.35) & opening, WHITE),
        Ink(pen.stroke(lower_path, 1.1, 0.6, 0.3), INK, 190),
        Ink(pen.blob(lash_path), INK),
    ]


def _opening(shape: str) -> Path:
    """The outline of the left eye's white, from the outer corner along the upper lid."""
    inner, middle, outer = _LIDS[shape]
    x, y, rx, bottom = EYE_X, EYE_Y, EYE_WIDTH / 2, EYE_Y + EYE_HEIGHT / 2
    return (
        (x - rx + 0.6, y - outer + 1.0, 1),
        (x - 3.2, y - (middle + outer) / 2 - 0.8),
        (x + 0.4, y - middle),
        (x + 4.2, y - (middle + inner) / 2 - 0.6),
        (x + rx - 0.4, y - inner + 1.6, 1),
        (x + rx - 1.2, y + 4.4),
        (x + 2.6, bottom - 0.9),
        (x - 1.6, bottom - 0.8),
        (x - rx + 1.6, y + 4.0),
    )


def _upper_lash(shape: str) -> Path:
    """The left eye's dark upper lid, thick in the middle, with a flick at the outer corner."""
    inner, middle, outer = _LIDS[shape]
    x, y, rx = EYE_X, EYE_Y, EYE_WIDTH / 2
    return (
        (x - rx - 1.9, y - outer - 0.6, 1),
        (x - 3.6, y - (middle + outer) / 2 - 2.2),
        (x + 0.4, y - middle - 1.6),
        (x + 4.4, y - (middle + inner) / 2 - 1.6),
        (x + rx + 0.5, y - inner + 1.4, 1),
        (x + 4.0, y - (middle + inner) / 2 + 0.2),
        (x + 0.4, y - middle + 1.0),
        (x - 3.0, y - (middle + outer) / 2 + 0.6),
        (x - rx + 1.4, y - outer + 2.6),
        (x - rx + 0.4, y - outer + 4.6, 1),
    )


def _lower_lash() -> Path:
    x, bottom = EYE_X, EYE_Y + EYE_HEIGHT / 2
    return ((x - 4.2, bottom - 1.3), (x, bottom - 0.2), (x + 3.2, bottom - 0.9))


_BROWS: dict[str, Path] = {
    "soft": ((14.6, 28.6), (20.0, 25.6), (26.4, 26.8)),
    "firm": ((14.4, 25.2), (20.6, 25.6), (26.8, 28.8)),
    "worried": ((14.4, 29.2), (20.4, 26.9), (26.4, 24.2)),
}


def brows(pen: Pen, brow: str) -> list[Ink]:
    """Drawn over the fringe, as the genre does, so that the mood is never hidden."""
    path = _BROWS[brow]
    return [Ink(pen.stroke(p, 1.9, 0.5, 0.5), "line") for p in (path, mirror(path))]


def mouth(pen: Pen, choice: str) -> list[Ink]:
    red, tongue = (190, 62, 76), (246, 142, 146)
    if choice == "smile":
        return [Ink(pen.stroke(((27.4, 51.0), (32, 53.6), (36.6, 51.0)), 2.0, 0.6, 0.6), INK)]
    if choice == "open":
        shape = pen.blob(
            ((27.4, 50.4, 1), (32, 51.0), (36.6, 50.4, 1), (35.0, 53.9), (32, 55.4), (29.0, 53.9))
        )
        low = pen.ellipse(32, 55.2, 3.0, 1.9) & shape
        return [Ink(grow(shape, 2), INK), Ink(shape, red), Ink(low, tongue)]
    if choice == "cat":
        left = ((26.8, 50.6), (28.2, 52.7), (30.4, 52.8), (32, 50.8, 1))
        return [Ink(pen.stroke(p, 1.8, 0.7, 0.9), INK) for p in (left, mirror(left))]
    if choice == "flat":
        return [Ink(pen.stroke(((28.4, 52.9), (35.6, 52.9)), 1.7, 1, 1), INK)]
    if choice == "surprised":
        shape = pen.ellipse(32, 52.6, 1.9, 2.5)
        return [Ink(grow(shape, 2), INK), Ink(shape, red)]
    out = pen.blob(((31.6, 52.8, 1), (36.2, 51.8, 1), (36.6, 54.4), (34.6, 55.8), (32.4, 54.8)))
    smile = pen.stroke(((27.2, 50.8), (32, 53.4), (37.0, 50.8)), 1.9, 0.6, 0.6)
    return [Ink(grow(out, 2), INK), Ink(out, tongue), Ink(smile, INK)]
