"""Where each factor can be read from: which pixels depend on which factors, and a plan for the decoder.

A face's factors are read one after another, each from pixels that depend on it and on nothing that is
still unknown. Which pixels these are follows from the layers themselves, pose by pose.

Legend: N faces, F factors, S the canvas's side, P pixels, K candidate choices, T templates.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from gentrain.anime.factors import COMBINATIONS, COUNTS, INDEX, combinations
from gentrain.anime.layers import layers, margin_pixels, shift_pixels
from gentrain.anime.paint import over
from gentrain.anime.shapes import canvas_side

TILT = INDEX["tilt"]
POSE_FACTORS = (TILT, INDEX["shift_x"], INDEX["shift_y"])
EYE_FACTORS = (INDEX["eye_shape"], INDEX["eye_color"])
# What is read after the pose and the eyes, in this order; background and pattern go together. The eyes'
# shape is read again, from the lids, which tell more than the cores once skin and fringe are known.
STEPS: tuple[tuple[int, ...], ...] = tuple(
    tuple(INDEX[name] for name in names.split())
    for names in (
        "skin",
        "mouth",
        "blush",
        "hair_color",
        "fringe",
        "brow",
        "eye_shape",
        "accessory",
        "background pattern",
        "hair_style",
    )
)
EYE_PIXELS = 80  # 80 * 3 * 255**2 < 2**24: sums of products are exact in float32
STEP_PIXELS = 32
CHOSEN_FROM = 320  # pixels at most, evenly taken, among which a step's are chosen
CONTEXTS = 16  # random settings of the known factors, in which pixels must tell the candidates apart

Pose = tuple[int, ...]  # choices of POSE_FACTORS
Table = tuple[tuple[int, ...], np.ndarray]  # factors, RGBA (one axis a factor, 4, pixels)
POSES: tuple[Pose, ...] = tuple(product(*(range(COUNTS[f]) for f in POSE_FACTORS)))


@dataclass(frozen=True)
class Step:
    """Reads the factors of `group`, one of `candidates` (K, len(group)), from a picture's `pixels` (P,)."""

    group: tuple[int, ...]
    candidates: np.ndarray
    pixels: np.ndarray
    tables: tuple[Table, ...]

    def draw_candidates(self, known_NF: np.ndarray) -> np.ndarray:
        """The pixels' values, uint16 (N, K, 3, P), for every candidate, the other factors as known."""
        shape = (len(known_NF), len(self.candidates), 3, len(self.pixels))
        out = np.zeros(shape, dtype=np.uint16)
        for factors, table in self.tables:
            choice = tuple(
                self.candidates[None, :, self.group.index(f)] if f in self.group else known_NF[:, None, f]
                for f in factors
            )
            rgba = table[choice]
            out = over(out, rgba[:, :, :3], rgba[:, :, 3:].astype(np.uint16))
        return out


