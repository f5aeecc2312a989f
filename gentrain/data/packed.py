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

from gentrain.data.cache_files import NotWhole, read_array, read_meta
from gentrain.data.fingerprints import (
    BETWEEN,
    LABEL,
    Label,
    fingerprint_of_labels,
    fingerprint_of_pictures,
    label_hashes,
)
from gentrain.data.reading.downloads import cache_dir
from gentrain.data.reading.entries import SPLITS, UNREADABLE, Bad
from gentrain.data.reading.rows import hash64, save_array
from gentrain.errors import RunFailed, UserError
from gentrain.runtime.console import console_of_rank, say
from gentrain.runtime.files import NO_SPACE, sync_directory

LAYOUT = 3  # of the cache's files; part of every key
LEFTOVER_SECONDS = 86_400
Progress = Callable[[int, int], None]  # called with (done, total) while pictures are made or decoded


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
    # (N, 4) uint64: a hash of each image's name (of its pixels if it has none), of its pixels, its split, and
    # a hash of its labels.
    identities: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.uint64))
    fingerprint: str = ""  # see data/fingerprints.py

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

        `scratch` is an empty folder in the cache, for what is larger than memory (see data/reading/rows.py).
        """


@runtime_checkable
class DrawsFresh(Protocol):
    """A source that can draw more pictures of the same distribution at any time."""

    def fresh(self, count: int, seed: int) -> np.ndarray:
        """uint8 (count, C, H, W) at 256 levels, independent of those that were packed and in no split."""


def open_packed(name: str, source: Source, progress: Progress) -> Packed:
    """The source's packed array, from the cache if it is there, else made and put there in one rename."""
    key = json.dumps({"source": name, "layout": LAYOUT, **source.key()}, sort_keys=True)
    directory = cache_dir() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    shape = (source.channels, source.size, source.size)
    try:
        found = _read(directory, shape)
    except NotWhole as fault:
        say(console_of_rank(), f"the cache's entry {directory} is not whole ({fault}); it is made again")
        found = None
    if found is not None and any(bad.reason.startswith(UNREADABLE) for bad in found.bad):
        _remove(directory)  # the disk's or the network's mistake, which may be over
        found = None
    if found is None:
        _pack(directory, source, key, progress)
        found = _read(directory, shape)
        assert found is not None
    return found


def _read(directory: Path, shape_CHW: tuple[int, int, int]) -> Packed | None:
    """None if it is not there; raises NotWhole."""
    if not os.path.lexists(directory):
        return None
    counts, info, facts, bad, pictures = read_meta(directory / "meta.json")
    # Copy-on-write, since torch wants writable memory; nothing writes.
    images = read_array(directory / "images.npy", "c", (sum(counts.values()), *shape_CHW), np.uint8)
    labels = read_array(directory / "labels.npy", "r", (len(images), len(info)), np.integer)
    identities = read_array(directory / "identities.npy", "r", (len(images), LABEL), np.uint64)
    for column, label in enumerate(info):
        if not (labels[:, column] >= 0).all() or not (labels[:, column] < len(label.choices)).all():
            raise NotWhole(f"labels.npy: a number that is no choice of {label.name}")
    if fingerprint_of_pictures(images.shape, counts, identities) != pictures:
        raise NotWhole("identities.npy: not those of meta.json")
    hashes_N = label_hashes(labels, info)
    fingerprint = pictures + BETWEEN + fingerprint_of_labels(info, hashes_N)
    known = np.column_stack([identities, hashes_N])
    return Packed(images, counts, labels, info, facts, bad, None, known, fingerprint)


def _remove(entry: Path) -> None:
    """Whatever lies where an entry belongs; UserError if it cannot be removed."""
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache's entry {entry} is not whole and cannot be removed ({error.strerror}); remove it"
        ) from error


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
        _move_into_place(temporary, directory, (source.channels, source.size, source.size))
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
        "fingerprint": fingerprint_of_pictures(packed.images.shape, packed.counts, identities),
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=2))
    for file in directory.iterdir():
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _move_into_place(temporary: Path, directory: Path, shape_CHW: tuple[int, int, int]) -> None:
    """Rename; if another process was first its copy stays, unless it is damaged."""
    try:
        temporary.rename(directory)
    except OSError:
        with suppress(NotWhole):
            if _read(directory, shape_CHW) is not None:
                return
        _remove(directory)
        temporary.rename(directory)
    sync_directory(directory.parent)


def identify(packed: Packed) -> np.ndarray:
    """The first three columns of `Packed.identities`, of images just packed."""
    pixels = np.fromiter((hash64(image.tobytes()) for image in packed.images), np.uint64, len(packed.images))
    names = pixels
    if packed.names is not None:
        hashes = (hash64(name.encode(errors="surrogateescape")) for name in packed.names)
        names = np.fromiter(hashes, np.uint64, len(pixels))
    splits = np.repeat(np.arange(len(SPLITS)), [packed.counts[split] for split in SPLITS])
    return np.stack([names, pixels, splits.astype(np.uint64)], 1)
