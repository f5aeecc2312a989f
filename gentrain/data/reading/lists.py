"""A .csv or .tsv list of pictures and their labels."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TextIO

from gentrain.data.reading.entries import (
    ABSOLUTE,
    MAX_COUNT,
    SUFFIXES,
    Bad,
    Listing,
    in_lines,
    printable,
    suffix_of,
    unsafe,
)
from gentrain.data.reading.walk import Found, Refused
from gentrain.errors import UserError, few

PATH_COLUMNS = ("file", "path", "image", "filename", "file_name")
MAX_CHOICES = 1_000  # a column with more different values is no label: captions, numbers, addresses
HEAD_CHARACTERS = 2**16  # of a list, in which its delimiter is looked for
# What is written where there is no value, in these spellings alone: "none" may well be a value.
ABSENT = frozenset({"", "-", "?", "NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"})
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_list(path: Path, follow_links: bool = False) -> Listing:
    """The pictures that the list names, by paths relative to the list's own folder and inside it.

    The first row is a header if one of its cells is file, path, image, filename or file_name; without one the
    paths come first and the other columns are called label, label2, ... Every other column with a name, a
    value for each picture and at most 1,000 different ones is a label. A file may be named once; what it is,
    its content says.
    """
    delimiter = _delimiter(path)
    rows = _rows(path, delimiter)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} is empty; give one picture a line")
    lowered = [cell.strip().lower() for cell in first]
    path_column = next((lowered.index(name) for name in PATH_COLUMNS if name in lowered), None)
    if path_column is None:
        path_column = 0
        names = ["", *("label" if number == 1 else f"label{number}" for number in range(1, len(first)))]
        table = [first, *rows]
    else:
        names, table = [cell.strip() for cell in first], list(rows)
    if not table:
        raise UserError(f"{path} names no picture; give one a line below its header")
    columns, remarks = _label_columns(path, names, table, path_column)
    label_names = tuple(names[column] for column in columns)
    if len(set(label_names)) < len(label_names):
        raise UserError(f"{path} has two columns of the same name: {few(label_names)}; rename one")
    found = Found(os.path.realpath(path.parent), follow_links)
    of_files = ((row[path_column], tuple(row[column].strip() for column in columns)) for row in table)
    _take_all(of_files, found)
    if not found.entries:
        raise UserError(
            f"none of the {len(table):,} pictures that {path} names can be used: it was read with "
            f"{DELIMITERS[delimiter]} between columns and paths in column {path_column + 1}, relative to "
            f"{path.parent}:{in_lines(found.bad)}"
        )
    return found.listing(label_names, tuple(remarks))


def _label_columns(
    path: Path, names: list[str], table: list[list[str]], path_column: int
) -> tuple[list[int], list[str]]:
    """Which columns are labels, `split` among them, and why others are not, in words."""
    columns, remarks = [], []
    for column, name in enumerate(names):
        if not name or column == path_column:
            continue
        values = {row[column].strip() for row in table}
        signs = {"-"} if "+" in values else set()  # then it is one
        absent = [row for row in table if row[column].strip() in ABSENT - signs]
        if absent:
            said = f"no value ({absent[0][column].strip() or 'an empty cell'}) for {len(absent):,} of "
            said += f"{len(table):,} pictures, the first {printable(absent[0][path_column])}"
            if name.lower() == "split":
                raise UserError(f"the column {name} of {path} has {said}; write train, valid or test there")
            remarks.append(f"the column {printable(name)} is no label: it has {said}")
        elif len(values) > MAX_CHOICES:
            remarks.append(
                f"the column {printable(name)} is no label: it has {len(values):,} different values"
            )
        else:
            columns.append(column)
    return columns, remarks


def _delimiter(path: Path) -> str:
    """What is between the columns: whatever makes a header or a picture's name of the first lines.

    The csv module's Sniffer also takes letters and spaces that happen to be as frequent in every line.
    """
    own, *others = ("\t", ",", ";") if path.suffix.lower() == ".tsv" else (",", ";", "\t")
    with _opened(path) as file:
        head = file.read(HEAD_CHARACTERS).splitlines(keepends=True)
    for delimiter in (own, *others):
        try:
            rows = list(itertools.islice(filter(any, csv.reader(head, delimiter=delimiter)), 2))
        except csv.Error:
            continue
        for row in rows:
            is_header = any(cell.strip().lower() in PATH_COLUMNS for cell in row)
            if is_header or suffix_of(row[0].strip()) in SUFFIXES:
                return delimiter
    return own


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable") from error


def _rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    """The rows that are not blank, all of one length."""
    length, count = 0, 0
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    f"line {reader.line_num} of {path} cannot be read ({error}); mend the list"
                ) from error
            if row is None:
                return
            if not any(row):
                continue
            length, count = length or len(row), count + 1
            if len(row) != length:
                raise UserError(
                    f"line {reader.line_num} of {path} has {len(row)} columns and the first line {length}, "
                    f"read with {DELIMITERS[delimiter]} between them; mend the list"
                )
            if count > MAX_COUNT:
                raise UserError(f"{path} has more than {MAX_COUNT:,} lines; split it")
            yield row


def _below(written: str, found: Found, places: dict[str, str]) -> tuple[str, str]:
    """A path as a list has it -> relative to the list's folder with / in it, and why it is refused or "".

    Windows writes \\ between folders, and elsewhere a file's name may have one, as it may have blanks around
    it. `places` holds where the folders of absolute paths really are.
    """
    plain = written.strip().replace("\\", "/")
    if written != plain and not os.path.lexists(os.path.join(found.root, written)):  # noqa: PTH118
        written = plain
    name = PurePosixPath(written).as_posix()
    root = found.root.replace(os.sep, "/").rstrip("/") + "/"
    if unsafe(name) == ABSOLUTE and not name.startswith(root):  # but perhaps by a link above the folder
        folder, _, last = name.rpartition("/")
        if folder not in places:
            places[folder] = os.path.realpath(folder).replace(os.sep, "/").rstrip("/")
        name = f"{places[folder]}/{last}" if places[folder].startswith(root[:-1]) else name
    name = name.removeprefix(root)
    reason = unsafe(name) or ("no path" if not written or "\0" in written else "")
    return name, f"{reason} out of the list's folder" if reason == ABSOLUTE else reason


def _take_all(table: Iterator[tuple[str, tuple[str, ...]]], found: Found) -> None:
    real_folders: dict[str, str | Refused] = {}  # resolved once each
    places: dict[str, str] = {}  # of absolute paths, the same
    seen: dict[str, tuple[str, ...]] = {}
    for written, labels in table:
        name, reason = _below(written, found, places)
        if not reason and name in seen:
            reason = "listed twice" if seen[name] == labels else "listed twice, with other labels"
        folder, _, last = name.rpartition("/")
        if not reason and folder not in real_folders:
            real_folders[folder] = _real_folder(folder, found)
        real_folder = real_folders.get(folder, "")
        if not reason and isinstance(real_folder, Refused):
            reason = str(real_folder)
        if reason or isinstance(real_folder, Refused):
            found.bad.append(Bad(printable(written), reason))
            continue
        seen[name] = labels
        found.take(name, os.path.join(real_folder, last), labels)  # noqa: PTH118


def _real_folder(folder: str, found: Found) -> str | Refused:
    try:
        return found.resolve(os.path.join(found.root, folder))  # noqa: PTH118
    except Refused as refused:
        return refused