@lru_cache(maxsize=len(POSES) * 2)
def reading_plan(size: int, pose: Pose) -> tuple[Step, ...]:
    """The steps after pose and eyes, each with the few pixels that tell its candidates apart best."""
    varies, visible = _varies(size, pose[0]), _in_picture(size, pose)
    contexts_NF = combinations(np.arange(CONTEXTS) * (COMBINATIONS // CONTEXTS), seed=0)
    contexts_NF[:, POSE_FACTORS] = pose
    known, plan = {*POSE_FACTORS, INDEX["eye_color"]}, []
    for group in STEPS:
        unknown = [f for f in range(len(COUNTS)) if f not in known and f not in group]
        cells = np.flatnonzero(visible & varies[list(group)].any(axis=0) & ~varies[unknown].any(axis=0))
        cells = _evenly(cells, CHOSEN_FROM)
        best = _telling(_step(size, pose, group, cells).draw_candidates(contexts_NF))
        plan.append(_step(size, pose, group, cells[best]))
        known |= set(group)
    return tuple(plan)


@lru_cache(maxsize=len(POSES) * 2)
def eye_templates(size: int, pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (P,) that only the eyes change, the eyes' choices (T, 2), their looks, float32 (T, 3 * P).

    P is the same at each pose, so that distances compare.
    """
    count = min(EYE_PIXELS, *(len(_eye_cells(size, other)) for other in POSES))
    step = _step(size, pose, EYE_FACTORS, _evenly(_eye_cells(size, pose), count))
    drawn = step.draw_candidates(np.zeros((1, len(COUNTS)), dtype=np.uint8))
    return step.pixels, step.candidates, drawn.reshape(len(step.candidates), -1).astype(np.float32)


def _eye_cells(size: int, pose: Pose) -> np.ndarray:
    varies = _varies(size, pose[0])
    others = [f for f in range(len(COUNTS)) if f not in EYE_FACTORS]
    only_eyes = varies[list(EYE_FACTORS)].any(axis=0) & ~varies[others].any(axis=0)
    return np.flatnonzero(_in_picture(size, pose) & only_eyes)


@lru_cache(maxsize=2 * COUNTS[TILT])
def _varies(size: int, tilt: int) -> np.ndarray:
    """Which factors can change which pixel of the canvas at this tilt: bool (F, S * S)."""
    varies = np.zeros((len(COUNTS), canvas_side(size) ** 2), dtype=bool)
    for factors, table in _tables(size, tilt):
        every = table.reshape(-1, *table.shape[-2:])
        varies[:, (every[:, 3] == 255).all(axis=0)] = False  # always opaque: hides all below
        for axis, f in enumerate(factors):
            varies[f] |= (table != table.take([0], axis=axis)).any(axis=tuple(range(table.ndim - 1)))
    return varies


def _tables(size: int, tilt: int) -> list[Table]:
    """The layers at one tilt, bottom first, with the canvas's pixels in one axis."""
    out = []
    for layer in layers(size):
        table = layer.table.reshape(*layer.table.shape[:-2], -1)
        if TILT in layer.factors:
            table = np.moveaxis(table, layer.factors.index(TILT), 0)[tilt]
        out.append((tuple(f for f in layer.factors if f != TILT), table))
    return out


def _corner(size: int, pose: Pose) -> tuple[int, int]:
    """The canvas's row and column where the picture of a face in this pose begins."""
    moves_x, moves_y = shift_pixels(size)
    return margin_pixels(size) - int(moves_y[pose[2]]), margin_pixels(size) - int(moves_x[pose[1]])


def _in_picture(size: int, pose: Pose) -> np.ndarray:
    """The canvas's pixels that are in the picture: bool (S * S,)."""
    top, left = _corner(size, pose)
    inside = np.zeros((canvas_side(size), canvas_side(size)), dtype=bool)
    inside[top : top + size, left : left + size] = True
    return inside.reshape(-1)


def _evenly(cells: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the cells, spread over them all."""
    return cells if len(cells) <= count else cells[np.arange(count) * len(cells) // count]


def _step(size: int, pose: Pose, group: tuple[int, ...], cells: np.ndarray) -> Step:
    """A step at given pixels of the canvas, without the layers that never show there."""
    candidates = np.array(list(product(*(range(COUNTS[f]) for f in group))), dtype=np.uint8)
    tables: list[Table] = []
    for factors, table in _tables(size, pose[0]):
        part = np.ascontiguousarray(table[..., cells])
        if (part[..., 3, :] == 255).all():
            tables = []
        if part[..., 3, :].any():
            tables.append((factors, part))
    top, left = _corner(size, pose)
    rows, columns = np.divmod(cells, canvas_side(size))
    return Step(group, candidates, (rows - top) * size + columns - left, tuple(tables))


def _telling(drawn_NK3P: np.ndarray) -> np.ndarray:
    """Greedily at most STEP_PIXELS pixels that, in each context, tell each pair of candidates apart best."""
    values = drawn_NK3P.astype(np.int16)
    first, second = np.triu_indices(values.shape[1], k=1)
    gaps = np.abs(values[:, first] - values[:, second]).sum(axis=2).reshape(-1, values.shape[-1])
    gaps = np.minimum(gaps, 255).astype(np.float32)  # (contexts * pairs, P)
    chosen: list[int] = []
    total = np.zeros(len(gaps), dtype=np.float32)
    for _ in range(min(STEP_PIXELS, gaps.shape[1])):
        gains = (1 / (8 + total) ** 2) @ gaps  # a pair that is hardly told apart yet counts most
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        total += gaps[:, chosen[-1]]
    return np.array(sorted(chosen))
