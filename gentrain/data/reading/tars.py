"""A tar archive read forward only, compressed or not, of which nothing may be missing at the end."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, cast

MAX_HEADER = 2**20  # bytes of one long name or extended header
DRAIN_BYTES = 2**20
# What tarfile and the decompressors raise on damaged archives, where only they are called (see `_archive`).
DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


class Damaged(Exception):
    """What tarfile or a decompressor says of an archive that it cannot read."""


@contextmanager
def _archive() -> Iterator[None]:
    """Around calls of those libraries alone: a mistake of ours is never taken for a damaged archive."""
    try:
        yield
    except DAMAGE as error:
        raise Damaged(str(error) or type(error).__name__) from error


class Forward:
    """What tarfile may do with the file: read headers of a sane size, and go forward.

    tarfile ends without a word at a header that is damaged or cut; `last` tells that from a proper end. And
    it goes round in circles where a member declares a negative size (CVE-2025-8194, in older Pythons).
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        if position < self._file.tell():
            raise tarfile.ReadError("a header leads back")
        return self._file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError("a header of an impossible size")
        self.last = self._file.read(size)
        return self.last


class Tar:
    """Iterating gives each member; `read` the bytes of the one just given."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        self._file = _decompressed(self._raw)

    def __enter__(self) -> Tar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._raw.close()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Raises Damaged."""
        forward = Forward(self._file)
        with _archive():
            archive = tarfile.TarFile(fileobj=forward, mode="r")  # type: ignore[arg-type]
        while (member := self._next(archive)) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
            yield member
        if len(forward.last) != tarfile.BLOCKSIZE or forward.last.strip(b"\0"):
            raise Damaged(f"neither a header nor the end at byte {archive.offset}")
        with _archive():
            while self._file is not self._raw and self._file.read(DRAIN_BYTES):
                pass  # the checksums of compressed data come last

    def _next(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        with _archive():
            return archive.next()

    def read(self, member: tarfile.TarInfo) -> bytes:
        """Raises Damaged."""
        with _archive():
            self._file.seek(member.offset_data, os.SEEK_SET)
            data = self._file.read(member.size)
        if len(data) != member.size:
            raise Damaged("unexpected end of data")
        return data


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """By the first bytes, whatever the name says."""
    magic = raw.read(2)
    raw.seek(0)
    if magic == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if magic == b"BZ":
        return cast("IO[bytes]", bz2.BZ2File(raw))
    return cast("IO[bytes]", lzma.LZMAFile(raw)) if magic == b"\xfd7" else raw
