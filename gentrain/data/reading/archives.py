"""Pictures in a .zip or .tar, read where they are: nothing is unpacked to disk, no link in it is followed."""

from __future__ import annotations

import math
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gentrain.data.reading.entries import (
    MAX_BYTES,
    MAX_COUNT,
    SUFFIXES,
    TOO_LARGE,
    UNREADABLE,
    Bad,
    Entry,
    Listing,
    Read,
    in_words,
    irregular,
    is_hidden,
    printable,
    signature,
    suffix_of,
    unsafe,
)
from gentrain.data.reading.tars import Damaged, Tar
from gentrain.errors import UserError

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field after it
ENCRYPTED = 1  # a bit of ZipInfo.flag_bits
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES"}


class Members:
    """Which of an archive's members are pictures to be read."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.bad: list[Bad] = []
        self.ignored: Counter[str] = Counter()

    def take(self, name: str, size: int, stamp: int, reason: str) -> Entry | None:
        """Count one that is no folder; its Entry if it is a picture and neither `reason` nor we object."""
        parts = name.split("/")
        suffix = suffix_of(parts[-1])
        if any(is_hidden(part) for part in parts if part not in (".", "..")):
            self.ignored["hidden"] += 1
            return None
        if suffix not in SUFFIXES:
            self.ignored[suffix] += 1
            return None
        shown = printable(name)
        reason = unsafe(name) or reason or (TOO_LARGE if size > MAX_BYTES else "")
        if not reason and shown in self.entries:
            reason = "in the archive twice"
        if reason:
            self.bad.append(Bad(shown, reason))
            return None
        self.entries[shown] = Entry(shown, size, stamp)
        return self.entries[shown]


def _member_name(written: str) -> str:
    """With / between folders, as some archivers for Windows do not write it, and without a leading ./"""
    return written.replace("\\", "/").removeprefix("./")


# ---- zip


def list_zip(path: Path) -> Listing:
    """Stored and deflated members; the stamp is the CRC-32 of the content."""
    members = Members()
    found: dict[str, zipfile.ZipInfo] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        struct.error,
        EOFError,
        OverflowError,
    ) as error:
        raise UserError(
            f"{path} is no zip archive, or damaged ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({in_words(error)}); make it readable") from error
    if len(infos) > MAX_COUNT:
        raise UserError(f"{path} has more than {MAX_COUNT:,} members; split it")
    for info in infos:
        if not info.is_dir():
            entry = members.take(_member_name(info.filename), info.file_size, info.CRC, _zip_reason(info))
            if entry:
                found[entry.name] = info
    entries = list(members.entries.values())
    unchanged = signature(path)

    def contents() -> Iterator[tuple[Entry, Read]]:
        """In the order of the archive."""
        _refuse_change(path, unchanged)
        reader = ZipReader(path.open("rb"))
        for entry in sorted(entries, key=lambda entry: found[entry.name].header_offset):
            yield entry, reader.bind(entry, found[entry.name])

    return Listing(entries, members.bad, contents, members.ignored)


def _zip_reason(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16  # where the archive was made on Unix
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if stat.S_IFMT(mode) and irregular(mode):
        return irregular(mode)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed with {METHODS.get(info.compress_type, 'something')} that is not read here"
    return TOO_LARGE if info.compress_size > MAX_BYTES else ""


class ZipReader:
    """Members by their place in the file.

    zipfile's own objects count their readers without a lock, and read in small pieces under one; here only
    the reading is under the lock, and threads decompress side by side.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._file.close()  # when the last member that was handed out is gone

    def bind(self, entry: Entry, info: zipfile.ZipInfo) -> Read:
        return lambda: self._read(entry, info)

    def _read(self, entry: Entry, info: zipfile.ZipInfo) -> bytes | Bad:
        try:
            with self._lock:
                data = self._stored(info)
        except OSError as error:
            return Bad(entry.name, f"{UNREADABLE}: {in_words(error)}")
        if data is None:
            return Bad(entry.name, "not where the archive says that it is")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                # Whatever the member holds, no more than it declares (checked against the cap) and one byte.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
            except zlib.error as error:
                return Bad(entry.name, f"damaged in the archive: {error}")
        if len(data) != entry.size:
            return Bad(entry.name, f"{'more' if len(data) > entry.size else 'less'} data than it declares")
        if zlib.crc32(data) != info.CRC:
            return Bad(entry.name, "damaged in the archive: wrong checksum")
        return data

    def _stored(self, info: zipfile.ZipInfo) -> bytes | None:
        """A member's bytes as they lie in the file; None if they are not where its directory says."""
        if info.header_offset < 0:
            return None
        self._file.seek(info.header_offset)
        header = self._file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size:
            return None
        signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
        self._file.seek(name_length + extra_length, os.SEEK_CUR)
        data = self._file.read(info.compress_size)
        return data if signature == b"PK\x03\x04" and len(data) == info.compress_size else None


# ---- tar


def list_tar(path: Path) -> Listing:
    """Read once from end to end, which finds what is cut off.

    The stamp is the member's time, or the archive's where members were given none (reproducible archives).
    """
    members = Members()
    unchanged = signature(path)
    try:
        with Tar(path) as archive:
            for count, member in enumerate(archive):
                if count >= MAX_COUNT:
                    raise UserError(f"{path} has more than {MAX_COUNT:,} members; split it")
                if not member.isdir():
                    # A header may give a time that is no number.
                    stamp = int(member.mtime * 1e9) if math.isfinite(member.mtime) else 0
                    stamp = stamp or unchanged[1]
                    members.take(_member_name(member.name), member.size, stamp, _tar_reason(member))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({in_words(error)}); make it readable") from error
    except Damaged as error:
        raise UserError(
            f"{path} is damaged or cut off after {len(members.entries)} pictures ({error}); "
            "copy or download it again"
        ) from error
    entries = list(members.entries.values())

    def contents() -> Iterator[tuple[Entry, Read]]:
        """In the order of the archive, each picture's bytes read as it is asked for."""
        _refuse_change(path, unchanged)
        left = {entry.name: entry for entry in entries}
        try:
            with Tar(path) as archive:
                for member in archive:
                    # Of one name the first that can be read counts, as when it was listed.
                    name = printable(_member_name(member.name))
                    if name in left and left[name].size == member.size and not _tar_reason(member):
                        yield left.pop(name), _held(archive.read(member))
        except (OSError, Damaged) as error:
            raise UserError(f"{path} changed or failed while it was read ({error}); start again") from error
        if left:
            raise UserError(f"{path} changed while it was read; start again")

    return Listing(entries, members.bad, contents, members.ignored)


def _held(data: bytes) -> Read:
    return lambda: data


def _tar_reason(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link, not a regular file"
    if member.ischr() or member.isblk():
        return "a device, not a regular file"
    if member.isfifo():
        return "a named pipe, not a regular file"
    return "" if member.isreg() and not member.issparse() else "something special, not a regular file"


# ---- both


def _refuse_change(path: Path, before: tuple[int, int]) -> None:
    if signature(path) != before:
        raise UserError(f"{path} changed after it was listed; start again")
