"""All that is compared, read from disk once; and as plain data for compare.json."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentrain.comparison.collect import Run, read_run
from gentrain.comparison.differing import NOT_SET, differing
from gentrain.comparison.figures import ReportedFigure, columns
from gentrain.comparison.find import find_runs
from gentrain.comparison.pictures import Picture, read_pictures
from gentrain.comparison.text import clean

# Figures that say most of a run come first, by the part of their names before any extractor.
TELLING = (
    "bits_per_dim", "distance_to_truth", "frechet_distance", "kernel_distance", "precision", "recall",
    "density", "coverage", "nearer_than_held_out", "copies",
)  # fmt: skip
FIRST = ("evaluation.json", "metrics.jsonl", "cost")  # where figures of the first table are from


@dataclass(frozen=True)
class Comparison:
    patterns: list[str]
    runs: list[Run]
    pictures: list[list[Picture]]  # of each run
    settings: list[str]  # dotted keys that differ
    remarks: list[str]  # what was matched and is no run

    @property
    def groups(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(run.group for run in self.runs))

    @property
    def columns(self) -> list[ReportedFigure]:
        """One figure for each column; the telling ones first, then by protocol, first what most runs have."""
        figures = [figure for run in self.runs for figure in run.figures]
        shared = Counter(figure.column[-1] for figure in figures)
        names = Counter(figure.name for figure in figures)

        def place(figure: ReportedFigure) -> tuple[Any, ...]:
            protocol = figure.column[-1]
            name = figure.name.partition("[")[0]
            telling = TELLING.index(name) if name in TELLING else len(TELLING)
            often = (-shared[protocol], protocol, -names[figure.name], figure.name)
            return rank(figure), figure.source, telling, *often

        return sorted(columns(figures), key=place)


def rank(figure: ReportedFigure) -> int:
    """What was measured on purpose, then what training logged, what it cost, and what other tasks found."""
    return FIRST.index(figure.source) if figure.source in FIRST else len(FIRST)


def collect(
    patterns: Sequence[str], cells: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """UserError if the patterns have no run."""
    paths, remarks = find_runs(patterns)
    runs, pictures = [], []
    for done, (path, label) in enumerate(zip(paths, labels(paths), strict=True)):
        run = read_run(path, label)
        size = run.config.get("data.size")
        found, problems = read_pictures(path, size if isinstance(size, int) and size > 0 else None, cells)
        run.problems += problems
        runs.append(run)
        pictures.append(found)
        progress(done + 1, len(paths))
    keys = differing([run.config for run in runs if run.config])
    return Comparison(list(patterns), runs, pictures, keys, remarks)


def labels(paths: Sequence[Path]) -> list[str]:
    """Each path below the folder that all have in common."""
    whole = [path.absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in whole])
    return [os.path.relpath(path, common) for path in whole]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Numbers that are not finite are null: JSON has none of them."""
    content = {
        "runs_of": comparison.patterns,
        "settings_that_differ": comparison.settings,
        "runs": [
            {
                "run": run.label,
                "path": str(run.path),
                "group": {"folder": run.group[0], "sweep": run.group[1] or None},
                "model": run.family,
                "data": run.data,
                "status": run.status,
                "step": run.step,
                "problems": run.problems,
                "settings": {key: run.config.get(key, NOT_SET) for key in comparison.settings},
                "figures": [_as_json(figure) for figure in run.figures],
                "pictures": [picture.source for picture in pictures],
            }
            for run, pictures in zip(comparison.runs, comparison.pictures, strict=True)
        ],
        "remarks": comparison.remarks,
    }
    return _plain(content)


def _as_json(figure: ReportedFigure) -> dict[str, Any]:
    return {
        "name": figure.name, "mean": figure.mean, "standard_error": figure.standard_error,
        "unit": figure.unit, "meaning": figure.meaning, "source": figure.source,
        "protocol": dict(figure.protocol), "of": dict(figure.whose), "floor": dict(figure.floor),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(value)
