"""task=evaluate: how good a trained run is, on a held-out split."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gentrain.comparison.figures import words
from gentrain.comparison.text import duration
from gentrain.data import Packed, view_of
from gentrain.data.images import Images
from gentrain.files import write_atomically
from gentrain.judging import QUANTILES, Judgement, draw_sets, how_many, judge
from gentrain.metrics.extractors import Extractor, make_extractor
from gentrain.metrics.figure import Figure
from gentrain.metrics.likelihood import likelihood
from gentrain.progress import preparing, say
from gentrain.ranges import AtLeast
from gentrain.rundir import write_json
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.tracking import read_metrics
from gentrain.trained import TrainedRun
from gentrain.training_cost import training_cost

SECTIONS = ()  # of this config: none, they are the run's
TIMED, REPEATS = 64, 3  # pictures whose drawing is timed, and how often, unless that takes long
LONG_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """configs/task/evaluate.yaml."""

    split: Literal["test", "valid"]
    batch_size: Annotated[int, AtLeast(1)]
    iwae_samples: Annotated[int, AtLeast(1)] | None
    samples: Annotated[int, AtLeast(1)] | None
    extractor: Literal["domain", "inception"]
    seed: Annotated[int, AtLeast(0)]


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/evaluation.json and <run>/evaluate/nearest.png, and prints tables."""
    trained, settings, console = open_run(config), Settings(**config["evaluate"]), Console()
    with preparing(console) as progress:
        packed = open_data_of(trained, config, progress)
    # Before anything takes long: what cannot be done is said at once.
    extractor = count = None
    if settings.samples is not None:
        extractor = make_extractor(settings.extractor, trained.place.device)
        count = how_many(settings.samples, packed, settings.split, extractor.dims)
        if count <= extractor.dims:
            say(
                console,
                f"quality and memorisation are left out: a split has only {count} pictures, and figures "
                f"in features of {extractor.dims} numbers need more than that",
            )
            count = None
    view = view_of(trained.config["data"])
    images = Images(packed.split(settings.split), view, trained.place.device)
    with preparing(console, "evaluating") as progress, trained.place.autocasting():
        entropy_bits = packed.facts.get("entropy_bits")
        figures = likelihood(
            trained, images, settings.batch_size, settings.seed, settings.iwae_samples, entropy_bits, progress
        )
    judgement = None
    if extractor is not None and count is not None:
        judgement = _judged(trained, packed, extractor, count, settings, console)
        figures |= judgement.figures
    figures[f"seconds_for_{TIMED}_samples"] = _timed(trained)
    protocol = {
        "run": str(trained.path),
        "step": trained.step,
        "weights": "averaged weights" if trained.averaged else "last weights",
        "split": settings.split,
        "images": len(images),
        "levels": view.levels,
        "pictures": view.in_words,
        "seed": settings.seed,
        "data_fingerprint": packed.fingerprint,
    }
    cost = _cost(trained)
    content = {"protocol": protocol, "figures": {name: _as_json(figure) for name, figure in figures.items()}}
    content["cost"] = cost
    if judgement is not None:
        content["nearest_train_rmse"] = {"quantiles": QUANTILES, **judgement.nearest_rmse}
        directory = trained.path / "evaluate"
        directory.mkdir(exist_ok=True)
        write_atomically(directory / "nearest.png", judgement.picture)
    file = trained.path / "evaluation.json"
    write_json(file, content)
    _print(console, protocol, figures, judgement, cost)
    say(console, f"written to {file}" + (" and evaluate/nearest.png" if judgement is not None else ""))


def _judged(
    trained: TrainedRun,
    packed: Packed,
    extractor: Extractor,
    count: int,
    settings: Settings,
    console: Console,
) -> Judgement:
    with preparing(console, "drawing samples") as progress:
        sets = draw_sets(trained, packed, settings.split, count, settings.seed, progress)
    with preparing(console, "looking for neighbours") as progress:
        return judge(sets, extractor, trained.shape.levels, progress)


