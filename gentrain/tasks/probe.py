"""task=probe: what a learned encoder is worth with few labels. Baselines: analysis/probe_baselines.py.

Legend: N pictures, K classes.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gentrain.analysis.linear_probe import L2_STRENGTHS
from gentrain.analysis.probe_baselines import Problem, Score, Scores, Tuning, probe
from gentrain.config.ranges import Above, AtLeast, Between
from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.packed import Label, Packed
from gentrain.errors import UserError
from gentrain.models.interface import Featured
from gentrain.runs.rundir import write_json
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.viz.grids import png
from gentrain.viz.plot import Curve, chart

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/probe.yaml."""

    label: str | None
    labels_per_class: list[Annotated[int, AtLeast(1)]]
    draws: Annotated[int, Between(1, 100)]
    split: Literal["test", "valid"]
    steps: Annotated[int, Between(1, 1_000_000)]
    batch_size: Annotated[int, Between(1, 1_000_000)]
    lr: Annotated[float, Above(0)]
    seed: Annotated[int, AtLeast(0)]


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)
    if not config["probe"]["labels_per_class"]:
        raise UserError("probe.labels_per_class=[] asks for nothing; give numbers of labels, [1, 10]")


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/probe/probe.json and probe.png, and prints a table."""
    trained, settings, console = open_run(config), Settings(**config["probe"]), Console()
    if not isinstance(trained.model, Featured):
        raise UserError(
            f"task=probe needs features of pictures, and model={trained.config['model']['name']} has none"
        )
    with preparing(console) as progress:
        packed = open_data_of(trained, config, settings.split, progress)
    column, label = choose_label(packed, settings.label)
    problem = make_problem(trained, packed, column, settings)
    with preparing(console, "probing") as progress:
        tuning = Tuning(settings.steps, settings.batch_size, settings.lr)
        numbers, draws = settings.labels_per_class, settings.draws
        scores = probe(trained, problem, numbers, draws, tuning, settings.seed, progress)
    directory = trained.path / "probe"
    content = {"protocol": protocol(trained, problem, label, settings), "arms": as_json(scores)}
    title = f"label {label.name}, {problem.classes} classes, {settings.split} split"
    picture = chart(curves(scores), title, "labels per class", "accuracy", 1 / problem.classes)
    with alone_in(directory):
        write_json(directory / "probe.json", content)
        write_atomically(directory / "probe.png", png(picture))
    console.print(table(scores, title, settings))
    say(console, f"written to {directory / 'probe.json'} and probe.png")


# ---- the labels


def choose_label(packed: Packed, wanted: str | None) -> tuple[int, Label]:
    """Its column and itself. Without a wish: the only one, or of the drawn faces the hair's style."""
    names = [label.name for label in packed.label_info]
    if not names:
        raise UserError(
            "task=probe needs labels, and these pictures have none; data=folder takes them from subfolders, "
            "or from the columns of a list"
        )
    if wanted is None:
        wanted = "hair_style" if "hair_style" in names else names[0]
        if len(names) > 1 and wanted != "hair_style":
            raise UserError(
                f"these pictures have several labels: give probe.label, one of {', '.join(names)}"
            )
    if wanted not in names:
        raise UserError(f"probe.label={wanted} is none of their labels: {', '.join(names)}")
    column = names.index(wanted)
    return column, packed.label_info[column]


def make_problem(trained: TrainedRun, packed: Packed, column: int, settings: Settings) -> Problem:
    """Raises UserError if a class has too few labels in the training split to draw from."""
    label = packed.label_info[column]
    labels = {
        split: np.asarray(packed.labels[packed.rows(split), column]).astype(np.int64)
        for split in ("train", settings.split)
    }
    counts_K = np.bincount(labels["train"], minlength=len(label.choices))
    most, fewest = max(settings.labels_per_class), int(counts_K.argmin())
    if counts_K[fewest] == 0:
        raise UserError(
            f"task=probe needs every class in training, and {label.name}={label.choices[fewest]} has 0 "
            "training pictures"
        )
    if counts_K[fewest] < most:
        raise UserError(
            f"probe.labels_per_class={most} is too many: {label.name}={label.choices[fewest]} has "
            f"{counts_K[fewest]} training pictures"
        )
    view = preprocessing_of(trained.config["data"])
    train, held_out = (
        ImageSplit(packed.split(name), view, trained.compute.device) for name in ("train", settings.split)
    )
    held_out_labels_N = torch.from_numpy(labels[settings.split])
    return Problem(train, labels["train"], held_out, held_out_labels_N, len(label.choices), trained.compute)


# ---- what is written and printed


def protocol(trained: TrainedRun, problem: Problem, label: Label, settings: Settings) -> dict[str, Any]:
    weights = "averaged weights" if trained.averaged else "last weights"
    choice = f"l2 by cross-validation among the labels drawn, from {list(L2_STRENGTHS)}"
    return {
        "run": str(trained.path),
        "step": trained.step,
        "weights": weights,
        **asdict(settings),
        "label": label.name,
        "choices": list(label.choices),
        "images": len(problem.held_out),
        "chosen": f"{choice}; all else is fixed, and the {settings.split} split is only measured on",
    }


def as_json(scores: Scores) -> dict[str, Any]:
    return {
        arm: {
            str(per_class): {
                "mean": mean_of(found),
                "standard_deviation": spread_of(found),
                "accuracies": [score.accuracy for score in found],
                "l2": [score.l2 for score in found],
            }
            for per_class, found in by_number.items()
        }
        for arm, by_number in scores.items()
    }


def mean_of(scores: list[Score]) -> float:
    return statistics.fmean(score.accuracy for score in scores)


def spread_of(scores: list[Score]) -> float | None:
    """The standard deviation over draws; None of a single one."""
    return statistics.stdev(score.accuracy for score in scores) if len(scores) > 1 else None


def curves(scores: Scores) -> dict[str, Curve]:
    return {
        arm: Curve(
            list(by_number), list(map(mean_of, by_number.values())),
            [spread_of(found) or 0.0 for found in by_number.values()],
        )
        for arm, by_number in scores.items()
    }  # fmt: skip


def table(scores: Scores, title: str, settings: Settings) -> Table:
    made = Table(title=f"accuracy in %, mean and standard deviation over {settings.draws} draws; {title}")
    made.add_column("labels per class")
    for per_class in next(iter(scores.values())):
        made.add_column(str(per_class), justify="right", no_wrap=True)
    for arm, by_number in scores.items():
        cells = []
        for found in by_number.values():
            spread = spread_of(found)
            cells.append(
                f"{100 * mean_of(found):.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")
            )
        made.add_row(arm, *cells)
    return made
