"""Which run directories patterns mean."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from gentrain.errors import UserError
from gentrain.runtime.files import expanded

# What a training run writes: a folder with one of these is a run, if perhaps a broken one.
SIGNS = ("config.yaml", "metrics.jsonl", "result.json")


def looks_like_run(path: Path) -> bool:
    return any((path / name).is_file() for name in SIGNS)


def find_runs(patterns: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run directories at or below what the patterns match, in order and each once; and a sentence for
    each match that is neither a run nor has one below.

    Raises UserError for a pattern that matches nothing, and if there is no run at all.
    """
    found: dict[Path, Path] = {}
    remarks: list[str] = []
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            raise UserError(
                f"runs={pattern} matches nothing; give run directories, or folders that hold some"
            )
        for match in matches:
            below = _below(match) if match.is_dir() else []
            if not below and not (match / "compare.html").is_file():  # what this task wrote is no surprise
                remarks.append(f"{match} is no run directory, and there is none below it")
            for run in below:
                found.setdefault(run.resolve(), run)
    if not found:
        raise UserError(
            f"runs={', '.join(patterns)} has no run directory (a folder with a config.yaml) at or below it"
        )
    return list(found.values()), remarks


def _matches(pattern: str) -> list[Path]:
    """A path as it is, whatever characters are in it, or what it matches as a pattern."""
    path = expanded(pattern)
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute one)
    return [Path(match) for match in matches if Path(match).is_dir()]


def _below(path: Path) -> list[Path]:
    """Folders that cannot be read are passed over, and links to folders are not followed."""
    if looks_like_run(path):
        return [path]
    runs = []
    for folder, below, _ in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in list(below):
            if looks_like_run(Path(folder, name)):
                runs.append(Path(folder, name))
                below.remove(name)  # nothing in a run is another run
    return runs
