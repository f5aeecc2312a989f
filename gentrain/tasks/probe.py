"""task=probe: what a learned encoder is worth with few labels.

Legend: N pictures, K classes, F features, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gentrain.build import make_network
from gentrain.chart import Curve, chart
from gentrain.data import view_of
from gentrain.data.images import Images
from gentrain.data.packed import Label, Packed
from gentrain.errors import UserError
from gentrain.files import write_atomically
from gentrain.images import to_unit
from gentrain.models import Featured
from gentrain.probing import (
    L2_STRENGTHS,
    Classifier,
    Linear,
    Scaling,
    choose_l2,
    draw_labels,
    epochs,
    fit_linear,
)
from gentrain.progress import preparing, say
from gentrain.ranges import Above, AtLeast, Between
from gentrain.rundir import write_json
from gentrain.seeding import generator, seed_everything
from gentrain.sheets import png
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.trained import TrainedRun

SECTIONS = ()  # of this config: none, they are the run's
SCALED_BY = 2000  # training pictures that features are scaled by, without their labels
FEATURES_AT_ONCE = 256  # pictures
FROZEN, TUNED, RANDOM, PIXELS = (
    "frozen encoder",
    "fine-tuned encoder",
    "same network, random weights",
    "raw pixels",
)
Features = Callable[[Tensor], Tensor]  # uint8 levels (B, C, H, W) -> float (B, F)


@dataclass(frozen=True)
class Settings:
    """configs/task/probe.yaml."""

    label: str | None
    labels_per_class: list[Annotated[int, AtLeast(1)]]
    draws: Annotated[int, Between(1, 100)]
    split: Literal["test", "valid"]
    steps: Annotated[int, AtLeast(1)]
    batch_size: Annotated[int, AtLeast(1)]
    lr: Annotated[float, Above(0)]
    seed: Annotated[int, AtLeast(0)]


@dataclass(frozen=True)
class Problem:
    """Pictures and one label of each; what the accuracy is measured on is looked at for nothing else."""

    train: Images
    train_labels_N: np.ndarray
    held_out: Images
    held_out_labels_N: Tensor
    classes: int
    place: Any  # of device.py


@dataclass(frozen=True)
class Score:
    accuracy: float
    l2: float


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
        packed = open_data_of(trained, config, progress)
    column, label = choose_label(packed, settings.label)
    problem = make_problem(trained, packed, column, settings)
    with preparing(console, "probing") as progress:
        scores = probe(trained, problem, settings, progress)
    directory = trained.path / "probe"
    directory.mkdir(exist_ok=True)
    content = {"protocol": protocol(trained, problem, label, settings), "arms": as_json(scores)}
    write_json(directory / "probe.json", content)
    title = f"label {label.name}, {problem.classes} classes, {settings.split} split"
    picture = chart(curves(scores), title, "labels per class", "accuracy", 1 / problem.classes)
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
    if counts_K[fewest] < most:
        raise UserError(
            f"probe.labels_per_class={most} is too many: {label.name}={label.choices[fewest]} has "
            f"{counts_K[fewest]} training pictures"
        )
    view = view_of(trained.config["data"])
    train, held_out = (
        Images(packed.split(name), view, trained.place.device) for name in ("train", settings.split)
    )
    held_out_labels_N = torch.from_numpy(labels[settings.split])
    return Problem(train, labels["train"], held_out, held_out_labels_N, len(label.choices), trained.place)


# ---- the arms


def probe(
    trained: TrainedRun, problem: Problem, settings: Settings, progress: Callable[[int, int], None]
) -> dict[str, dict[int, list[Score]]]:
    """Scores by arm and by labels per class, one a draw of labels."""
    levels = trained.shape.levels
    frozen = Cached(cast(Featured, trained.model).features, problem)
    pixels = Cached(lambda x: to_unit(x, levels).flatten(1), problem)
    numbers = sorted(set(settings.labels_per_class))
    scores: dict[str, dict[int, list[Score]]] = {arm: {} for arm in (FROZEN, TUNED, RANDOM, PIXELS)}
    for draw in range(settings.draws):
        noise = generator(settings.seed, "probe labels", draw)
        chosen_KM = draw_labels(problem.train_labels_N, problem.classes, numbers[-1], noise)
        fresh = fresh_network(trained, settings.seed, draw)
        random = Cached(cast(Featured, fresh).features, problem)
        for number, per_class in enumerate(numbers):
            labelled_KM = chosen_KM[:, :per_class]
            linear = frozen.fit(labelled_KM)
            add(scores, FROZEN, per_class, Score(frozen.accuracy(linear), linear.l2))
            add(scores, TUNED, per_class, tune(trained.model, frozen, labelled_KM, settings, draw))
            add(scores, RANDOM, per_class, tune(fresh, random, labelled_KM, settings, draw))
            linear = pixels.fit(labelled_KM)
            add(scores, PIXELS, per_class, Score(pixels.accuracy(linear), linear.l2))
            progress(draw * len(numbers) + number + 1, settings.draws * len(numbers))
    return scores


def add(scores: dict[str, dict[int, list[Score]]], arm: str, per_class: int, score: Score) -> None:
    scores[arm].setdefault(per_class, []).append(score)


class Cached:
    """Features that do not change, and linear layers on them."""

    def __init__(self, features: Features, problem: Problem) -> None:
        self.features, self.problem = features, problem
        some = torch.arange(min(SCALED_BY, len(problem.train)))
        self.scaling = Scaling.of(self._of(problem.train, some))
        self._held_out_NF: Tensor | None = None

    @torch.no_grad()
    def _of(self, images: Images, indices: Tensor) -> Tensor:
        """Float32 (N, F) on the CPU."""
        parts = []
        with self.problem.place.autocasting():
            for part in indices.split(FEATURES_AT_ONCE):
                parts.append(self.features(images.take(part)).float().cpu())
        return torch.cat(parts)

    def fit(self, chosen_KM: Tensor) -> Linear:
        x_NF, y_N = self.scaling(self._of(self.problem.train, chosen_KM.flatten())), labels_of(chosen_KM)
        classes, per_class = chosen_KM.shape
        return fit_linear(x_NF, y_N, classes, choose_l2(x_NF, y_N, classes, per_class))

    def accuracy(self, linear: Linear) -> float:
        if self._held_out_NF is None:
            self._held_out_NF = self._of(self.problem.held_out, torch.arange(len(self.problem.held_out)))
        hits = linear.logits(self.scaling(self._held_out_NF)).argmax(1) == self.problem.held_out_labels_N
        return hits.double().mean().item()


def labels_of(chosen_KM: Tensor) -> Tensor:
    """The classes of `chosen_KM.flatten()`."""
    return torch.arange(len(chosen_KM)).repeat_interleave(chosen_KM.shape[1])


def fresh_network(trained: TrainedRun, seed: int, draw: int) -> nn.Module:
    """The run's network as it would be before training."""
    with torch.random.fork_rng():
        seed_everything(seed, "probe weights", draw)
        network = make_network(trained.config)
    return network.to(trained.place.device).to(memory_format=trained.place.memory_format).eval()


