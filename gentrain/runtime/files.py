"""Files that are there whole or not at all, and paths as people type them."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gentrain.errors import RunFailed, UserError
from gentrain.runtime.stored_files import check_lock

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: full, or over a quota or limit
# What a disk, a network, or whoever manages them is the reason for, and no line of ours.
OF_THE_MACHINE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ETIMEDOUT),
)


def expanded(path: str | Path) -> Path:
    """With ~ and ~user filled in; UserError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} has no meaning here ({error})") from error


def of_the_machine(error: BaseException) -> bool:
    """Whether it, or what it was raised from, is a failure of files that is no fault of ours."""
    return any(isinstance(one, OSError) and in_words(one) is not None for one in (error, error.__cause__))


def in_words(error: OSError) -> str | None:
    """Which file and why, if the machine is the reason; else None."""
    where = error.filename if isinstance(error.filename, str) else "a file"
    if error.errno in NO_SPACE:
        return f"no space left to write {where}"
    if error.errno in OF_THE_MACHINE and error.strerror:
        return f"{where} cannot be used: {error.strerror}"
    return None


@contextmanager
def failures_of_files() -> Iterator[None]:
    """An OSError of the machine becomes a sentence. Another one keeps its traceback."""
    try:
        yield
    except OSError as error:
        sentence = in_words(error)
        if sentence is None:
            raise
        advice = "; free some, and give the same command" if error.errno in NO_SPACE else ""
        raise RunFailed(sentence + advice) from error


@contextmanager
def still_there(folder: Path) -> Iterator[None]:
    """For a command's own folder, which is there: that somebody takes it away meanwhile is a RunFailed.

    Any other file that is missing is a fault of ours and keeps its traceback.
    """
    try:
        yield
    except FileNotFoundError as error:
        if folder.exists():
            raise
        raise RunFailed(f"{folder} is gone: it was removed or renamed while the command ran") from error


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
    with still_there(directory.parent):
        directory.mkdir(exist_ok=True)
    import filelock  # no help needs it, and cli.py imports this file

    check_lock(directory / ".lock")
    with still_there(directory), filelock.FileLock(directory / ".lock"):
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
