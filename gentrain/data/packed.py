"""One packed uint8 array behind every data set, made once, kept in a cache, and opened as a memory map.

Legend: N images, C channels, H height, W width, K labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import platformdirs

from gentrain.data.entries import UNREADABLE, Bad
from gentrain.data.rows import hash64, save_array
from gentrain.errors import RunFailed, UserError
from gentrain.files import NO_SPACE, sync_directory

SPLITS = ("train", "valid", "test")
LAYOUT = 3  # of the cache's files; part of every key
LEFTOVER_SECONDS = 86_400
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
    bad: tuple[Bad, ...] = ()
    names: tuple[str, ...] | None = None  # of the N images while they are packed; kept as hashes
    # (N, 3) uint64: a hash of each image's name (of its pixels if it has none), of its pixels, and its split.
    identities: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint64))
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
    count: int | None

    def check(self) -> None:
        """Raise UserError for what is wrong without reading a picture."""

    def key(self) -> Mapping[str, Any]:
        """All that the packed pixels depend on."""

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        """Make or decode all pictures, at 256 levels.

        `scratch` is an empty folder in the cache, for what is larger than memory (see data/rows.py).
        """


@runtime_checkable
class DrawsFresh(Protocol):
    """A source that can draw more pictures of the same distribution at any time."""

    def fresh(self, count: int, seed: int) -> np.ndarray:
        """uint8 (count, C, H, W) at 256 levels, independent of those that were packed and in no split."""


def cache_dir() -> Path:
    """$GENTRAIN_CACHE, or the user's cache directory."""
    return Path(os.environ.get("GENTRAIN_CACHE") or platformdirs.user_cache_dir("gentrain"))


def open_packed(name: str, source: Source, progress: Progress) -> Packed:
    """The source's packed array, from the cache if it is there, else made and put there in one rename."""
    key = json.dumps({"source": name, "layout": LAYOUT, **source.key()}, sort_keys=True)
    directory = cache_dir() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    found = _read(directory)
    if found is not None and any(bad.reason.startswith(UNREADABLE) for bad in found.bad):
        shutil.rmtree(directory)  # the disk's or the network's mistake, which may be over
        found = None
    if found is None:
        _pack(directory, source, key, progress)
        found = _read(directory)
        assert found is not None
    return found


def _read(directory: Path) -> Packed | None:
    """None if it is not there, or not whole (a cache is never an authority: it is made again)."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        # Copy-on-write, since torch wants writable memory; nothing writes.
        images = np.load(directory / "images.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(directory / "labels.npy", mmap_mode="r", allow_pickle=False)
        identities = np.load(directory / "identities.npy", mmap_mode="r", allow_pickle=False)
        info = tuple(Label(name, tuple(choices)) for name, choices in meta["labels"])
        bad = tuple(Bad(name, reason) for name, reason in meta["bad"])
        counts, facts, fingerprint = meta["counts"], meta["facts"], meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if images.dtype != np.uint8 or len(images) != sum(counts.values()):
        return None
    if len(labels) != len(images) or len(identities) != len(images):
        return None
    return Packed(images, counts, labels, info, facts, bad, None, identities, fingerprint)


def _pack(directory: Path, source: Source, key: str, progress: Progress) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise UserError(
            f"the cache {directory.parent} cannot be written ({error.strerror}); "
            "set GENTRAIN_CACHE to a folder that can"
        ) from error
    _remove_leftovers(directory)
    try:
        scratch = temporary / "scratch"
        scratch.mkdir()
        _write(temporary, source.pack(scratch, progress), key)
        shutil.rmtree(scratch)
        _move_into_place(temporary, directory)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise RunFailed(
            f"no space left in the cache {directory.parent}; free some, or set GENTRAIN_CACHE elsewhere"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """What processes that were killed while packing left a day ago or longer."""
    for left in directory.parent.glob(f".{directory.name}-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(left)


def _write(directory: Path, packed: Packed, key: str) -> None:
    written = packed.images.filename if isinstance(packed.images, np.memmap) else None
    if written is not None:  # by the source, in the scratch folder
        Path(str(written)).rename(directory / "images.npy")
    else:
        save_array(directory / "images.npy", packed.images)
    identities = identify(packed)
    save_array(directory / "labels.npy", packed.labels)
    save_array(directory / "identities.npy", identities)
    meta = {
        "key": json.loads(key),
        "counts": packed.counts,
        "labels": [(label.name, label.choices) for label in packed.label_info],
        "facts": packed.facts,
        "bad": [(bad.name, bad.reason) for bad in packed.bad],
        "fingerprint": fingerprint(packed.images.shape, packed.counts, identities),
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=2))
    for file in directory.iterdir():
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


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


def identify(packed: Packed) -> np.ndarray:
    """`Packed.identities` of images just packed."""
    pixels = np.fromiter((hash64(image.tobytes()) for image in packed.images), np.uint64, len(packed.images))
    names = pixels
    if packed.names is not None:
        hashes = (hash64(name.encode(errors="surrogateescape")) for name in packed.names)
        names = np.fromiter(hashes, np.uint64, len(pixels))
    splits = np.repeat(np.arange(len(SPLITS)), [packed.counts[split] for split in SPLITS])
    return np.stack([names, pixels, splits.astype(np.uint64)], 1)


def fingerprint(shape: tuple[int, ...], counts: Mapping[str, int], identities: np.ndarray) -> str:
    """A hash of the shape, the sizes of the splits, and every image's hash in order; not of names."""
    digest = hashlib.sha256(json.dumps([shape, counts]).encode())
    digest.update(np.ascontiguousarray(identities[:, 1].astype(">u8")).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Difference:
    """How the images of two versions of a data set differ."""

    added: int
    removed: int
    changed: int  # the same name, other pixels
    moved: int = 0  # the same pixels, in another split

    def __str__(self) -> str:
        moved = f", and {self.moved} in another split," if self.moved else ""
        return f"+{self.added}, -{self.removed}, ~{self.changed} images{moved}"


def compare(old: np.ndarray, new: np.ndarray) -> Difference:
    """Of two `identities`. An image that was only renamed is no difference."""
    left_old, left_new = _beyond(old, new[:, 1]), _beyond(new, old[:, 1])
    changed = len(np.intersect1d(left_old[:, 0], left_new[:, 0]))
    kept = len(old) - len(left_old)
    home_old, home_new = (_with_home(rows) for rows in (old, new))
    moved = kept - (len(old) - len(_beyond(home_old, home_new[:, 1])))
    return Difference(len(left_new) - changed, len(left_old) - changed, changed, moved)


def _with_home(rows: np.ndarray) -> np.ndarray:
    """The same rows, in which equal pixels of two splits are different ones."""
    mixed = rows[:, 1] + rows[:, 2] * np.uint64(0x9E3779B97F4A7C15)  # wraps around
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