def tune(network: nn.Module, cached: Cached, chosen_KM: Tensor, settings: Settings, draw: int) -> Score:
    """A copy of the network, trained as a whole after its linear layer was fitted alone.

    Adam with a cosine to 0, no dropout, the same steps whatever the number of labels.
    """
    linear, problem = cached.fit(chosen_KM), cached.problem
    copy = deepcopy(network).requires_grad_(True)
    place = problem.place
    classifier = Classifier(cast(Featured, copy).features, cached.scaling, linear).to(place.device)
    optimizer = torch.optim.Adam([*copy.parameters(), *classifier.head.parameters()], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    indices_N, y_N = chosen_KM.flatten(), labels_of(chosen_KM).to(place.device)
    noise = generator(settings.seed, "probe batches", draw)
    for batch in epochs(len(indices_N), settings.batch_size, settings.steps, noise):
        optimizer.zero_grad()
        with place.autocasting():
            logits_BK = classifier(problem.train.take(indices_N[batch]))
        cross_entropy(logits_BK.float(), y_N[batch.to(place.device)]).backward()
        optimizer.step()
        schedule.step()
    return Score(accuracy_of(classifier, problem), linear.l2)


@torch.no_grad()
def accuracy_of(classifier: Classifier, problem: Problem) -> float:
    hits = 0
    for indices in problem.held_out.chunks(FEATURES_AT_ONCE):
        with problem.place.autocasting():
            guesses = classifier(problem.held_out.take(indices)).argmax(1).cpu()
        hits += int((guesses == problem.held_out_labels_N[indices]).sum())
    return hits / len(problem.held_out)


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


def as_json(scores: dict[str, dict[int, list[Score]]]) -> dict[str, Any]:
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


def curves(scores: dict[str, dict[int, list[Score]]]) -> dict[str, Curve]:
    return {
        arm: Curve(
            list(by_number), list(map(mean_of, by_number.values())),
            [spread_of(found) or 0.0 for found in by_number.values()],
        )
        for arm, by_number in scores.items()
    }  # fmt: skip


def table(scores: dict[str, dict[int, list[Score]]], title: str, settings: Settings) -> Table:
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
