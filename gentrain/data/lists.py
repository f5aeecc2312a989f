"""A .csv or .tsv list of pictures and their labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gentrain.data.entries import MAX_COUNT, Bad, Listing, printable, unsafe
from gentrain.data.walk import Found, Refused
from gentrain.errors import UserError, few

PATH_COLUMNS = ("file", "path", "image", "filename", "file_name")
MAX_CHOICES = 1_000  # a column with more different values is no label: captions, numbers, addresses


def read_list(path: Path) -> Listing:
    """The pictures that the list names, by paths relative to the list's own folder and inside it.

    The first row is a header if one of its cells is file, path, image, filename or file_name; without one the
    paths come first and the other columns are called label, label2, ... Every other column with a name and at
    most 1,000 different values is a label. A file may be named once; what it is, its content says.
    """
    rows = _rows(path)
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
        names = [cell.strip() for cell in first]
        table = list(rows)
    if not table:
        raise UserError(f"{path} names no picture; give one a line below its header")
    columns = [
        column
        for column, name in enumerate(names)
        if name and column != path_column and len({row[column] for row in table}) <= MAX_CHOICES
    ]
    label_names = tuple(names[column] for column in columns)
    if len(set(label_names)) < len(label_names):
        raise UserError(f"{path} has two columns of the same name: {few(label_names)}; rename one")
    found = Found(os.path.realpath(path.parent))
    _take_all(((row[path_column], tuple(row[column] for column in columns)) for row in table), found)
    return found.listing(label_names)


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows that are not blank, all of one length."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    length, count = 0, 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if not any(row):
                    continue
                length, count = length or len(row), count + 1
                if len(row) != length:
                    raise UserError(
                        f"line {reader.line_num} of {path} has {len(row)} columns and the first line "
                        f"{length}; mend the list"
                    )
                if count > MAX_COUNT:
                    raise UserError(f"{path} has more than {MAX_COUNT:,} lines; split it")
                yield row
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of {path} cannot be read ({error}); mend the list"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable") from error


def _take_all(table: Iterator[tuple[str, tuple[str, ...]]], found: Found) -> None:
    real_folders: dict[str, str | Refused] = {}  # resolved once each
    seen: dict[str, tuple[str, ...]] = {}
    for written, labels in table:
        reason = unsafe(written) or ("no path" if not written.strip() or "\0" in written else "")
        name = PurePosixPath(written).as_posix()
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
