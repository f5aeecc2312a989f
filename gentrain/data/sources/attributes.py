"""The two text lists of CelebA: which picture is in which split, and which attributes it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gentrain.data.reading.entries import SPLITS
from gentrain.errors import UserError

MAX_BYTES = 256 * 2**20  # of a list


@dataclass(frozen=True)
class Attributes:
    """Yes or no, for each picture and each attribute."""

    names: tuple[str, ...]
    rows: dict[str, int]  # a picture's row in the table
    table_NK: np.ndarray  # int64: 0 or 1

    def of(self, pictures: Sequence[str]) -> np.ndarray:
        """(len(pictures), K)"""
        return self.table_NK[[self.rows[picture] for picture in pictures]]


def read_partition(path: Path) -> dict[str, int]:
    """Lines `000001.jpg 0` -> {picture: 0, 1 or 2}, which are train, valid and test."""
    homes = {}
    for number, words in _lines(path):
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise _wrong(path, number, "a picture's name and 0, 1 or 2")
        homes[words[0]] = int(words[1])
    absent = [name for home, name in enumerate(SPLITS) if home not in homes.values()]
    if absent:
        raise UserError(f"{path} puts no picture into the {absent[0]} split; place the whole list there")
    return homes


def read_attributes(path: Path) -> Attributes:
    """The number of pictures, the attributes' names, then lines `000001.jpg -1 1 ...`."""
    lines = _lines(path)
    number, head = next(lines, (1, []))
    if len(head) != 1 or not head[0].isdecimal():
        raise _wrong(path, number, "the number of pictures")
    number, names = next(lines, (2, []))
    if not names or len(set(names)) < len(names):
        raise _wrong(path, number, "the names of the attributes")
    rows: dict[str, int] = {}
    values: list[list[bool]] = []
    for number, words in lines:
        if len(words) != 1 + len(names) or not {"-1", "1"}.issuperset(words[1:]):
            raise _wrong(path, number, f"a picture's name and {len(names)} times 1 or -1")
        rows[words[0]] = len(values)
        values.append([word == "1" for word in words[1:]])
    if len(values) != int(head[0]):
        raise UserError(f"{path} has {len(values)} pictures and says {head[0]}; place the whole list there")
    return Attributes(tuple(names), rows, np.array(values, np.int64).reshape(-1, len(names)))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of the lines that are not blank."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES // 2**20} MiB and is no list of CelebA")
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.split()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text; place the list of CelebA there") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable") from error


def _wrong(path: Path, number: int, wanted: str) -> UserError:
    return UserError(f"line {number} of {path} should be {wanted}; place the list of CelebA there")
