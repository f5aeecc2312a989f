"""Arrays of pictures that may be larger than memory, written in sequence and read as memory maps."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from gentrain.data.reading.entries import Bad

Item = TypeVar("Item")
Result = TypeVar("Result")
Extra = TypeVar("Extra")
CHUNK_BYTES = 64 * 2**20


class Rows:
    """A file that grows by one picture at a time. Plain writes: a full disk is an OSError, not a SIGBUS."""

    def __init__(self, file: Path, chw: tuple[int, int, int]) -> None:
        self._path, self._chw, self._count = file, chw, 0
        self._file = file.open("wb")

    def append(self, image_CHW: np.ndarray) -> int:
        """The row that it got."""
        assert image_CHW.shape == self._chw
        self._file.write(np.ascontiguousarray(image_CHW, np.uint8).data)
        self._count += 1
        return self._count - 1

    def close(self) -> np.ndarray:
        """All rows, uint8 (N, C, H, W)."""
        self._file.close()
        shape = (self._count, *self._chw)
        return np.memmap(self._path, np.uint8, "r", shape=shape) if self._count else np.zeros(shape, np.uint8)


def save_array(file: Path, array: np.ndarray) -> None:
    """As np.save, but by plain writes, whose errors say that the disk is full."""
    array = np.ascontiguousarray(array)
    with file.open("wb") as opened:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(opened, header | {"shape": array.shape})
        rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            opened.write(array[start : start + rows].tobytes())


def arrange(rows_NCHW: np.ndarray, order: np.ndarray, file: Path) -> np.ndarray:
    """Write the rows in another order as .npy; returns it as a memory map."""
    shape = (len(order), *rows_NCHW.shape[1:])
    step = max(1, CHUNK_BYTES // max(1, int(np.prod(shape[1:]))))
    with file.open("wb") as opened:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, header)
        for start in range(0, len(order), step):
            opened.write(np.ascontiguousarray(rows_NCHW[order[start : start + step]]).data)
    return np.load(file, mmap_mode="r")


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Like map, in order, with a bounded number of results waiting."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > 16 * threads:
                    yield waiting[0][0], waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][0], waiting[0][1].result()
                waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def hash64(content: bytes | memoryview) -> int:
    """The first 64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


@dataclass(frozen=True)
class Decoded(Generic[Item, Extra]):
    """The good pictures of a source, in its order, and the bad ones."""

    rows_NCHW: np.ndarray
    hashes_N: np.ndarray  # uint64, of the pixels
    items: list[Item]
    extras: list[Extra]
    bad: list[Bad]


def decode_all(
    read: Callable[[Item], tuple[np.ndarray, Extra] | Bad],
    items: Iterable[Item],
    file: Path,
    chw: tuple[int, int, int],
    progress: Callable[[int], None],
) -> Decoded[Item, Extra]:
    """`read` every item, on all cores, into a file of rows; `progress` is told how many are done."""
    rows, hashes, good, extras, bad = Rows(file, chw), [], [], [], []
    results = in_parallel(read, items, os.cpu_count() or 1)
    for number, (item, result) in enumerate(results, start=1):
        if isinstance(result, Bad):
            bad.append(result)
        else:
            image_CHW, extra = result
            rows.append(image_CHW)
            hashes.append(hash64(image_CHW.tobytes()))
            good.append(item)
            extras.append(extra)
        progress(number)
    return Decoded(rows.close(), np.array(hashes, np.uint64), good, extras, bad)
