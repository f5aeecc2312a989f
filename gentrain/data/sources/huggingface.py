"""data=huggingface: a data set of the Hugging Face Hub, or a folder of one's own laid out like one.

The `datasets` library finds, fetches and lists; the pictures' bytes are decoded here, so that the same caps
hold as for any other file. No code of a data set is ever run: `trust_remote_code` is never given, and the
library from version 4 on has no such thing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Label, Packed, Progress
from gentrain.data.reading import splitting
from gentrain.data.reading.decode import Fit, Original, decode_known
from gentrain.data.reading.entries import MAX_BYTES, TOO_LARGE, Bad, in_words, judge, read_file
from gentrain.data.reading.rows import arrange, decode_all
from gentrain.data.sources.folder import color
from gentrain.data.sources.hub import load, places
from gentrain.errors import UserError, few
from gentrain.runtime.files import expanded

READ_AHEAD = 16  # rows taken from the table at once
MAX_CHOICES = 1_000  # as in lists: a column with more different values is no label
REPO = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
Cell = tuple[str, Any]  # a row's name, and {"bytes": ..., "path": ...} or None


@dataclass(frozen=True)
class HuggingFace:
    """The keys of configs/data/huggingface.yaml."""

    repo: str
    split: str
    column: str
    label_column: str | None
    test_split: str | None
    revision: str | None
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    fit: Fit
    background: str
    held_out: Annotated[float, AtLeast(0), Below(0.5)]
    follow_links: bool

    def check(self) -> None:
        if find_spec("datasets") is None:
            raise UserError(f'data.repo={self.repo} needs the datasets library; pip install "gentrain[hub]"')
        if not expanded(self.repo).is_dir() and not REPO.fullmatch(self.repo):
            raise UserError(
                f"data.repo={self.repo} is neither a folder that exists nor OWNER/NAME of the Hub"
            )
        if self.test_split == self.split:
            raise UserError(f"data.test_split={self.test_split} is data.split too; give another, or null")
        color(self.background)

    def key(self) -> dict[str, Any]:
        """Settings, and the library's fingerprint of each split.

        It hashes the split's name with the data set's configuration and files: of a Hub repository the
        commit, of a folder each file's path and time. So a new commit or a rewritten file is another key.
        """
        own = {
            key: value for key, value in asdict(self).items() if key != "follow_links" or value
        }  # as in folder.py
        return {**own, "fingerprints": [table._fingerprint for _, table in self._tables]}

    @cached_property
    def _tables(self) -> list[tuple[str, Any]]:
        """(split, datasets.Dataset) of the pictures, and of the test pictures if they are given."""
        splits = [self.split] if self.test_split is None else [self.split, self.test_split]
        return [(split, load(self.repo, split, self.revision)) for split in splits]

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        tables = [(split, self._with_bytes(table, split)) for split, table in self._tables]
        labels_NK, info = self._labels()  # first: a mistake in its column is found before all is decoded
        total = sum(len(table) for _, table in tables)
        cells = (cell for split, table in tables for cell in _cells(split, table, self.column))
        decoded = decode_all(
            partial(
                _read,
                roots=places(self.repo),
                follow_links=self.follow_links,
                size=self.size,
                channels=self.channels,
                fit=self.fit,
                background=color(self.background),
            ),
            enumerate(cells),
            scratch / "rows",
            (self.channels, self.size, self.size),
            lambda done: progress(done, total),
        )
        good = [number for number, _ in decoded.items]  # over all tables
        names, bad = [name for _, (name, _) in decoded.items], decoded.bad
        what = f"data.repo={self.repo}" + (f" ({len(bad)} bad, the first {bad[0].reason})" if bad else "")
        parts = splitting.split(decoded.hashes_N, self._given(good), self.held_out, self.count, what)
        return Packed(
            arrange(decoded.rows_NCHW, parts.order, scratch / "images.npy"),
            parts.counts,
            labels_NK[np.array(good, np.int64)[parts.order]],
            info,
            parts.facts,
            tuple(bad),
            tuple(names[row] for row in parts.order),
        )

    def _with_bytes(self, table: Any, split: str) -> Any:
        """The column of pictures alone, as files and not decoded; a UserError if it holds none."""
        import datasets

        pictures = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        listing = f"its columns are {few(table.column_names)}"
        if pictures:
            listing += f", and pictures are in {few(pictures)}"
        what = f"data.column={self.column} of data.repo={self.repo} ({split})"
        if self.column not in table.column_names:
            raise UserError(f"{what} does not exist; {listing}")
        feature = table.features[self.column]
        in_bytes = feature.get("bytes") if isinstance(feature, dict) else feature  # of plain parquet
        is_binary = isinstance(in_bytes, datasets.Value) and in_bytes.dtype in ("binary", "large_binary")
        if not isinstance(feature, datasets.Image) and not is_binary:
            raise UserError(f"{what} holds no pictures; {listing}")
        return table.select_columns([self.column]).cast_column(self.column, datasets.Image(decode=False))

    def _given(self, good: list[int]) -> np.ndarray | None:
        """Which of these rows are of the data set's own test split; None if none was named."""
        if self.test_split is None:
            return None
        train = len(self._tables[0][1])
        return np.where(np.array(good, np.int64) < train, splitting.TRAIN, splitting.TEST)

    def _labels(self) -> tuple[np.ndarray, tuple[Label, ...]]:
        """(N, 1) over all tables, or (N, 0) without a label column."""
        tables = [table for _, table in self._tables]
        if self.label_column is None:
            return np.zeros((sum(map(len, tables)), 0), np.int64), ()
        import datasets

        what = f"data.label_column={self.label_column} of data.repo={self.repo}"
        for table in tables:
            if self.label_column not in table.column_names:
                raise UserError(f"{what} does not exist; its columns are {few(table.column_names)}")
        values = [value for table in tables for value in table[self.label_column]]
        feature = tables[0].features[self.label_column]
        named = feature.names if isinstance(feature, datasets.ClassLabel) else None  # values: their numbers
        if not all(isinstance(value, str | int) for value in values) or (named and min(values) < 0):
            raise UserError(f"{what} does not say one text or number for each picture; give another, or null")
        choices = range(len(named)) if named else sorted(set(values))
        if len(choices) > MAX_CHOICES:
            raise UserError(
                f"{what} has {len(choices)} different values and is no label; give another, or null"
            )
        numbers = {choice: number for number, choice in enumerate(choices)}
        info = Label("class", tuple(named or map(str, choices)))
        return np.array([[numbers[value]] for value in values], np.int64), (info,)


