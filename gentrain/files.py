"""Files that are there whole or not at all, and paths as people type them."""

import errno
import os
from pathlib import Path

from gentrain.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: full, or over a quota or limit


def expanded(path: str | Path) -> Path:
    """With ~ and ~user filled in; UserError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} has no meaning here ({error})") from error


def out_of_space(error: BaseException) -> bool:
    """Whether it, or what it was raised from, says that a disk is full."""
    return any(isinstance(one, OSError) and one.errno in NO_SPACE for one in (error, error.__cause__))


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Make `path` hold the pieces, one after the other. At any moment it is the old file or the new one.

    Written beside it, synced, renamed over it, and the directory synced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if something went wrong
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in a directory outlive a power cut. Windows cannot open directories, so nothing there."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
