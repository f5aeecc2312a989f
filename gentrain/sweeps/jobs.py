"""How one job is carried out: in this process, or in one of its own. Hydra's launchers call these functions.

Whatever happens to a job is written down, and no exception leaves it: the others go on.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gentrain.errors import Busy, RunFailed, UserError
from gentrain.runtime.output import guard_output
from gentrain.runtime.signals import SIGNALS, WARNINGS, hangs_up
from gentrain.sweeps import state as states
from gentrain.sweeps.naming import Job
from gentrain.sweeps.slurm import Preemption, torchrun_environment

POLL_SECONDS = 0.1
FORGIVING = tuple(128 + number for number in SIGNALS)  # exit statuses of a run that was told to stop


Run = Callable[[dict[str, Any], list[str]], None]  # carries out a job: its config, and its overrides


@dataclass(frozen=True)
class Launch:
    """What is launched. Sent to other processes, so plain data."""

    folder: Path
    jobs: tuple[Job, ...]
    flags: tuple[str, ...] = ()  # Hydra's own overrides that a job in a process of its own needs
    stop: Path | None = None  # local processes save and stop once this file is there
    environment: dict[str, str] = field(default_factory=dict)
    process: int = field(default_factory=os.getpid)  # of the sweep itself

    def current(self) -> Job:
        return self.jobs[HydraConfig.get().job.num]

    def say(self, job: Job, text: str) -> None:
        print(f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.name}: {text}", flush=True)


def settled_meanwhile(launch: Launch, job: Job, asks_lock: bool = True) -> bool:
    """Whether another process has taken the job on since this sweep began, and says so."""
    state = states.read_state(launch.folder, job)
    if not job.owned or not (
        state.status == states.FINISHED or state.spent or (asks_lock and state.status == states.RUNNING)
    ):
        return False
    launch.say(job, f"{state.status} in another process")
    return True


def in_this_process(launch: Launch, run: Run, _cfg: DictConfig) -> None:
    """One after the other, as if each had been typed alone, with the config that was checked.

    Raises Interrupted.
    """
    import torch

    job = launch.current()
    if settled_meanwhile(launch, job):
        return
    launch.say(job, "begins")
    threads = torch.get_num_threads()  # which the job may set, and the next one must not inherit
    begun, status, error = time.monotonic(), states.INTERRUPTED, None
    busy = False
    states.write_record(launch.folder, job, states.RUNNING, 0.0, None)
    try:
        run(dict(job.config), list(job.overrides))
        status = states.FINISHED
    except Busy:
        busy = True
        launch.say(job, "running in another process")
    except (UserError, RunFailed) as problem:
        status, error = states.FAILED, str(problem)
        print(f"gentrain: {error}", file=sys.stderr, flush=True)
    except Exception as problem:  # the barrier between jobs; kept, an exception would keep its tensors, too
        status, error = states.FAILED, f"{type(problem).__name__}: {problem}"
        traceback.print_exc()
    finally:
        if not busy:
            states.write_record(launch.folder, job, status, time.monotonic() - begun, error)
        torch.set_num_threads(threads)
        gc.collect()


def in_a_process(launch: Launch, _cfg: DictConfig) -> None:
    """As the command that one would type, with a log of its own: even SIGKILL ends no more than this job."""
    job, elsewhere = launch.current(), os.getpid() != launch.process
    if elsewhere:
        guard_output()
        # Ctrl-C and a lost terminal reach the run as well; the sweep's process sees to them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hangs_up():  # not ignored: the run would take that for nohup
            signal.signal(signal.SIGHUP, lambda *_: None)
    if (launch.stop and launch.stop.exists()) or settled_meanwhile(launch, job):
        return
    launch.say(job, "begins")
    log = launch.folder / "logs" / f"{job.name}.log"
    log.parent.mkdir(exist_ok=True)
    parent = os.getppid()

    def orphaned() -> bool:
        return elsewhere and os.getppid() != parent  # the sweep's process was killed

    def stopping() -> bool:
        return orphaned() or (launch.stop is not None and launch.stop.exists())

    with log.open("ab") as output:
        status = _carry_out(launch, job, stopping, launch.environment, output)
    if orphaned():
        os._exit(1)  # nobody waits for an answer, or has other jobs
    launch.say(job, f"{status}; {log}" if status in (states.FAILED, states.KILLED) else status)


def under_submitit(launch: Launch, _cfg: DictConfig) -> None:
    """In a job of a cluster, in which every task calls this: with torchrun's variables if there are several.

    Leaves by SystemExit if it was warned, has saved, and is queued again.
    """
    from submitit import JobEnvironment

    job, place = launch.current(), JobEnvironment()
    alone = place.num_tasks == 1
    if settled_meanwhile(launch, job, asks_lock=alone):
        return
    environment = launch.environment if alone else launch.environment | torchrun_environment(place)
    with Preemption() as preemption:
        status = _carry_out(
            launch, job, lambda: preemption.warned, environment, None, writes=place.global_rank == 0
        )
        launch.say(job, status)
        if status == states.INTERRUPTED:
            preemption.requeue()


def _carry_out(
    launch: Launch,
    job: Job,
    stopping: Callable[[], bool],
    environment: dict[str, str],
    output: Any,
    writes: bool = True,
) -> str:
    """Run it to its end, or until `stopping`, and then to its saving; returns its status."""
    command = [sys.executable, "-u", "-m", "gentrain", *job.overrides, *launch.flags, "hydra.mode=RUN"]
    begun, before = time.monotonic(), 0 if output is None else output.tell()
    if writes:
        states.write_record(launch.folder, job, states.RUNNING, 0.0, None)
    process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    asked = False
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        if not asked and stopping():
            process.send_signal(WARNINGS[0] if WARNINGS else signal.SIGTERM)
            asked = True
    code = process.returncode
    if code in FORGIVING or ((asked or stopping()) and code < 0 and -code != signal.SIGKILL):
        status = states.INTERRUPTED
    else:
        status = states.FINISHED if code == 0 else states.KILLED if code < 0 else states.FAILED
    if status == states.FAILED and job.directory is not None and states.locked(job.directory):
        return states.RUNNING  # in another process, which was faster
    if writes:
        error = _why(code, output, before) if status in (states.FAILED, states.KILLED) else None
        states.write_record(launch.folder, job, status, time.monotonic() - begun, error)
    return status


def _why(code: int, output: Any, before: int) -> str:
    """The signal that ended it, or the last line of its log after what earlier sessions have left there."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if output is None:
        return f"exit status {code}; see the log of the job"
    tail = Path(output.name).read_bytes()[before:][-10_000:].decode(errors="replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    said = [line.removeprefix("gentrain: ") for line in lines if line.startswith("gentrain: ")]
    return (said or lines or [f"exit status {code}"])[-1]


@contextmanager
def stop_file() -> Iterator[Path]:
    """A path of its own for a message to the processes of one command."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gentrain-sweep-") as folder:
        yield Path(folder) / "stop"
