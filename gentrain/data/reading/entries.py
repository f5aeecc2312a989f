"""Pictures found but not decoded yet: their names, what was found bad, and how to read their bytes."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gentrain.errors import UserError, few

SPLITS = ("train", "valid", "test")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif"})
MAX_BYTES = 256 * 2**20  # of one picture's file
MAX_COUNT = 10_000_000  # of a list's rows or an archive's members
MAX_SHOWN = 200  # characters of a name in a message
NUMBERS = re.compile(r"\d+")
LINK_OUT = "a link out of the folder"
ABSOLUTE = "an absolute path"
UNREADABLE = "cannot be read"
TOO_LARGE = f"more than {MAX_BYTES // 2**20} MiB"
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# A FIFO is opened without waiting for its other end, and a link put in a file's place is not followed.
if sys.platform == "win32":
    OPEN_FLAGS = os.O_RDONLY | os.O_BINARY
else:
    OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """A picture's file. `name` is unique in its listing and safe to print (see `printable`)."""

    name: str
    size: int  # bytes
    stamp: int  # changes when the content is replaced: a time in ns, or a checksum
    labels: tuple[str, ...] = ()  # one for each of the listing's label_names


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used. `reason` is what follows its name in brackets."""

    name: str
    reason: str


def in_lines(bad: Sequence[Bad]) -> str:
    """A few on a line each, of every kind of reason one before there are two of any, and how many more."""
    kinds: dict[str, list[Bad]] = {}
    for one in bad:
        kinds.setdefault(NUMBERS.sub("", one.reason), []).append(one)
    ordered = [one for same in itertools.zip_longest(*kinds.values()) for one in same if one is not None]
    lines = few([_line(one) for one in ordered], between="\n  ")
    outside = any(one.reason == LINK_OUT for one in bad)
    advice = "\n  links out of the folder are followed with data.follow_links=true" if outside else ""
    return f"\n  {lines}{advice}" if bad else ""


def _line(bad: Bad) -> str:
    return f"{bad.name[:MAX_SHOWN]}{'...' * (len(bad.name) > MAX_SHOWN)} ({bad.reason})"


Read = Callable[[], bytes | Bad]  # may be called in any thread; once


@dataclass
class Listing:
    """All that was found in one place. Nothing in it was opened, except the list or archive itself."""

    entries: list[Entry]  # sorted by name
    bad: list[Bad]  # sorted by name; the same name may be there twice
    # (entry, read) in the order in which they are read best; made as they are asked for.
    contents: Callable[[], Iterator[tuple[Entry, Read]]]
    ignored: dict[str, int] = field(default_factory=dict)  # files that are no pictures, by suffix
    label_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()  # what a person should know of it, in sentences

    def __post_init__(self) -> None:
        self.entries.sort(key=lambda entry: entry.name)
        self.bad.sort(key=lambda bad: (bad.name, bad.reason))
        self.ignored = dict(sorted(self.ignored.items()))


def printable(name: str) -> str:
    """The name with backslashes, control characters and bytes that are no UTF-8 escaped; one to one."""
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(
        character if character.isprintable() and character != "\\" else _escaped(character)
        for character in name
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def suffix_of(name: str) -> str:
    """Lower case; "no suffix" where there is none. A key of `ignored`."""
    return printable(posixpath.splitext(name)[1].lower()) or "no suffix"


def is_hidden(part: str) -> bool:
    """Dot files, AppleDouble files ("._x.png") among them, and the folder that macOS adds to archives."""
    return part.startswith(".") or part == "__MACOSX"


def unsafe(name: str) -> str:
    """Why a path from a list or an archive is refused; "" if it stays below its root on every system."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (name[:1].isalpha() and name[1:2] == ":"):
        return ABSOLUTE
    if ".." in path.parts:
        return "a path with .."
    return ""


def irregular(mode: int) -> str:
    """Why a file of this st_mode is not read; "" for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    kind = next((words for is_kind, words in KINDS if is_kind(mode)), "something special")
    return f"{kind}, not a regular file"


def in_words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def signature(file: Path) -> tuple[int, int]:
    """Size and time of a whole archive, list or array file: another when it has changed."""
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({in_words(error)}); put it back, or make it readable"
        ) from error
    return status.st_size, status.st_mtime_ns


def refuse_vanished(place: Path, what: str) -> None:
    """UserError if the pictures' folder is there no more: each of them would be named as unreadable."""
    if not place.exists():
        raise UserError(
            f"{what} is gone: it was removed or renamed while its pictures were read; put it back"
        )


def judge(name: str, labels: tuple[str, ...], status: os.stat_result) -> Entry | Bad:
    reason = irregular(status.st_mode)
    if not reason and status.st_size > MAX_BYTES:
        reason = TOO_LARGE
    if reason:
        return Bad(name, reason)
    # The later of the content's and the file's own time: that of permissions, and of a copied-back date.
    return Entry(name, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns), labels)


def read_file(path: str, entry: Entry) -> bytes | Bad:
    """The bytes of a regular file that is still what was listed; never waits, never reads past the cap."""
    try:
        with os.fdopen(os.open(path, OPEN_FLAGS), "rb") as file:
            found = judge(entry.name, entry.labels, os.fstat(file.fileno()))
            if isinstance(found, Bad):
                return found
            data = file.read(entry.size + 1) if found == entry else b""
    except OSError as error:
        return Bad(entry.name, f"{UNREADABLE}: {in_words(error)}")
    if found != entry or len(data) != entry.size:
        return Bad(entry.name, "changed since it was listed")
    return data