def _cells(split: str, table: Any, column: str) -> Iterator[Cell]:
    number = 0
    for rows in table.iter(batch_size=READ_AHEAD):
        for cell in rows[column]:
            yield f"{split}[{number}]", cell
            number += 1


def _read(
    item: tuple[int, Cell],
    roots: tuple[Path, ...],
    follow_links: bool,
    size: int,
    channels: int,
    fit: Fit,
    background: tuple[int, int, int],
) -> tuple[np.ndarray, Original] | Bad:
    name, cell = item[1]
    data = _bytes(name, cell, roots, follow_links)
    if isinstance(data, Bad):
        return data
    decoded = decode_known(data, size, channels, fit, background)
    return Bad(name, decoded) if isinstance(decoded, str) else decoded


def _bytes(name: str, cell: Any, roots: tuple[Path, ...], follow_links: bool) -> bytes | Bad:
    """A picture's file. One that lies beside the table must be inside `roots`: a table may name any path.

    `follow_links`: the path must be, and a link there may lead anywhere.
    """
    if cell is None or (cell["bytes"] is None and not cell["path"]):
        return Bad(name, "no picture in this row")
    if cell["bytes"] is not None:
        return cell["bytes"] if len(cell["bytes"]) <= MAX_BYTES else Bad(name, TOO_LARGE)
    try:
        path = Path(cell["path"]).resolve(strict=True)
        written = Path(os.path.normpath(cell["path"]))
        if not any((written if follow_links else path).is_relative_to(root) for root in roots):
            return Bad(name, "a path out of the data set")
        found = judge(name, (), path.lstat())
    except OSError as error:
        return Bad(name, f"cannot be read: {in_words(error)}")
    return found if isinstance(found, Bad) else read_file(str(path), found)
