"""data=folder: any pictures: a folder, a zip or tar as it is, or a list of files. Decoded once.

What is found is decided in data/reading/listing.py, how it becomes pixels in data/reading/decode.py, and
which picture is in which split in data/reading/splitting.py.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from PIL import ImageColor

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Label, Packed, Progress
from gentrain.data.reading import splitting
from gentrain.data.reading.decode import Fit, Original, decode_known
from gentrain.data.reading.entries import Bad, Entry, Listing, Read, in_lines, refuse_vanished, signature
from gentrain.data.reading.listing import ARCHIVES, list_pictures
from gentrain.data.reading.rows import Decoded, arrange, decode_all
from gentrain.errors import UserError
from gentrain.runtime.files import expanded

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
    held_out: Annotated[float, AtLeast(0), Below(0.5)]
    verify: Literal["times", "content"]
    follow_links: bool

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
            listing_hash = " ".join(map(str, signature(self._path)))
        else:
            listing = self._listing
            found = [(entry.name, entry.size, entry.stamp, entry.labels) for entry in listing.entries]
            refused = [(bad.name, bad.reason) for bad in listing.bad]
            listing_hash = hashlib.sha256(repr((found, refused)).encode()).hexdigest()
        # With another root a file of the same name, size and time may be another: decoded anew.
        root = None if self.verify == "content" else str(self._path.resolve())
        # Without it the key is that of versions which had no such setting: nothing is decoded anew.
        own = {key: value for key, value in asdict(self).items() if key != "follow_links" or value}
        return {**own, "root": root, "files": listing_hash}

    @property
    def _path(self) -> Path:
        return expanded(self.root)

    @cached_property
    def _listing(self) -> Listing:
        return list_pictures(self._path, self.follow_links)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        listing = self._listing
        decoded = decode_all(
            partial(
                _read, size=self.size, channels=self.channels, fit=self.fit, background=color(self.background)
            ),
            listing.contents(),
            scratch / "rows",
            (self.channels, self.size, self.size),
            lambda done: progress(done, len(listing.entries)),
        )
        return self._split(decoded, scratch)

    def _split(self, decoded: Decoded[tuple[Entry, Read], Original], scratch: Path) -> Packed:
        what, listing = f"data.root={self.root}", self._listing
        refuse_vanished(self._path, what)
        entries, bad = [entry for entry, _ in decoded.items], listing.bad + decoded.bad
        homes = own_splits(listing, what)
        given = None if homes is None else np.array([homes.of[entry.name] for entry in entries], np.int64)
        if homes is not None:
            splitting.refuse_lost(set(homes.of.values()), given, what)
        try:
            parts = splitting.split(decoded.hashes_N, given, self.held_out, self.count, what)
        except UserError as error:
            raise UserError(f"{error}{'; these are bad:' if bad else ''}{in_lines(bad)}") from error
        labels, info = _labels(entries, listing.label_names, homes)
        found = len(entries) + len(bad)
        return Packed(
            arrange(decoded.rows_NCHW, parts.order, scratch / "images.npy"),
            parts.counts,
            labels[parts.order],
            info,
            parts.facts
            | {"found": found, "ignored": listing.ignored, "originals": _sizes(decoded.extras)}
            | ({"remarks": list(listing.remarks)} if listing.remarks else {}),
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


@dataclass(frozen=True)
class Homes:
    """The splits that a folder or a list brings itself."""

    of: dict[str, int]  # by an entry's name
    depth: int = 0  # of the folders that are splits, and so no labels
    column: int | None = None  # of the list, which is no label either


def wrapping(entries: Sequence[Entry]) -> int:
    """How many folders, one in the other, are around all pictures; each of them may as well not be there."""
    folders = [PurePosixPath(entry.name).parts[:-1] for entry in entries]
    shared = zip(*folders, strict=False) if folders else []
    return sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, shared))


def own_splits(listing: Listing, what: str) -> Homes | None:
    """From a list's column `split`, or from folders train/ and test/ (or valid/) at the top; else None.

    Folders around all others, as many an archive has them, are looked through. Raises UserError where it is
    not clear which split a picture is in: test pictures must not end in training.
    """
    columns = [name.lower() for name in listing.label_names]
    if "split" in columns:
        column, depth = columns.index("split"), 0
        said = {entry.name: entry.labels[column] for entry in listing.entries}
    else:
        column, depth = None, wrapping(listing.entries)
        folders = {entry.name: PurePosixPath(entry.name).parts[depth:-1] for entry in listing.entries}
        said = {name: parts[0] if parts else "" for name, parts in folders.items()}
        names = {name.lower() for name in said.values()} & OWN_SPLITS.keys()
        if "train" not in names or len(names) < 2:
            return None
    others = sorted(name for name, value in said.items() if value.lower() not in OWN_SPLITS)
    if others:
        value = said[others[0]]
        where = f"in {value or 'no folder'}" if column is None else f"{value} by its column"
        raise UserError(
            f"{what} has splits of its own, but some pictures are {where} instead of one of "
            f"{', '.join(OWN_SPLITS)}: {len(others):,}, the first {others[0]}; move or remove them"
        )
    return Homes({name: OWN_SPLITS[value.lower()] for name, value in said.items()}, depth + 1, column)


def _labels(
    entries: Sequence[Entry], label_names: tuple[str, ...], homes: Homes | None
) -> tuple[np.ndarray, tuple[Label, ...]]:
    """From a list's columns, or from the folders (below those that are splits) if every picture is in one."""
    if label_names:
        columns = [k for k in range(len(label_names)) if homes is None or k != homes.column]
        table = [tuple(entry.labels[k] for k in columns) for entry in entries]
        names = tuple(label_names[k] for k in columns)
    else:
        depth = homes.depth if homes else wrapping(entries)
        folders = [PurePosixPath(entry.name).parts[depth:-1] for entry in entries]
        classes = {parts[0] for parts in folders if parts}
        if not all(folders) or not 1 < len(classes) <= MAX_CLASSES:
            return np.zeros((len(entries), 0), np.int64), ()
        table, names = [(parts[0],) for parts in folders], ("class",)
    info = tuple(Label(name, tuple(sorted({row[k] for row in table}))) for k, name in enumerate(names))
    numbers = [{choice: i for i, choice in enumerate(label.choices)} for label in info]
    rows = [[number[value] for number, value in zip(numbers, row, strict=True)] for row in table]
    return np.array(rows, np.int64), info  # whole numbers also where there is no column
