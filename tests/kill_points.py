"""A warm process that carries out commands in forks of itself, each killed before its n-th file operation.

Or all operations fail from the n-th one on, as on a disk that is full, or mounted for reading.

Run as a script: requests come as lines of JSON on stdin, and answers go as lines of JSON to stdout. What counts is
what Python's audit events say before it is done (open for writing, rename, remove, mkdir, rmdir), and each fsync.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Ended:
    status: int  # exit status, or minus the signal
    operations: list[str]  # what was done to which file, in order; of one that was killed: none
    output: str


class Forker:
    """The warm process, seen from a test."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(
        self, *arguments: str, kill_at: int | None = None, fail: tuple[int, int] | None = None
    ) -> Ended:
        """The command in this process's folder, whose cache it has too; killed before operation `kill_at`.

        `fail`: from which operation on all fail, and the number of the error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"folder": str(Path.cwd()), "arguments": arguments, "kill_at": kill_at, "fail": fail}
        self._process.stdin.write(json.dumps(request | {"cache": os.environ["GENTRAIN_CACHE"]}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class Counter:
    """Counts file operations below a folder, and ends the process without a word before one of them."""

    def __init__(self, folder: str, kill_at: int | None, fail: tuple[int, int] | None) -> None:
        self._fails_at, self._error = fail or (None, 0)
        self._folder, self._kill_at, self.operations = folder, kill_at, list[str]()
        real_fsync = os.fsync

        def fsync(descriptor: int) -> None:
            self._counted("fsync", str(descriptor))
            real_fsync(descriptor)

        os.fsync = fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(flags, int) and flags & WRITES and self._is_ours(path):
                self._counted(event, path)
        elif event in CHANGES and self._is_ours(arguments[0]):
            self._counted(event, arguments[0])

    def _is_ours(self, path: Any) -> bool:
        return isinstance(path, str | bytes) and self._folder in str(Path.cwd() / os.fsdecode(path))

    def _counted(self, event: str, path: str | bytes) -> None:
        if len(self.operations) + 1 == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.operations.append(f"{event} {os.fsdecode(path)}")
        if self._fails_at is not None and len(self.operations) >= self._fails_at:
            name = () if event == "fsync" else (os.fsdecode(path),)
            raise OSError(self._error, os.strerror(self._error), *name)


def carry_out(request: dict[str, Any], output: IO[bytes]) -> Ended:
    """In a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(request["folder"])
            os.environ["GENTRAIN_CACHE"] = request["cache"]
            sys.argv = ["gentrain", *request["arguments"]]
            counter = Counter(request["folder"], request["kill_at"], request["fail"])
            from gentrain.cli import main

            try:
                main()
            except SystemExit as ended:
                status = int(ended.code or 0)
            os.write(write, "\n".join(counter.operations).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as told:
        operations = told.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    output.seek(0)
    return Ended(status, operations, output.read().decode())


def serve() -> None:
    import tempfile

    os.environ["COLUMNS"] = "200"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # What a command imports, imported once.
    import torch

    import gentrain.cli
    import gentrain.comparison.comparison
    import gentrain.config.registry
    import gentrain.sweeps.sweep
    import gentrain.tuning.loop

    for task in gentrain.config.registry.TASKS:
        gentrain.config.registry.target(
            gentrain.config.registry.look_up(gentrain.config.registry.TASKS, "task", task)
        )
    torch.set_num_threads(1)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            ended = carry_out(json.loads(line), output)
        answers.write(json.dumps(vars(ended)) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    serve()
