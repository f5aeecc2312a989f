"""The factors of a face from its pixels alone: the proof that factors -> picture loses nothing.

Analysis by synthesis. The cores of the eyes depend on nothing but the eyes and the pose, so they are
matched first, at all poses. Then factor after factor is read where it shows: the choice is the one whose
drawing comes closest there. On pictures that `draw` made the match is exact; on others (a model's
samples) it is the nearest.

Legend: N faces, F factors, P pixels, D = 3 * P, K candidate choices, T templates.
"""

import numpy as np

from gentrain.anime.draw import check_size
from gentrain.anime.factors import COUNTS
from gentrain.anime.reading import EYE_FACTORS, POSE_FACTORS, POSES, Pose, eye_templates, reading_plan
from gentrain.errors import UserError

CHUNK = 2048  # faces decoded at once


def decode(images: np.ndarray) -> np.ndarray:
    """Pictures, uint8 (N, 3, size, size) -> factor choices, uint8 (N, F)."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise UserError(f"pictures to decode have the shape (N, 3, size, size), not {images.shape}.")
    size = images.shape[-1]
    check_size(size)
    factors_NF = np.zeros((len(images), len(COUNTS)), dtype=np.uint8)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        flat = chunk.reshape(len(chunk), 3, size * size)
        factors_NF[start : start + CHUNK] = _decode_chunk(flat, size)
    return factors_NF


def _decode_chunk(flat: np.ndarray, size: int) -> np.ndarray:
    """Pictures (N, 3, H * W) -> factor choices, uint8 (N, F)."""
    factors_NF = _read_pose_and_eyes(flat, size)
    for pose in POSES:
        chosen = np.flatnonzero((factors_NF[:, POSE_FACTORS] == pose).all(axis=1))
        if len(chosen):
            factors_NF[chosen] = _read_rest(flat[chosen], size, pose, factors_NF[chosen])
    return factors_NF


def _read_pose_and_eyes(flat: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, F) with pose and eyes set: those of the template at the least squared distance."""
    factors_NF = np.zeros((len(flat), len(COUNTS)), dtype=np.uint8)
    best_N = np.full(len(flat), np.inf)
    for pose in POSES:
        pixels, choices, templates_TD = eye_templates(size, pose)
        seen_ND = flat[:, :, pixels].reshape(len(flat), -1).astype(np.float32)
        products_NT = (seen_ND @ templates_TD.T).astype(np.float64)
        norms_N = np.square(seen_ND).sum(axis=1).astype(np.float64)
        norms_T = np.square(templates_TD).sum(axis=1).astype(np.float64)
        distance_NT = norms_N[:, None] + norms_T[None] - 2 * products_NT
        nearest_N, distance_N = distance_NT.argmin(axis=1), distance_NT.min(axis=1)
        better = np.flatnonzero(distance_N < best_N)
        best_N[better] = distance_N[better]
        factors_NF[better[:, None], POSE_FACTORS] = pose
        factors_NF[better[:, None], EYE_FACTORS] = choices[nearest_N[better]]
    return factors_NF


def _read_rest(flat: np.ndarray, size: int, pose: Pose, known_NF: np.ndarray) -> np.ndarray:
    """The factors of faces in one pose, whose pose and eyes are known."""
    for step in reading_plan(size, pose):
        seen_NK3P = flat[:, None, :, step.pixels].astype(np.int16)
        drawn_NK3P = step.draw_candidates(known_NF).astype(np.int16)
        distance_NK = np.abs(drawn_NK3P - seen_NK3P).sum(axis=(2, 3), dtype=np.int32)
        known_NF[:, step.group] = step.candidates[distance_NK.argmin(axis=1)]
    return known_NF
