"""stdout and stderr that never fail: a lost terminal or a full pipe ends no command. Imports no torch.

What a command says is not its purpose: a run goes on when nobody can read its log any more.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _NeverFails(io.FileIO):
    """A descriptor to write to. What it does not take is dropped; `failure` is the first reason."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        whole = left = memoryview(data).cast("B")
        try:
            while left:
                written = super().write(left)
                if written is None:  # a pipe that does not block, and is full
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[written:]
        except OSError as error:
            self.failure = self.failure or error
        return len(whole)


def guard_output() -> None:
    """Put such streams in the place of sys.stdout and sys.stderr, for good.

    Characters that an encoding lacks are written as their escapes. A stream that was closed (`>&-`) writes to
    nowhere; its descriptor is taken, else the next file to be opened would have its number, and get what
    libraries and other processes print. Streams of somebody else (a notebook's, a test's) stay.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for _ in closed:  # each gets the lowest number that is free
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _guarded(sys.stdout, 1, 1 in closed)
    sys.stderr = _guarded(sys.stderr, 2, 2 in closed)


def why_lost(stream: TextIO) -> OSError | None:
    """Why something that was written to a stream of `guard_output` is lost, if it is."""
    stream.flush()
    raw = stream.buffer if isinstance(stream, io.TextIOWrapper) else None
    return raw.failure if isinstance(raw, _NeverFails) else None


def _guarded(stream: TextIO | None, descriptor: int, was_closed: bool) -> TextIO:
    encoding, errors = "utf-8", "strict"
    if stream is not None:
        # Windows' own console takes no bytes.
        ours = type(stream) is io.TextIOWrapper and not stream.closed and sys.platform != "win32"
        if not ours or stream.fileno() != descriptor:
            return stream
        with suppress(OSError):
            stream.flush()
        encoding, errors = stream.encoding, stream.errors or "strict"
    raw = _NeverFails(descriptor, "w", closefd=False)
    if was_closed:
        raw.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
    if errors in ("strict", "surrogateescape"):  # both raise for most characters
        errors = "backslashreplace"
    # Buffers no more than a line: what is said is seen at once, and a signal's handler may print at any time.
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=True)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
