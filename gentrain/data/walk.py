"""Pictures in a folder and below it. A link is followed only to what lies inside the folder."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gentrain.data.entries import (
    SUFFIXES,
    Bad,
    Entry,
    Listing,
    Read,
    in_words,
    is_hidden,
    judge,
    printable,
    read_file,
    suffix_of,
)


@dataclass
class Found:
    """Files below `root`, as they turn up."""

    root: str  # with its own links resolved
    entries: list[Entry] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    paths: dict[str, str] = field(
        default_factory=dict
    )  # by name, where it is not root/name: links, odd names

    def take(self, name: str, path: str, labels: tuple[str, ...] = ()) -> None:
        """A file or a link to one, by its unescaped name below the root; `path` holds no other link."""
        shown = printable(name)
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = self.resolve(path)
                status = os.lstat(path)
            found = judge(shown, labels, status)
        except Refused as refused:
            found = Bad(shown, str(refused))
        except OSError as error:
            found = Bad(shown, in_words(error))
        if isinstance(found, Bad):
            self.bad.append(found)
            return
        self.entries.append(found)
        if path != os.path.join(self.root, shown):  # noqa: PTH118 (a string, a hundred thousand times)
            self.paths[shown] = path

    def resolve(self, path: str) -> str:
        """Where a path ends when all its links are followed; raises Refused unless it is inside the root."""
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused("a link that leads to itself") from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and Path(path).is_symlink():
                raise Refused("a link to nothing") from error
            raise Refused(in_words(error)) from error
        if real != self.root and not real.startswith(self.root.rstrip(os.sep) + os.sep):
            raise Refused("a link out of the folder")
        return real

    def listing(self, label_names: tuple[str, ...] = (), remarks: tuple[str, ...] = ()) -> Listing:
        return Listing(self.entries, self.bad, self.contents, dict(self.ignored), label_names, remarks)

    def contents(self) -> Iterator[tuple[Entry, Read]]:
        for entry in self.entries:
            yield entry, self._reader(entry)

    def _reader(self, entry: Entry) -> Read:
        path = self.paths.get(entry.name) or os.path.join(self.root, entry.name)  # noqa: PTH118
        return lambda: read_file(path, entry)


class Refused(Exception):
    """A link that is not followed, and why, in words."""


def walk(root: Path) -> Listing:
    """Every picture in and below the folder.

    A link to another folder inside is not followed, for its pictures are listed where they lie; `ignored`
    counts it under "links to folders", and dot files and folders under "hidden".
    """
    found = Found(os.path.realpath(root))
    folders = [""]  # still to be read, as paths below the root that end in "/"
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(found.root, folder)) as inside:  # noqa: PTH118
                for item in inside:
                    if _look_at(item, folder, found):
                        folders.append(f"{folder}{item.name}/")
        except OSError as error:
            found.bad.append(
                Bad(printable(folder) or ".", f"a folder that cannot be read: {in_words(error)}")
            )
    return found.listing()


def _look_at(item: os.DirEntry[str], folder: str, found: Found) -> bool:
    """Take or count one thing in a folder; true for a folder to go into."""
    name, suffix = folder + item.name, suffix_of(item.name)
    if is_hidden(item.name):
        found.ignored["hidden"] += 1
    elif item.is_dir(follow_symlinks=False):
        return True
    elif item.is_symlink() and (suffix == "no suffix" or _leads_to_folder(item)):
        _judge_link(name, item.path, found)
    elif suffix in SUFFIXES:
        found.take(name, item.path)
    else:
        found.ignored[suffix] += 1
    return False


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a loop, or a folder that may not be looked into
        return False


def _judge_link(name: str, path: str, found: Found) -> None:
    """A link to a folder, or one whose name does not say whether pictures would be missed without it."""
    try:
        if Path(path).is_file():
            found.ignored["no suffix"] += 1
            return
        real = found.resolve(path)
        if f"{Path(path).parent}{os.sep}".startswith(f"{real}{os.sep}"):
            raise Refused("a link to a folder that holds it")
        if any(is_hidden(part) for part in Path(real).relative_to(found.root).parts):
            raise Refused("a link to a hidden folder, which is not read")
    except Refused as refused:
        found.bad.append(Bad(printable(name), str(refused)))
    else:
        found.ignored["links to folders"] += 1
