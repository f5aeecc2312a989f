"""One packed uint8 array behind every data set, made once, kept in a cache, and opened as a memory map.

Legend: N images, C channels, H height, W width, K labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import platformdirs

from gentrain.errors import UserError
from gentrain.files import sync_directory

SPLITS = ("train", "valid", "test")
LAYOUT = 1  # of the cache's files; part of every key
Progress = Callable[[int, int], None]  # called with (done, total) while pictures are made or decoded


@dataclass(frozen=True)
class Label:
    """A discrete label that every image has: the names of its choices."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Packed:
    """A data set: uint8 images (N, C, H, W), train first, then valid, then test."""

    images: np.ndarray
    counts: dict[str, int]  # images by split
    labels: np.ndarray  # (N, K) integers
    label_info: tuple[Label, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # what is known of the source, e.g. entropy_bits
    fingerprint: str = ""

    def split(self, name: str) -> np.ndarray:
        return self.images[self.rows(name)]

    def rows(self, name: str) -> slice:
        """Where a split lies, in `images` as in `labels`."""
        start = sum(self.counts[before] for before in SPLITS[: SPLITS.index(name)])
        return slice(start, start + self.counts[name])


class Source(Protocol):
    """Where pictures come from. Its constructor's arguments are the keys of its YAML."""

    size: int
    channels: int
    levels: int
    count: int | None

    def check(self) -> None:
        """Raise UserError for what is wrong without reading a picture."""

    def key(self) -> Mapping[str, Any]:
        """All that the packed pixels depend on."""

    def pack(self, progress: Progress) -> Packed:
        """Make or decode all pictures, at 256 levels."""


def cache_dir() -> Path:
    """$GENTRAIN_CACHE, or the user's cache directory."""
    return Path(os.environ.get("GENTRAIN_CACHE") or platformdirs.user_cache_dir("gentrain"))


def open_packed(name: str, source: Source, progress: Progress) -> Packed:
    """The source's packed array, from the cache if it is there, else made and put there in one rename."""
    key = json.dumps({"source": name, "layout": LAYOUT, **source.key()}, sort_keys=True)
    directory = cache_dir() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    found = _read(directory)
    if found is None:
        _write(directory, source.pack(progress), key)
        found = _read(directory)
        assert found is not None
    return found


def _read(directory: Path) -> Packed | None:
    """None if it is not there, or not whole (a cache is never an authority: it is made again)."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        # Copy-on-write, since torch wants writable memory; nothing writes.
        images = np.load(directory / "images.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(directory / "labels.npy", allow_pickle=False)
        info = tuple(Label(name, tuple(choices)) for name, choices in meta["labels"])
        counts, facts, fingerprint = meta["counts"], meta["facts"], meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if images.dtype != np.uint8 or len(images) != sum(counts.values()) or len(labels) != len(images):
        return None
    return Packed(images, counts, labels, info, facts, fingerprint)


def _write(directory: Path, packed: Packed, key: str) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise UserError(
            f"the cache {directory.parent} cannot be written ({error.strerror}); "
            "set GENTRAIN_CACHE to a folder that can"
        ) from error
    try:
        np.save(temporary / "images.npy", packed.images)
        np.save(temporary / "labels.npy", packed.labels)
        meta = {
            "key": json.loads(key),
            "counts": packed.counts,
            "labels": [(label.name, label.choices) for label in packed.label_info],
            "facts": packed.facts,
            "fingerprint": fingerprint(packed),
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=2))
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        _move_into_place(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, directory: Path) -> None:
    """Rename; if another process was first its copy stays, unless it is damaged."""
    try:
        temporary.rename(directory)
    except OSError:
        if _read(directory) is not None:
            return
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    sync_directory(directory.parent)


def fingerprint(packed: Packed) -> str:
    """A hash of every pixel, the shape, and the sizes of the splits."""
    digest = hashlib.sha256(json.dumps([packed.images.shape, packed.counts]).encode())
    for start in range(0, len(packed.images), 1024):
        digest.update(np.ascontiguousarray(packed.images[start : start + 1024]).tobytes())
    return digest.hexdigest()
