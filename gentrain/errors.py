"""Errors that a person is meant to read. Everything else keeps its traceback."""

from collections.abc import Sequence

NAMED = 8  # of many things of one kind in a message; the rest are counted


def few(things: Sequence[str], named: int = NAMED, between: str = ", ") -> str:
    """Joined, but of many only the first ones and how many more there are: a message is read as a whole."""
    more = len(things) - named
    return between.join([*things[:named], *([f"and {more:,} more"] if more > 0 else [])])


class UserError(Exception):
    """A mistake in what the user gave: one sentence that says what, where, and what to do. Exit status 2."""


class Busy(UserError):
    """Another process is at work in the run directory."""


class RunFailed(Exception):
    """A run that cannot go on (diverged, out of memory, disk full), in one sentence. Exit status 1."""


class Interrupted(BaseException):
    """The user or the system asked us to stop, and what could be saved is saved.

    Like KeyboardInterrupt not an `Exception`, so that a sweep stops as a whole.
    """

    def __init__(self, exit_status: int) -> None:
        super().__init__(exit_status)
        self.exit_status = exit_status
