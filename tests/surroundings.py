"""Commands whose output fails, each in a process forked from one that has imported what takes long.

`python surroundings.py` reads {name: [way, arguments]} as JSON and prints {name: exit status}.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


def _both(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def full_device() -> None:
    _both(os.open("/dev/full", os.O_WRONLY))


def closed_pipe() -> None:
    reader, writer = os.pipe()
    _both(writer)
    os.close(reader)
    os.close(writer)


def full_pipe_that_does_not_block() -> None:
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    _both(writer)


def closed() -> None:
    os.close(1)
    os.close(2)


def lost_terminal() -> None:
    master, slave = pty.openpty()
    _both(slave)
    os.close(master)


def ascii_only() -> None:
    _both(os.open("ascii.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND))


WAYS: dict[str, Callable[[], None]] = {
    "full device": full_device,
    "closed pipe": closed_pipe,
    "full pipe that does not block": full_pipe_that_does_not_block,
    "closed": closed,
    "lost terminal": lost_terminal,
    "ascii": ascii_only,
}


def _as_python_opens(descriptor: int, way: str) -> TextIO | None:
    """sys.stdout or sys.stderr as it is when a process starts."""
    if way == "closed":
        return None
    return open(
        descriptor, "w", encoding="ascii" if way == "ascii" else "utf-8", errors="strict", closefd=False
    )


def _status(arguments: list[str], log: Path) -> int:
    """Of the command in this process, as the shell would see it; a traceback goes to `log`."""
    from gentrain.cli import main

    sys.argv = ["gentrain", *arguments]
    try:
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        log.write_text(traceback.format_exc())
        status = 1
    try:  # what the interpreter does at its end
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        status = 120
    return status


def _run(name: str, way: str, arguments: list[str]) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        WAYS[way]()
        sys.stdout, sys.stderr = (_as_python_opens(number, way) for number in (1, 2))  # type: ignore[assignment]
        os._exit(_status(arguments, Path(f"{name}.log")))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hang_up(arguments: list[str], run: Path, ignored: bool) -> int:
    """The exit status of a run in a terminal of its own, which is closed once the run has taken two steps."""
    child, master = pty.fork()
    if child == 0:
        signal.alarm(120)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        sys.stdout, sys.stderr = (_as_python_opens(number, "") for number in (1, 2))  # type: ignore[assignment]
        os._exit(_status(arguments, Path("hang_up.log")))
    os.set_blocking(master, False)
    lines = run / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("\n") >= 2):
        time.sleep(0.02)
        try:
            os.read(master, 65536)
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            break
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    import gentrain.tasks.evaluate
    import gentrain.training.run  # noqa: F401

    found = {}
    for name, (way, arguments) in json.load(sys.stdin).items():
        if way.startswith("hang up"):
            found[name] = hang_up(arguments, Path(name), way.endswith("nohup"))
        else:
            found[name] = _run(name, way, arguments)
    print(json.dumps(found))
