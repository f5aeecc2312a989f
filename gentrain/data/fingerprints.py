"""Whether a data set is still the one that a run was trained on, and how it differs.

Legend: N images, K labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gentrain.data.reading.rows import hash64

SPLIT, LABEL = 2, 3  # columns of `identities`
BETWEEN = (
    "-"  # what a run knows of the labels' hash stands behind it; runs made before that have no such part
)


@dataclass(frozen=True)
class Label:
    """A discrete label that every image has: the names of its choices."""

    name: str
    choices: tuple[str, ...]


def parts_of(fingerprint: str) -> tuple[str, str]:
    """Of the pictures, and of the labels ("" for a run made before labels counted)."""
    pictures, _, labels = fingerprint.partition(BETWEEN)
    return pictures, labels


def pictures_of(fingerprint: str) -> str:
    return parts_of(fingerprint)[0]


def difference(old: str, new: str) -> Literal["pictures", "labels"] | None:
    """What two fingerprints say that differs. Of labels only where both know of them."""
    (old_pictures, old_labels), (new_pictures, new_labels) = parts_of(old), parts_of(new)
    if old_pictures != new_pictures:
        return "pictures"
    return "labels" if old_labels and new_labels and old_labels != new_labels else None


def fingerprint_of_pictures(shape: Sequence[int], counts: Mapping[str, int], identities: np.ndarray) -> str:
    """A hash of the shape, the sizes of the splits, and every image's hash in order; not of names."""
    digest = hashlib.sha256(json.dumps([list(shape), counts]).encode())
    digest.update(np.ascontiguousarray(identities[:, 1].astype(">u8")).tobytes())
    return digest.hexdigest()


def fingerprint_of_labels(info: Sequence[Label], hashes_N: np.ndarray) -> str:
    """Of the labels' names and choices, whose order is that of the numbers, and of every image's."""
    digest = hashlib.sha256(json.dumps([(label.name, label.choices) for label in info]).encode())
    digest.update(np.ascontiguousarray(hashes_N.astype(">u8")).tobytes())
    return digest.hexdigest()[:16]


def label_hashes(labels_NK: np.ndarray, info: Sequence[Label]) -> np.ndarray:
    """uint64 (N,): equal for images with the same labels by name, however the choices are numbered."""
    hashes_N = np.zeros(len(labels_NK), np.uint64)
    for column, label in enumerate(info):
        of_choices = [hash64(json.dumps([label.name, choice]).encode()) for choice in label.choices]
        hashes_N += np.array(of_choices, np.uint64)[labels_NK[:, column]]  # wraps around
    return hashes_N


@dataclass(frozen=True)
class Difference:
    """How the images of two versions of a data set differ."""

    added: int
    removed: int
    changed: int  # the same name, other pixels
    moved: int = 0  # the same pixels, in another split
    relabelled: int = 0  # the same pixels, with another label

    def __str__(self) -> str:
        moved = f", and {self.moved} in another split," if self.moved else ""
        return f"+{self.added}, -{self.removed}, ~{self.changed} images{moved}"


def compare(old: np.ndarray, new: np.ndarray) -> Difference:
    """Of two `identities`. An image that was only renamed is no difference.

    Those that older runs recorded have no fourth column: nothing is known of their labels.
    """
    left_old, left_new = _beyond(old, new[:, 1]), _beyond(new, old[:, 1])
    changed = len(np.intersect1d(left_old[:, 0], left_new[:, 0]))
    kept = len(old) - len(left_old)
    moved, relabelled = (
        kept - (len(old) - len(_beyond(_with(old, column), _with(new, column)[:, 1])))
        for column in (SPLIT, LABEL if old.shape[1] > LABEL else SPLIT)
    )
    return Difference(
        len(left_new) - changed,
        len(left_old) - changed,
        changed,
        moved,
        relabelled if old.shape[1] > LABEL else 0,
    )


def _with(rows: np.ndarray, column: int) -> np.ndarray:
    """The same rows, in which equal pixels with two values in that column are different ones."""
    mixed = rows[:, 1] + rows[:, column] * np.uint64(0x9E3779B97F4A7C15)  # wraps around
    return np.stack([rows[:, 0], mixed], 1)


def _beyond(rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The rows whose pixels occur more often here than in `pixels`: the surplus ones."""
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    here, first = np.unique(rows[:, 1], return_index=True)
    there, counts = np.unique(pixels, return_counts=True)
    taken = np.zeros(len(here), np.int64)
    known = np.isin(here, there)
    taken[known] = counts[np.isin(there, here)]
    rank = np.arange(len(rows)) - np.repeat(first, np.diff([*first, len(rows)]))
    return rows[rank >= np.repeat(taken, np.diff([*first, len(rows)]))]
