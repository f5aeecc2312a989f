"""The lock on a run directory, and whether the directory is still there while it is held.

A lock is on a file, and what a run writes goes to paths. So who removes the directory in mid-run and begins
another run at its path has two processes write in one place, with a lock each: the first must notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from gentrain.errors import Busy, RunFailed, UserError
from gentrain.runtime.stored_files import check_lock

NAME = ".lock"
A_LOOK_SECONDS = 0.3  # who asks whether a directory is locked holds its lock for much less
_REMOVED = " (deleted)"  # what Linux adds to the path of what has none any more


class Lost(RunFailed):
    """The run's directory, or its lock, is not at its path any more: nothing may be written there."""


class RunLock:
    """Held until the process ends, however it ends. Before `acquire` all else here does nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = filelock.FileLock(directory / NAME)
        self._file: tuple[int, int] | None = None  # identity of the lock file; None: not held, or on Windows
        self._descriptor = -1  # of the directory: while it is open, its inode becomes no other's

    def acquire(self) -> None:
        """Raises Busy; UserError if nothing can be written there, or what lies there is no lock."""
        check_lock(self._directory / NAME)
        try:
            self._lock.acquire(timeout=A_LOOK_SECONDS)
        except filelock.Timeout as error:
            raise Busy(
                f"another process is running in {self._directory}; wait for it or choose another run_dir"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self._directory} cannot be written ({error.strerror}); make it writable, or copy it "
                "elsewhere"
            ) from error
        if os.name != "nt":  # which lets nobody remove or rename what is open
            if self._descriptor < 0:
                self._descriptor = os.open(self._directory, os.O_RDONLY)
            self._file = _identity(self._directory / NAME)

    def release(self) -> None:
        self._lock.release()
        self._file = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def check(self) -> None:
        """Before the run writes: Lost if its directory is not at its path, or the lock is another process's.

        A lock file that was removed, and nothing else, is made again.
        """
        if self._file is None or _identity(self._directory / NAME) == self._file:
            return
        here = os.fstat(self._descriptor)
        if _identity(self._directory) != (here.st_dev, here.st_ino):
            raise Lost(self._where_it_is())
        if not os.path.lexists(self._directory / NAME):
            held, self._lock = self._lock, filelock.FileLock(self._directory / NAME)
            try:
                self.acquire()
                return
            except Busy:
                pass  # another process was faster
            finally:
                held.release()
        raise Lost(
            f"the lock of {self._directory} was removed, and another process has taken the directory since: "
            "this run stops, and leaves it to the other one"
        )

    @contextmanager
    def checked(self) -> Iterator[None]:
        """What fails in it because the directory is lost raises Lost, whatever it was that failed."""
        try:
            yield
        except (RunFailed, OSError) as error:
            if isinstance(error, Lost):
                raise
            try:
                self.check()
            except Lost as lost:
                raise lost from error
            raise

    def _where_it_is(self) -> str:
        path = self._directory
        other = "; what lies there now is another's, and left as it is" if os.path.lexists(path) else ""
        try:
            place = Path(f"/proc/self/fd/{self._descriptor}").readlink()  # Linux alone has it
        except OSError:
            return (
                f"{path} was removed or renamed while its run trained, so the run stops{other}; if it was "
                "renamed, resume= with its new name goes on from its last checkpoint"
            )
        here = os.fstat(self._descriptor)
        if _identity(place) == (here.st_dev, here.st_ino):
            return (
                f"{path} was renamed while its run trained: it is {place} now{other}; to go on from its last "
                f"checkpoint: gentrain resume={place}"
            )
        what = "was removed" if str(place).endswith(_REMOVED) else "was removed, or moved out of reach,"
        return f"{path} {what} while its run trained, and nothing is left to go on from: the run stops{other}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None if nothing is there."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
