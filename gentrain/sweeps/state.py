"""How a sweep's jobs stand, read from disk: what a killed process leaves behind counts as well."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from gentrain.runs.records import is_count, numbers_of
from gentrain.runs.step_names import newest_first, step_of
from gentrain.runtime.files import in_words, of_the_machine, write_atomically
from gentrain.runtime.stored_files import Unreadable, check_lock, dump_json, read_json_object
from gentrain.sweeps.naming import Job

NOT_STARTED, RUNNING, FINISHED = "not started", "running", "finished"
INTERRUPTED, KILLED, FAILED = "interrupted", "killed", "failed"
LONGEST_SECONDS = 1e12
RECORDS, EARLIER = ".jobs", ".earlier"  # hidden, so that nothing in them is taken for one of the sweep's runs
# The figure of a job's row: the first of these that its last line has.
HEADLINES = ("valid/bits_per_dim", "valid/mse", "valid/frechet_distance", "train/loss")


@dataclass(frozen=True)
class JobState:
    status: str
    step: int | None = None
    figure: tuple[str, float] | None = None
    seconds: float | None = None  # of all sessions that came to an end
    error: str | None = None
    spent: bool = False  # its run has failed, and is not gone on with


def read_state(folder: Path, job: Job) -> JobState:
    record, directory = read_record(folder, job), job.directory
    seconds, error, said = record.get("seconds"), record.get("error"), record.get("status", NOT_STARTED)
    if directory is None or not (directory / "config.yaml").is_file():
        if directory is not None and locked(directory):  # it is about to begin
            return JobState(RUNNING, seconds=seconds)
        return JobState(KILLED if said == RUNNING else said, seconds=seconds, error=error)
    result = _read(directory / "result.json")
    step = result["step"] if is_count(result.get("step")) else last_saved(directory)
    status = str(result.get("status", KILLED))
    spent = status == FAILED
    if locked(directory):
        return JobState(RUNNING, step, None, seconds)
    if said == FAILED and status != FINISHED:
        status = FAILED  # before it could go on, too: what it had reached is still there
    return JobState(
        status, step, _headline(result), seconds, error if status in (FAILED, KILLED) else None, spent
    )


def locked(directory: Path) -> bool:
    """Whether a process is at work in a run directory."""
    if not (directory / ".lock").is_file():
        return False
    try:
        with filelock.FileLock(directory / ".lock", timeout=0):
            return False
    except filelock.Timeout:
        return True


def last_saved(directory: Path) -> int | None:
    """The step of a run's newest checkpoint, by its name: how far it has come, however it ended."""
    return next(map(step_of, newest_first(directory / "checkpoints")), None)


def _headline(result: Mapping[str, Any]) -> tuple[str, float] | None:
    metrics = result.get("metrics")
    numbers = numbers_of(metrics) if isinstance(metrics, Mapping) else {}
    found = next((name for name in HEADLINES if name in numbers), None)
    return None if found is None else (found, float(numbers[found]))


# ---- what is kept beside the runs ------------------------------------------------------------------------


def read_record(folder: Path, job: Job) -> dict[str, Any]:
    """What the process that carried the job out last has said of it: status, error, seconds."""
    record = _read(_record(folder, job))
    status, error = record.get("status"), record.get("error")
    seconds = numbers_of(record).get("seconds", -1.0)
    return {
        "seconds": seconds if 0 <= seconds < LONGEST_SECONDS else None,
        "status": status if isinstance(status, str) else NOT_STARTED,
        "error": error if isinstance(error, str) else None,
    }


def write_record(folder: Path, job: Job, status: str, seconds: float, error: str | None) -> None:
    """`seconds`: of this session; they are added up."""
    total = float(read_record(folder, job).get("seconds") or 0.0) + seconds
    content = {"status": status, "seconds": round(total, 3), "error": error}
    with if_it_can_be_written(_record(folder, job)):
        (folder / RECORDS).mkdir(exist_ok=True)
        write_atomically(_record(folder, job), dump_json(content).encode())


@contextmanager
def if_it_can_be_written(file: Path) -> Iterator[None]:
    """A full or failing disk is for the runs to fail of; what cannot be noted beside them stops nothing."""
    try:
        yield
    except OSError as error:
        if not of_the_machine(error):
            raise
        error.filename = str(file)
        print(f"gentrain: {in_words(error)}", file=sys.stderr, flush=True)


def _record(folder: Path, job: Job) -> Path:
    return folder / RECORDS / f"{job.name}.json"


def set_aside(folder: Path, job: Job) -> Path | None:
    """Move a failed job's run out of the way; returns where to, None if another process was faster."""
    assert job.directory is not None
    check_lock(job.directory / ".lock")
    try:
        with filelock.FileLock(job.directory / ".lock", timeout=0):
            if _read(job.directory / "result.json").get("status") != FAILED:
                return None
            number = max((int(path.suffix[1:]) for path in earlier(folder, job)), default=0) + 1
            target = folder / EARLIER / f"{job.name}.{number}"
            target.parent.mkdir(exist_ok=True)
            job.directory.rename(target)
    except (filelock.Timeout, FileNotFoundError):
        return None
    if _record(folder, job).is_file():
        _record(folder, job).rename(target / "job.json")
    return target


def earlier(folder: Path, job: Job) -> list[Path]:
    """The failed attempts that were set aside, in order."""
    found = [
        path
        for path in (folder / EARLIER).glob("*")
        if re.fullmatch(rf"{re.escape(job.name)}\.\d+", path.name)
    ]
    return sorted(found, key=lambda path: int(path.suffix[1:]))


def _read(file: Path) -> dict[str, Any]:
    """An object, or {} if there is none that can be read."""
    try:
        return read_json_object(file)
    except Unreadable:
        return {}
