"""Ctrl-C before there is anything to unwind. The first thing that the command does, so it imports little.

An exception that is raised while modules are imported is a traceback, or what an extension makes of it. Until
a task begins nothing is written, so there Ctrl-C just ends the process.
"""

import os
import signal
from contextlib import suppress

INTERRUPTED = 128 + signal.SIGINT


def exit_on_ctrl_c() -> None:
    """From now on Ctrl-C ends the process at once, with a word and exit status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or somebody's own
        signal.signal(signal.SIGINT, _exit)


def raise_on_ctrl_c() -> None:
    """From now on it raises KeyboardInterrupt again, which a task cleans up after."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(_number: int, _frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        with suppress(OSError):
            os.write(2, b"gentrain: interrupted\n")
    os._exit(INTERRUPTED)
