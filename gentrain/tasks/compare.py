"""task=compare: runs side by side, in one page. The work is in gentrain/comparison. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gentrain.comparison.comparison import Comparison, as_json, collect
from gentrain.comparison.figures import ReportedFigure, describe_protocol
from gentrain.comparison.find import find_runs, looks_like_run
from gentrain.comparison.page import page
from gentrain.comparison.text import clean, duration, number
from gentrain.config.ranges import Between
from gentrain.errors import UserError
from gentrain.runtime.files import alone_in, expanded, write_atomically

SECTIONS = ()  # of this config: none, each run has its own
UNUSED = ("model", "data", "optimizer", "train", "device", "seed", "resume", "init_from", "run", "checkpoint")
UNUSED_TOO = ("run_dir", "experiment")
WIDE = 120  # columns of a terminal in which figures' names have room
SHOWN = 6  # figures in the terminal's table; the page has all


@dataclass(frozen=True)
class Settings:
    """configs/task/compare.yaml."""

    out: str
    cells: Annotated[int, Between(1, 32)]


def check(config: dict[str, Any], overrides: list[str]) -> None:
    """Raise UserError if there is no run, or if the page would be written among one's files."""
    if not config["runs"]:
        raise UserError(
            "task=compare needs runs=...: a pattern (runs='outputs/*') or a list of run directories"
        )
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in (*UNUSED, *UNUSED_TOO):
            raise UserError(f"{override} has no meaning for task=compare: each run has its own")
    out = expanded(config["compare"]["out"])
    if out.exists() and not out.is_dir():
        raise UserError(f"compare.out={out} is a file; give a folder")
    for folder in (out.absolute(), *out.absolute().parents):
        if looks_like_run(folder):
            raise UserError(
                f"compare.out={out} lies in the run directory {folder}; give a folder outside of it"
            )
    find_runs(_patterns(config))


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <compare.out>/compare.html and compare.json, and prints a table."""
    check(config, overrides)
    settings, console = Settings(**config["compare"]), Console()
    comparison = collect(_patterns(config), settings.cells)
    out = expanded(settings.out)
    content = json.dumps(as_json(comparison), indent=2, allow_nan=False)
    written = page(comparison).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"compare.out={out} cannot be made: {error.strerror}") from error
    with alone_in(out):
        write_atomically(out / "compare.json", (content + "\n").encode())
        write_atomically(out / "compare.html", written)
    _print(comparison, out, console)


def _patterns(config: dict[str, Any]) -> list[str]:
    runs = config["runs"]
    return [runs] if isinstance(runs, str) else list(runs)


def _print(comparison: Comparison, out: Path, console: Console) -> None:
    """All text as rich.Text: nothing in a name is taken for markup."""
    columns = comparison.columns
    wide = console.width >= WIDE
    shown = columns[: SHOWN if wide else SHOWN // 2]
    table = Table(title=Text(f"{len(comparison.runs)} runs"))
    for heading in ("run", "model", "data", "status"):
        table.add_column(heading, overflow="fold")
    for mark, column in enumerate(shown, 1):
        name = f"{column.name} [{mark}]" if wide else f"[{mark}]"
        table.add_column(Text(clean(name)), justify="right", overflow="fold")
    for run in comparison.runs:
        figures = {figure.column: figure for figure in run.figures}
        cells = [_cell(figures.get(column.column)) for column in shown]
        status = "; ".join([f"{run.status}{'' if run.step is None else f' at {run.step}'}", *run.problems])
        table.add_row(*(Text(clean(text)) for text in (run.label, run.family, run.data, status, *cells)))
    console.print(table)
    lines = [
        f"[{mark}] {column.name}: "
        + "; ".join(filter(None, [column.unit, column.meaning, *describe_protocol(column.protocol)]))
        for mark, column in enumerate(shown, 1)
    ]
    if len(columns) > len(shown):
        lines.append(f"and {len(columns) - len(shown)} more figures, each with its protocol, in the page")
    for text in (*lines, *comparison.remarks, f"written to {out / 'compare.html'} and compare.json"):
        console.print(Text(clean(text)), soft_wrap=True, highlight=False)


def _cell(figure: ReportedFigure | None) -> str:
    if figure is None:
        return ""
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.2g}"
    return (duration(figure.mean) if figure.unit == "s" else number(figure.mean)) + error
