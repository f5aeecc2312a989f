"""data=folder: any pictures: a folder, a zip or tar as it is, or a list of files. Decoded once.

What is found is decided in data/listing.py, how it becomes pixels in data/decode.py, and which picture is
in which split in data/splitting.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from PIL import ImageColor

from gentrain.data import splitting
from gentrain.data.decode import Fit, Original, decode_known
from gentrain.data.entries import Bad, Entry, Listing, Read
from gentrain.data.listing import ARCHIVES, list_pictures
from gentrain.data.packed import Label, Packed, Progress, hash64
from gentrain.data.rows import Rows, arrange, in_parallel
from gentrain.errors import UserError
from gentrain.ranges import Above, AtLeast, Below, Between

OWN_SPLITS = {"train": splitting.TRAIN, "test": splitting.TEST}
OWN_SPLITS |= dict.fromkeys(("valid", "val", "validation"), splitting.VALID)
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Folder:
    """The keys of configs/data/folder.yaml."""

    root: str
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    fit: Fit
    background: str
    held_out: Annotated[float, Above(0), Below(0.5)]
    verify: Literal["times", "content"]

    def check(self) -> None:
        if not self._path.exists():
            raise UserError(
                f"data.root={self.root} does not exist; give a folder of pictures, a zip, a tar or a list"
            )
        color(self.background)

    def key(self) -> dict[str, Any]:
        """Settings, and the name, size and time (or the content) of every file; of an archive its own."""
        if self.verify == "content":
            listing_hash = _content_hash(self._listing)
        elif self._path.name.lower().endswith(ARCHIVES) and self._path.is_file():
            stat = self._path.stat()
            listing_hash = f"{stat.st_size} {stat.st_mtime_ns}"
        else:
            listing = self._listing
            found = [(entry.name, entry.size, entry.stamp, entry.labels) for entry in listing.entries]
            refused = [(bad.name, bad.reason) for bad in listing.bad]
            listing_hash = hashlib.sha256(repr((found, refused)).encode()).hexdigest()
        return {**asdict(self), "root": None, "files": listing_hash}

    @property
    def _path(self) -> Path:
        return Path(self.root).expanduser()

    @cached_property
    def _listing(self) -> Listing:
        return list_pictures(self._path)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        listing = self._listing
        rows = Rows(scratch / "rows", (self.channels, self.size, self.size))
        entries: list[Entry] = []
        hashes: list[int] = []
        originals: list[Original] = []
        bad = list(listing.bad)
        read = partial(
            _read, size=self.size, channels=self.channels, fit=self.fit, background=color(self.background)
        )
        for (entry, _), result in in_parallel(read, listing.contents(), os.cpu_count() or 1):
            if isinstance(result, Bad):
                bad.append(result)
            else:
                image, original = result
                rows.append(image)
                entries.append(entry)
                originals.append(original)
                hashes.append(hash64(image.tobytes()))
            progress(len(entries) + len(bad) - len(listing.bad), len(listing.entries))
        packed = self._split(rows.close(), entries, hashes, bad, scratch)
        return replace(packed, facts=packed.facts | {"originals": _sizes(originals)})

    def _split(
        self, rows: np.ndarray, entries: list[Entry], hashes: list[int], bad: list[Bad], scratch: Path
    ) -> Packed:
        given, prefix = own_splits([entry.name for entry in entries])
        what = f"data.root={self.root}"
        if bad:
            what += f" ({len(bad)} bad files, the first {bad[0].name}: {bad[0].reason})"
        parts = splitting.split(np.array(hashes, np.uint64), given, self.held_out, self.count, what)
        labels, info = _labels(entries, self._listing.label_names, prefix)
        return Packed(
            arrange(rows, parts.order, scratch / "images.npy"),
            parts.counts,
            labels[parts.order],
            info,
            parts.facts | ({"ignored": self._listing.ignored} if self._listing.ignored else {}),
            tuple(bad),
            tuple(entries[i].name for i in parts.order),
        )


def _read(
    item: tuple[Entry, Read], size: int, channels: int, fit: Fit, background: tuple[int, int, int]
) -> tuple[np.ndarray, Original] | Bad:
    entry, read = item
    data = read()
    if isinstance(data, Bad):
        return data
    decoded = decode_known(data, size, channels, fit, background)
    return Bad(entry.name, decoded) if isinstance(decoded, str) else decoded


def _sizes(originals: Sequence[Original]) -> dict[str, Any]:
    """The smallest, the middle and the largest by area, and how many may hold colour."""
    by_area = sorted((o.width * o.height, o.width, o.height) for o in originals)
    middle = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {name: [width, height] for name, (_, width, height) in middle.items()} | {
        "colored": sum(o.colored for o in originals)
    }


def _content_hash(listing: Listing) -> str:
    """Of every file's bytes, whatever its time says."""
    parts = []
    for entry, read in listing.contents():
        data = read()
        content = data.reason if isinstance(data, Bad) else hashlib.sha256(data).hexdigest()
        parts.append((entry.name, entry.labels, content))
    refused = [(bad.name, bad.reason) for bad in listing.bad]
    return hashlib.sha256(repr((sorted(parts), refused)).encode()).hexdigest()


def color(name: str) -> tuple[int, int, int]:
    """A colour's name or #rrggbb, as red, green and blue 0 .. 255."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UserError(f"data.background={name} is no colour; write white, black or '#rrggbb'") from error


def own_splits(names: Sequence[str]) -> tuple[np.ndarray | None, int]:
    """Folders train/ and test/ (and valid/) at the top are splits: what they say, and how deep they are.

    None and 0 if there are other folders, or not both of these.
    """
    tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    if not {"train", "test"} <= set(tops) <= OWN_SPLITS.keys():
        return None, 0
    return np.array([OWN_SPLITS[top] for top in tops]), 1


def _labels(
    entries: Sequence[Entry], label_names: tuple[str, ...], prefix: int
) -> tuple[np.ndarray, tuple[Label, ...]]:
    """From the columns of a list, or from the folders below `prefix` if every picture is in one."""
    if label_names:
        table = [entry.labels for entry in entries]
        names: tuple[str, ...] = label_names
    else:
        folders = [PurePosixPath(entry.name).parts[prefix:-1] for entry in entries]
        classes = {parts[0] for parts in folders if parts}
        if not all(folders) or not 1 < len(classes) <= MAX_CLASSES:
            return np.zeros((len(entries), 0), np.int64), ()
        table, names = [(parts[0],) for parts in folders], ("class",)
    info = tuple(Label(name, tuple(sorted({row[k] for row in table}))) for k, name in enumerate(names))
    numbers = [{choice: i for i, choice in enumerate(label.choices)} for label in info]
    return np.array(
        [[number[value] for number, value in zip(numbers, row, strict=True)] for row in table]
    ), info