def _timed(trained: TrainedRun) -> Figure:
    """After a first picture, which may have to set up what later ones find."""
    trained.sample(1)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LONG_SECONDS:
        begun = time.perf_counter()
        trained.sample(TIMED)
        seconds.append(time.perf_counter() - begun)
    meaning = f"time to draw {TIMED} samples at once"
    return Figure(statistics.median(seconds), math.nan, "s", meaning, {"device": trained.place.describe()})


def _cost(trained: TrainedRun) -> dict[str, float]:
    """Parameters, and what training took where it ran, if the record of that is there."""
    made: dict[str, float] = {"parameters": sum(p.numel() for p in trained.model.parameters())}
    lines = read_metrics(trained.path / "metrics.jsonl", trained.step)
    cost = training_cost(lines, trained.config["train"]["batch_size"])
    return made if cost is None else made | asdict(cost)


def _as_json(figure: Figure) -> dict[str, Any]:
    """Without what it has not: a standard error, a protocol of its own, a floor."""
    made = asdict(figure)
    if math.isnan(figure.standard_error):
        del made["standard_error"]
    return {key: value for key, value in made.items() if value != {}}


def _print(
    console: Console,
    protocol: Mapping[str, Any],
    figures: Mapping[str, Figure],
    judgement: Judgement | None,
    cost: Mapping[str, float],
) -> None:
    title = (
        f"step {protocol['step']}, {protocol['weights']}; {protocol['images']} images of the "
        f"{protocol['split']} split at {protocol['pictures']}, seed {protocol['seed']}"
    )
    plain = {name: figure for name, figure in figures.items() if not figure.floor}
    console.print(_table(title, plain, []))
    if judgement is not None:
        floored = {name: figure for name, figure in figures.items() if figure.floor}
        floors = list(dict.fromkeys(name for figure in floored.values() for name in figure.floor))
        console.print(_table("samples, and beside them real pictures in their place", floored, floors))
        ranks = Table(title="root mean square difference to the nearest training picture: quantiles")
        ranks.add_column("of")
        for at in QUANTILES:
            ranks.add_column(f"{at:.0%}", justify="right")
        for name, values in judgement.nearest_rmse.items():
            ranks.add_row(name.replace("_", " "), *(f"{value:.3g}" for value in values))
        console.print(ranks)
    trained_for = ""
    if "seconds" in cost:
        rate = cost["images_per_second"]
        trained_for = f", trained for {duration(cost['seconds'])} at {rate:,.0f} images/s"
    say(console, f"{cost['parameters']:,} parameters{trained_for}")


def _table(title: str, figures: Mapping[str, Figure], floors: list[str]) -> Table:
    """A figure a row; `floors` are columns of real pictures. What all protocols agree on stands below."""
    protocols = [figure.protocol for figure in figures.values()]
    said = {key: {protocol[key] for protocol in protocols if key in protocol} for key in chain(*protocols)}
    common = {key: value for key, values in said.items() for value in values if len(values) == 1}
    table = Table(title=title, caption=escape("; ".join(words(common))) or None, caption_justify="left")
    for heading in ("figure", "value" if floors else "mean", "standard error", *floors, "unit", "meaning"):
        table.add_column(heading.replace("_", " "), no_wrap=heading != "meaning")
    for name, figure in figures.items():
        error = "" if math.isnan(figure.standard_error) else f"{figure.standard_error:.2g}"
        beside = [f"{figure.floor[floor]:.4g}" if floor in figure.floor else "" for floor in floors]
        own = {key: value for key, value in figure.protocol.items() if key not in common}
        meaning = "; ".join([figure.meaning, *words(own)])
        row = (name, f"{figure.mean:.5g}", error, *beside, figure.unit, meaning)
        table.add_row(*map(escape, row))  # a name's brackets are no markup
    return table
