"""A job in a cluster's queue: torchrun's variables from SLURM's, and being warned, saving and queueing again.

Written against submitit, whose local executor does the same without SLURM.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Protocol

from gentrain.runtime.signals import WARNINGS

FIRST_PORT, PORTS = 10_000, 20_000  # below what systems hand out by themselves


class Compute(Protocol):
    """Of submitit's JobEnvironment, what is needed."""

    @property
    def num_tasks(self) -> int: ...
    @property
    def num_nodes(self) -> int: ...
    @property
    def global_rank(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def hostnames(self) -> Sequence[str]: ...
    @property
    def raw_job_id(self) -> str: ...


def torchrun_environment(place: Compute) -> dict[str, str]:
    """What torchrun would set for this task. All tasks of a job get one address and port.

    MASTER_ADDR and MASTER_PORT of the environment win: a site may have a network of its own for this.
    """
    address = "127.0.0.1" if place.num_nodes == 1 else place.hostnames[0]
    port = FIRST_PORT + int(place.raw_job_id) % PORTS
    return {
        "RANK": str(place.global_rank),
        "WORLD_SIZE": str(place.num_tasks),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.num_tasks // place.num_nodes),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", address),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(port)),
    }


class Preemption:
    """While it is entered, a warning (SIGUSR1, SIGUSR2) or SIGTERM is noted instead of acted upon.

    submitit has put a handler on the warning signal, which queues the job again and exits. It would do so at
    once; so it is kept, and called once the run has saved.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    @property
    def warned(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Preemption:
        for number in (*WARNINGS, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def requeue(self) -> None:
        """Queue the job again and exit, as submitit does it; nothing if it was cancelled, or cannot be."""
        if self.signal is None or (self.signal == signal.SIGTERM and _cancelled()):
            return
        for number in WARNINGS:
            handler = self._before[number]
            if callable(handler):
                handler(number, None)


def _cancelled() -> bool:
    """SIGTERM comes before preemption, and from scancel too; then the job is no longer running for SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    ask = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return True  # not known: a job that comes back after it was cancelled is the greater nuisance
    return answer.stdout.strip() not in ("RUNNING", "PREEMPTED")
