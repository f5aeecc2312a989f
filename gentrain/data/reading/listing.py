"""Finds pictures: in a folder, in a list of files, or in an archive, which is never unpacked to disk."""

from __future__ import annotations

import stat
from pathlib import Path

from gentrain.data.reading.archives import list_tar, list_zip
from gentrain.data.reading.entries import MAX_BYTES, SUFFIXES, Bad, Entry, Listing, Read
from gentrain.data.reading.lists import read_list
from gentrain.data.reading.walk import walk
from gentrain.errors import UserError, few

LISTS = (".csv", ".tsv")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", *TARS)


def list_pictures(root: Path, follow_links: bool = False) -> Listing:
    """What `root` holds; raises UserError if it is none of these, is damaged as a whole, or holds nothing.

    Reads a folder's names, a list, a zip's directory, or a tar from end to end; opens no picture.
    `follow_links`: of a folder or a list also those that lead out of its folder.
    """
    wanted = "give a folder of pictures, a .csv or .tsv list, a .zip, or a .tar (.gz, .bz2, .xz)"
    try:
        mode = root.stat().st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "not a path"
        raise UserError(f"{root} cannot be opened ({reason}); {wanted}") from error
    name = root.name.lower()
    if stat.S_ISDIR(mode):
        listing = walk(root, follow_links)
    elif not stat.S_ISREG(mode):
        raise UserError(f"{root} is neither a folder nor a regular file; {wanted}")
    elif name.endswith(LISTS):
        listing = read_list(root, follow_links)
    elif name.endswith(".zip"):
        listing = list_zip(root)
    elif name.endswith(TARS):
        listing = list_tar(root)
    else:
        raise UserError(f"{root} is no folder, list or archive; {wanted}")
    if not listing.entries and not listing.bad:
        others = few([f"{count} {suffix}" for suffix, count in listing.ignored.items()])
        looked = f"looked for {' '.join(sorted(SUFFIXES))} in it and below"
        raise UserError(f"{root} holds no pictures; {looked}" + (f", found {others}" if others else ""))
    return listing


__all__ = ["ARCHIVES", "MAX_BYTES", "SUFFIXES", "Bad", "Entry", "Listing", "Read", "list_pictures"]
