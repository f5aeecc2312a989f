"""Pictures in a folder and below it. A link is followed only to what lies inside the folder, or, where that
is asked for (data.follow_links), anywhere: no folder is then read twice, so that links that lead in a circle
have an end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gentrain.data.reading.entries import (
    LINK_OUT,
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
    follow: bool = False  # links that lead out of the root
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
        """Where a path ends when all its links are followed.

        Raises Refused if that is nowhere, or out of the root and such links are not followed.
        """
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused("a link that leads to itself") from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and Path(path).is_symlink():
                raise Refused("a link to nothing") from error
            raise Refused(in_words(error)) from error
        if not self.follow and not _holds(self.root, real):
            raise Refused(LINK_OUT)
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


def _holds(folder: str, path: str) -> bool:
    return f"{path}{os.sep}".startswith(f"{folder.rstrip(os.sep)}{os.sep}")


def walk(root: Path, follow: bool = False) -> Listing:
    """Every picture in and below the folder; those behind a followed link have its name before theirs.

    A link to another folder inside is not followed, for its pictures are listed where they lie, and of
    several links to one folder only the first by name is; `ignored` counts the others under "links to
    folders", and dot files and folders under "hidden".
    """
    found = Found(os.path.realpath(root), follow)
    folders = [("", found.root)]  # still to be read: names below the root that end in "/", and where they lie
    links: dict[str, str] = {}  # to folders that may not have been read
    read: set[str] = set()
    while folders or links:
        if not folders:  # only now, so that all inside have names of their own
            name = min(links)
            folders.append((f"{name}/", links.pop(name)))
        folder, place = folders.pop()
        if place in read:
            found.ignored["links to folders"] += 1
            continue
        read.add(place)
        try:
            with os.scandir(place) as inside:
                for item in inside:
                    if _look_at(item, folder, found, links):
                        folders.append((f"{folder}{item.name}/", item.path))
        except OSError as error:
            found.bad.append(
                Bad(printable(folder) or ".", f"a folder that cannot be read: {in_words(error)}")
            )
    return found.listing()


def _look_at(item: os.DirEntry[str], folder: str, found: Found, links: dict[str, str]) -> bool:
    """Take or count one thing in a folder, or note a link in `links`; true for a folder to go into."""
    name, suffix = folder + item.name, suffix_of(item.name)
    if is_hidden(item.name):
        found.ignored["hidden"] += 1
    elif item.is_dir(follow_symlinks=False):
        return True
    elif item.is_symlink() and (suffix == "no suffix" or _leads_to_folder(item)):
        _judge_link(name, item.path, found, links)
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


def _judge_link(name: str, path: str, found: Found, links: dict[str, str]) -> None:
    """A link to a folder, or one whose name does not say whether pictures would be missed without it."""
    try:
        if Path(path).is_file():
            found.ignored["no suffix"] += 1
            return
        real = found.resolve(path)
        if _holds(real, str(Path(path).parent)) or _holds(real, found.root):
            raise Refused("a link to a folder that holds it")
        if found.follow:
            links[name] = real
        elif any(is_hidden(part) for part in Path(real).relative_to(found.root).parts):
            raise Refused("a link to a hidden folder, which is not read")
        else:
            found.ignored["links to folders"] += 1
    except Refused as refused:
        found.bad.append(Bad(printable(name), str(refused)))
