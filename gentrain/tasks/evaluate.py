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

from gentrain.comparison.figures import describe_protocol
from gentrain.comparison.text import duration
from gentrain.config.ranges import AtLeast, Between
from gentrain.data.build import Packed, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.fingerprints import pictures_of
from gentrain.errors import UserError
from gentrain.metrics.extractors import EXTRACTORS, Extractor, make_extractor
from gentrain.metrics.figure import Figure
from gentrain.metrics.likelihood import likelihood
from gentrain.metrics.sample_report import QUANTILES, SampleReport, draw_sets, evaluate_samples, how_many
from gentrain.models.interface import SaysHowItSamples
from gentrain.runs.records import METRICS, read_metrics
from gentrain.runs.rundir import write_json
from gentrain.runs.trained import TrainedRun
from gentrain.runs.training_cost import training_cost
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, remove_half_written, write_atomically
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run

SECTIONS = ()  # of this config: none, they are the run's
TIMED, REPEATS = 64, 3  # pictures whose drawing is timed, and how often, unless that takes long
LONG_SECONDS = 2.0
WIDE = 150  # columns of a terminal in which a table has room for what its figures mean


@dataclass(frozen=True)
class Settings:
    """configs/task/evaluate.yaml."""

    split: Literal["test", "valid"]
    batch_size: Annotated[int, Between(1, 1_000_000)]
    iwae_samples: Annotated[int, Between(1, 1_000_000)] | None
    samples: Annotated[int, AtLeast(1)] | None
    extractor: Literal["domain", "inception"]
    seed: Annotated[int, AtLeast(0)]


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)
    settings = Settings(**config["evaluate"])
    dims = EXTRACTORS[settings.extractor].dims
    if settings.samples is not None and settings.samples <= dims:
        raise UserError(
            f"evaluate.samples={settings.samples} is too few: features of {dims} numbers need more samples "
            "than that; null leaves them out"
        )


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/evaluation.json and <run>/evaluate/nearest.png, and prints tables."""
    trained, settings, console = open_run(config), Settings(**config["evaluate"]), Console()
    with preparing(console) as progress:
        packed = open_data_of(trained, config, settings.split, progress)
    # Before anything takes long: what cannot be done is said at once.
    count = _count(settings, packed, console)
    extractor = None if count is None else make_extractor(settings.extractor, trained.compute.device)
    images = ImageSplit(
        packed.split(settings.split), preprocessing_of(trained.config["data"]), trained.compute.device
    )
    with preparing(console, "evaluating") as progress, trained.compute.autocasting():
        entropy_bits = packed.facts.get("entropy_bits")
        figures = likelihood(
            trained, images, settings.batch_size, settings.seed, settings.iwae_samples, entropy_bits, progress
        )
    judgement = None
    if extractor is not None and count is not None:
        judgement = _judged(trained, packed, extractor, count, settings, console)
        figures |= judgement.figures
    figures[f"seconds_for_{TIMED}_samples"] = _timed(trained)
    protocol, cost = _protocol(trained, packed, settings, config["device"]["precision"]), _cost(trained)
    _print(console, protocol, figures, judgement, cost)  # first: a disk may be full
    _write(trained, protocol, figures, judgement, cost)
    also = " and evaluate/nearest.png" if judgement is not None else ""
    say(console, f"written to {trained.path / 'evaluation.json'}{also}")


def _protocol(trained: TrainedRun, packed: Packed, settings: Settings, precision: str) -> dict[str, Any]:
    """What all figures of the evaluation have in common."""
    view, model = preprocessing_of(trained.config["data"]), trained.model
    protocol: dict[str, Any] = {
        "run": str(trained.path),
        "step": trained.step,
        "weights": "averaged weights" if trained.averaged else "last weights",
        "split": settings.split,
        "images": packed.counts[settings.split],
        "levels": view.levels,
        "pictures": view.description,
        "seed": settings.seed,
        "data_fingerprint": pictures_of(packed.fingerprint),
    }
    if isinstance(model, SaysHowItSamples):
        protocol["samples_are"] = model.samples_in_words()
    if precision not in ("auto", "float32"):  # auto is float32 here
        protocol["precision"] = precision
    return protocol


def _count(settings: Settings, packed: Packed, console: Console) -> int | None:
    """How many samples are judged; None for none, which is said if there are too few pictures for any."""
    if settings.samples is None:
        return None
    count, dims = how_many(settings.samples, packed, settings.split), EXTRACTORS[settings.extractor].dims
    if count > dims:
        return count
    say(
        console,
        f"quality and memorisation are left out: a split has only {count} pictures, and figures "
        f"in features of {dims} numbers need more than that",
    )
    return None


def _write(
    trained: TrainedRun,
    protocol: Mapping[str, Any],
    figures: Mapping[str, Figure],
    judgement: SampleReport | None,
    cost: Mapping[str, float],
) -> None:
    shown = {name: _as_json(figure) for name, figure in figures.items()}
    content: dict[str, Any] = {"protocol": protocol, "figures": shown, "cost": cost}
    if judgement is not None:
        content["nearest_train_rmse"] = {"quantiles": QUANTILES, **judgement.nearest_rmse}
    with alone_in(trained.path / "evaluate") as directory:
        if judgement is None:  # an earlier evaluation's picture is perhaps of other weights
            (directory / "nearest.png").unlink(missing_ok=True)
        else:
            write_atomically(directory / "nearest.png", judgement.picture)
        remove_half_written(trained.path, "evaluation.json*")
        write_json(trained.path / "evaluation.json", content)


def _judged(
    trained: TrainedRun,
    packed: Packed,
    extractor: Extractor,
    count: int,
    settings: Settings,
    console: Console,
) -> SampleReport:
    with preparing(console, "drawing samples") as progress:
        sets = draw_sets(trained, packed, settings.split, count, settings.seed, progress)
    with preparing(console, "looking for neighbours") as progress:
        return evaluate_samples(sets, extractor, trained.shape.levels, progress)


def _timed(trained: TrainedRun) -> Figure:
    """After a first picture, which may have to set up what later ones find."""
    trained.sample(1)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LONG_SECONDS:
        begun = time.perf_counter()
        trained.sample(TIMED)
        seconds.append(time.perf_counter() - begun)
    meaning = f"time to draw {TIMED} samples at once"
    return Figure(statistics.median(seconds), math.nan, "s", meaning, {"device": trained.compute.describe()})


def _cost(trained: TrainedRun) -> dict[str, float]:
    """Parameters, and what training took where it ran, if the record of that is there."""
    made: dict[str, float] = {"parameters": sum(p.numel() for p in trained.model.parameters())}
    lines = read_metrics(trained.path / METRICS, trained.step)
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
    judgement: SampleReport | None,
    cost: Mapping[str, float],
) -> None:
    title = (
        f"step {protocol['step']}, {protocol['weights']}; {protocol['images']} images of the "
        f"{protocol['split']} split at {protocol['pictures']}, seed {protocol['seed']}"
    )
    judged = judgement.figures if judgement is not None else {}
    _show(console, title, {name: figure for name, figure in figures.items() if name not in judged}, [])
    if judgement is not None:
        floors = list(dict.fromkeys(name for figure in judged.values() for name in figure.floor))
        how = f" ({protocol['samples_are']})" if "samples_are" in protocol else ""
        _show(console, escape(f"samples{how}, and beside them real pictures in their place"), judged, floors)
        ranks = Table(title="root mean square difference to the nearest training picture: quantiles")
        ranks.add_column("of", overflow="fold")
        for at in QUANTILES:
            ranks.add_column(f"{at:.0%}", justify="right", no_wrap=True)
        for name, values in judgement.nearest_rmse.items():
            ranks.add_row(name.replace("_", " "), *(f"{value:.3g}" for value in values))
        console.print(ranks)
    trained_for = ""
    if "seconds" in cost:
        rate = cost["images_per_second"]
        trained_for = f", trained for {duration(cost['seconds'])} at {rate:,.0f} images/s"
    say(console, f"{cost['parameters']:,} parameters{trained_for}")


def _show(console: Console, title: str, figures: Mapping[str, Figure], floors: list[str]) -> None:
    """A figure a row; `floors` are columns of real pictures. What all protocols agree on stands below, and in
    a narrow terminal also what each figure means: else figures would be cut off.
    """
    protocols = [figure.protocol for figure in figures.values()]
    said = {key: {protocol[key] for protocol in protocols if key in protocol} for key in chain(*protocols)}
    common = {key: value for key, values in said.items() for value in values if len(values) == 1}
    wide, below = console.width >= WIDE, []
    table = Table(
        title=title, caption=escape("; ".join(describe_protocol(common))) or None, caption_justify="left"
    )
    table.add_column("figure", overflow="fold")
    for heading in ("value" if floors else "mean", "standard error", *floors):
        table.add_column(heading.replace("_", " ").replace(" ", " " if wide else "\n"), no_wrap=True)
    if wide:
        table.add_column("unit", no_wrap=True)
        table.add_column("meaning")
    for name, figure in figures.items():
        error = "" if math.isnan(figure.standard_error) else f"{figure.standard_error:.2g}"
        beside = [f"{figure.floor[floor]:.4g}" if floor in figure.floor else "" for floor in floors]
        own = {key: value for key, value in figure.protocol.items() if key not in common}
        meaning = "; ".join(filter(None, [figure.meaning, *describe_protocol(own)]))
        row = (name, f"{figure.mean:.5g}", error, *beside, *((figure.unit, meaning) if wide else ()))
        table.add_row(*map(escape, row))  # a name's brackets are no markup
        if figure.unit or meaning:
            below.append(f"{name}: {'; '.join(filter(None, [figure.unit, meaning]))}")
    console.print(table)
    if not wide:
        for line in below:
            say(console, line)
