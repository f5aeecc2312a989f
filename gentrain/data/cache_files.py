"""The files of the cache's entries: read only if they are whole and hold what they must."""

from __future__ import annotations

import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast
from gentrain.config.schema import fits
from gentrain.data.fingerprints import Label
from gentrain.data.reading.entries import SPLITS, Bad
from gentrain.runtime.stored_files import Unreadable, read_json_object

LARGEST_META = 2**30  # bytes: every bad picture has a line in it
# What meta.json must hold, and what is shown of its facts.
COUNT = Annotated[int, AtLeast(0)]
META = {
    "counts": dict,
    "labels": list[tuple[str, list[str]]],
    "facts": dict,
    "bad": list[tuple[str, str]],
    "fingerprint": str,
}
FACTS: dict[str, Any] = dict.fromkeys(("found", "duplicates", "left_out"), COUNT)
FACTS |= {"entropy_bits": float, "ignored": dict, "remarks": list[str]}
FACTS["originals"] = dict.fromkeys(("smallest", "median", "largest"), tuple[int, int]) | {"colored": COUNT}
# What NumPy raises on a damaged header; its text is parsed as Python literals.
UNREADABLE_NPY = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
    MemoryError,
)


class NotWhole(Exception):
    """Why an entry of the cache cannot be used: a cache is never an authority, so it is made again."""


Meta = tuple[dict[str, int], tuple[Label, ...], dict[str, Any], tuple[Bad, ...], str]


def read_meta(file: Path) -> Meta:
    """The counts, labels, facts, bad pictures and the pictures' fingerprint; raises NotWhole."""
    try:
        meta = read_json_object(file, LARGEST_META)
    except Unreadable as error:
        raise NotWhole(f"meta.json: {error.fault}") from error
    for key, annotation in META.items():
        if key not in meta or not fits(meta[key], annotation):
            raise NotWhole(f"meta.json: {key} is missing or has no meaning")
    counts = meta["counts"]
    if counts.keys() != set(SPLITS) or any(not fits(count, COUNT) for count in counts.values()):
        raise NotWhole("meta.json: counts are no numbers of pictures")
    if counts["train"] < 1:
        raise NotWhole("meta.json: no picture to train on")
    if not _fit(meta["facts"], FACTS):
        raise NotWhole("meta.json: facts have no meaning")
    info = tuple(Label(name, tuple(choices)) for name, choices in meta["labels"])
    bad = tuple(Bad(name, reason) for name, reason in meta["bad"])
    return {split: counts[split] for split in SPLITS}, info, meta["facts"], bad, meta["fingerprint"]


def _fit(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether all that is there of what is known is of the kind that it must be."""
    for key in found.keys() & wanted.keys():
        value, kind = found[key], wanted[key]
        if not isinstance(kind, dict):
            if not fits(value, kind):
                return False
        elif not isinstance(value, dict) or value.keys() != kind.keys() or not _fit(value, kind):
            return False
    return True


def memory_map(file: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """A regular .npy file, of which nothing is ever unpickled; raises NotWhole."""
    if not file.is_file():  # else a named pipe would be waited for
        raise NotWhole(f"{file.name}: no file")
    try:
        return np.lib.format.open_memmap(file, mode=mode)
    except UNREADABLE_NPY as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise NotWhole(f"{file.name}: {reason}") from error


def read_array(file: Path, mode: Literal["r", "c"], shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """A memory map of an array of this shape and kind of number; raises NotWhole."""
    found = memory_map(file, mode)
    if found.shape != shape or not np.issubdtype(found.dtype, kind):
        raise NotWhole(f"{file.name}: {found.dtype} {found.shape} instead of {kind.__name__} {shape}")
    return found
