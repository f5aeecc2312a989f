"""The end of a sweep: its table, and the same as sweep.json for programs and for task=compare."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gentrain.comparison.text import clean, duration, number
from gentrain.runtime.files import remove_half_written, write_atomically
from gentrain.runtime.stored_files import Unreadable, check_lock, dump_json, read_json_object
from gentrain.sweeps.naming import Job
from gentrain.sweeps.state import (
    EARLIER,
    FAILED,
    FINISHED,
    JobState,
    earlier,
    if_it_can_be_written,
    read_state,
)

FILE = "sweep.json"


def write_report(folder: Path, jobs: Sequence[Job]) -> list[JobState]:
    """How the jobs stand, written to sweep.json and returned. Jobs of other commands in it are kept."""
    found = [read_state(folder, job) for job in jobs]
    rows = {job.name: _row(folder, job, state) for job, state in zip(jobs, found, strict=True)}
    check_lock(folder / ".sweep.lock")
    with if_it_can_be_written(folder / FILE), filelock.FileLock(folder / ".sweep.lock"):
        remove_half_written(folder, f"{FILE}*")
        others = {row["name"]: row for row in _rows(folder / FILE) if row["name"] not in rows}
        content = {
            # The command puts ++ before what a run may have and the default config has not.
            "command": shlex.join(["gentrain", *(typed.removeprefix("++") for typed in sys.argv[1:])]),
            "directory": str(Path.cwd()),
            "jobs": [*others.values(), *rows.values()],
        }
        write_atomically(folder / FILE, (dump_json(content, indent=2) + "\n").encode())
    return found


def _row(folder: Path, job: Job, state: JobState) -> dict[str, Any]:
    return {
        "name": job.name,
        "run": None if job.directory is None else str(job.directory),
        "settings": job.settings,
        "status": state.status,
        "step": state.step,
        "figure": None if state.figure is None else {"name": state.figure[0], "value": state.figure[1]},
        "seconds": state.seconds,
        "error": state.error,
        "earlier_attempts": [f"{EARLIER}/{path.name}" for path in earlier(folder, job)],
    }


def _rows(file: Path) -> list[dict[str, Any]]:
    """Of an earlier sweep.json, if it is one."""
    try:
        rows = read_json_object(file).get("jobs")
    except Unreadable:
        return []
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [row for row in found if isinstance(row.get("name"), str)]


def print_table(folder: Path, jobs: Sequence[Job], found: Sequence[JobState]) -> None:
    """All text as rich.Text: nothing in a value is taken for markup."""
    console = Console()
    varied = list(jobs[0].settings)
    done = sum(state.status == FINISHED for state in found)
    table = Table(title=Text(f"{done} of {len(jobs)} jobs finished: {folder}"))
    for heading in (*varied, "status"):
        table.add_column(Text(clean(heading)), overflow="fold")
    for heading in ("step", "figure", "time"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("directory", overflow="fold")
    for job, state in zip(jobs, found, strict=True):
        figure = "" if state.figure is None else f"{state.figure[0]} {number(state.figure[1])}"
        cells = [
            *(job.settings[key] for key in varied),
            state.status,
            "" if state.step is None else str(state.step),
            figure,
            "" if state.seconds is None else duration(state.seconds),
            "" if job.directory is None else job.directory.name if job.owned else str(job.directory),
        ]
        table.add_row(*(Text(clean(cell)) for cell in cells), style="red" if state.status == FAILED else None)
    console.print(table)
    for job, state in zip(jobs, found, strict=True):
        if state.error:
            text = f"{state.status}: {job.name}: {state.error}"
            console.print(Text(clean(text)), soft_wrap=True, highlight=False)
