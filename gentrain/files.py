"""Files that are there whole or not at all, and paths as people type them."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

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

    Written beside it, under a name that no other process has, synced, renamed over it, and the directory
    synced. An OSError names the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                for piece in content:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # on a disk that fails this does too, and would hide why
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from it names the file: that of a write names none, that of a rename the temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def remove_half_written(directory: Path, name: str = "*") -> None:
    """What `write_atomically` left of a file when its process was killed. For who alone writes it now."""
    for left in directory.glob(f".{name}.tmp"):
        left.unlink(missing_ok=True)


@contextmanager
def alone_in(directory: Path) -> Iterator[Path]:
    """A task's own folder, made if it is not there, in which no other process writes meanwhile.

    So what two commands write at the same moment is that of the later one, and no mixture.
    """
    directory.mkdir(exist_ok=True)  # what it lies in is there, or has just been removed
    with filelock.FileLock(directory / ".lock"):
        remove_half_written(directory)
        yield directory


def sync_directory(directory: Path) -> None:
    """Make renames in a directory outlive a power cut. Windows cannot open directories, so nothing there."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
