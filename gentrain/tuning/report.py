"""A study in words: study.json and trials.csv beside it, and a table in the terminal."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gentrain.runs.rundir import write_json
from gentrain.runtime.console import say
from gentrain.runtime.files import write_atomically
from gentrain.sweeps.state import last_saved
from gentrain.tuning.search import Search
from gentrain.tuning.store import Store

# In the words of result.json.
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
SHOWN = 40  # rows of the table in the terminal


def best_of(trials: Sequence[FrozenTrial], search: Search) -> FrozenTrial | None:
    """The finished trial with the best figure; of equal ones the first. Pruned ones had fewer steps."""
    ended = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    sign = -1 if search.settings.direction == "maximize" else 1
    return min(ended, key=lambda trial: sign * (trial.value or 0.0), default=None)


def command_of(search: Search, trial: FrozenTrial, config_dir: str | None = None) -> str:
    """The training command that gives the same run, to be copied into a shell."""
    flags = ["--config-dir", config_dir] if config_dir else []
    return shlex.join(["gentrain", *flags, *search.typed(trial.params)])


def row_of(search: Search, store: Store, trial: FrozenTrial) -> dict[str, Any]:
    """What there is to say of one trial."""
    state = STATES[trial.state]
    if trial.state == TrialState.RUNNING and not store.is_running(trial):
        state = "interrupted"
    last = trial.last_step
    run = trial.user_attrs.get("run_dir", store.run_dir(trial.number, trial.params).name)
    step = trial.user_attrs.get("step")
    if step is None:  # not told to the study yet: what the run has saved says more than what was evaluated
        step = max(last or 0, last_saved(search.directory / run) or 0)
    value = trial.value if trial.state.is_finished() else None
    if value is None and last is not None:
        value = trial.intermediate_values[last]
    return {
        "number": trial.number,
        "state": state,
        search.metric: value,
        "step": step,
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "run": run,
        **trial.params,
        "why": trial.user_attrs.get("why", ""),
    }


def write_reports(search: Search, store: Store, config_dir: str | None) -> None:
    """study.json and trials.csv, of the study as it is now."""
    with store.alone():
        trials = store.trials()
        rows = [row_of(search, store, trial) for trial in trials]
        best = best_of(trials, search)
        summary = {
            "metric": search.metric,
            "direction": search.settings.direction,
            "trials": search.trials,
            "states": dict(Counter(row["state"] for row in rows)),
            "space": {key: values.as_dict() for key, values in search.space.items()},
            "best": None
            if best is None
            else {
                "number": best.number,
                "value": best.value,
                "settings": search.values_of(best.params),
                "run": best.user_attrs["run_dir"],
                "command": command_of(search, best, config_dir),
            },
            "rows": rows,
        }
        write_json(search.directory / "study.json", summary)
        text = io.StringIO()
        names = ["number", "state", search.metric, "step", "seconds", *search.space, "run", "why"]
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(search.directory / "trials.csv", text.getvalue().encode())


def print_study(search: Search, store: Store, console: Console, config_dir: str | None) -> None:
    with store.alone():  # to ask whether a trial is running is to try its lock
        trials = store.trials()
        rows = [row_of(search, store, trial) for trial in trials]
    best = best_of(trials, search)
    counts = Counter(row["state"] for row in rows)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    table = Table(
        title=Text(
            f"{len(rows)} of {max(len(rows), search.trials)} trials: {said}" if rows else "no trial yet"
        )
    )
    for heading in ("trial", "state", search.metric, "steps", *search.space):
        table.add_column(heading, justify="left" if heading == "state" else "right", overflow="fold")
    shown = _shown(rows, search)
    for row in shown:
        mark = "*" if best is not None and row["number"] == best.number else ""
        cells = [row["state"], row[search.metric], row["step"], *(row.get(key) for key in search.space)]
        style = "bold" if mark else ""
        table.add_row(*(Text(text, style) for text in (f"{mark}{row['number']}", *map(_cell, cells))))
    console.print(table)
    if len(shown) < len(rows):
        say(console, f"the {len(shown)} best of {len(rows)} are shown; all are in trials.csv")
    for row in rows:
        if row["why"]:
            say(console, f"trial {row['number']} failed: {row['why']}")
    if best is None:
        say(console, "no trial has been trained to its end yet, so there is no best one")
        return
    what = f"{search.metric} {best.value:.6g} after {best.user_attrs['step']} steps, on the validation split"
    say(console, f"best: trial {best.number}, {what}: {search.directory / best.user_attrs['run_dir']}")
    say(console, f"  the same again: {command_of(search, best, config_dir)}")


def _shown(rows: list[dict[str, Any]], search: Search) -> list[dict[str, Any]]:
    """All, by number; of very many the best, finished ones first."""
    if len(rows) <= SHOWN:
        return rows
    sign = -1 if search.settings.direction == "maximize" else 1

    def rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
        value = row[search.metric]
        return row["state"] != "finished", value is None, sign * (value or 0.0)

    return sorted(rows, key=rank)[:SHOWN]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
