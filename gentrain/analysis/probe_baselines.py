"""The four baselines of task=probe: what each makes of the same few labels.

Legend: N pictures, K classes, M labels of a class, F features, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from gentrain.analysis.linear_probe import (
    Classifier,
    Linear,
    Scaling,
    choose_l2,
    draw_labels,
    epochs,
    fit_linear,
)
from gentrain.data.dataset import ImageSplit
from gentrain.images import to_unit
from gentrain.models.build import make_network
from gentrain.models.interface import Featured
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.device import Compute
from gentrain.runtime.seeding import generator, seed_everything

FROZEN, TUNED, RANDOM, PIXELS = (
    "frozen encoder",
    "fine-tuned encoder",
    "same network, random weights",
    "raw pixels",
)
SCALED_BY = 2000  # training pictures that features are scaled by, without their labels
FEATURES_AT_ONCE = 256  # pictures
Features = Callable[[Tensor], Tensor]  # uint8 levels (B, C, H, W) -> float (B, F)


@dataclass(frozen=True)
class Tuning:
    """How a whole network is trained: by Adam, from `lr` down to 0."""

    steps: int
    batch_size: int
    lr: float


@dataclass(frozen=True)
class Problem:
    """Pictures and one label of each; what the accuracy is measured on is looked at for nothing else."""

    train: ImageSplit
    train_labels_N: np.ndarray
    held_out: ImageSplit
    held_out_labels_N: Tensor
    classes: int
    compute: Compute


@dataclass(frozen=True)
class Score:
    accuracy: float
    l2: float


Scores = dict[str, dict[int, list[Score]]]  # by baseline and by labels per class, one a draw


def probe(
    trained: TrainedRun,
    problem: Problem,
    labels_per_class: list[int],
    draws: int,
    tuning: Tuning,
    seed: int,
    progress: Callable[[int, int], None],
) -> Scores:
    """Scores by baseline and by labels per class, one a draw of labels."""
    levels = trained.shape.levels
    frozen = Cached(cast(Featured, trained.model).features, problem)
    pixels = Cached(lambda x: to_unit(x, levels).flatten(1), problem)
    numbers = sorted(set(labels_per_class))
    scores: Scores = {arm: {} for arm in (FROZEN, TUNED, RANDOM, PIXELS)}
    for draw in range(draws):
        noise = generator(seed, "probe labels", draw)
        chosen_KM = draw_labels(problem.train_labels_N, problem.classes, numbers[-1], noise)
        fresh = fresh_network(trained, seed, draw)
        random = Cached(cast(Featured, fresh).features, problem)
        for number, per_class in enumerate(numbers):
            labelled_KM = chosen_KM[:, :per_class]
            fitted = {cached: cached.fit(labelled_KM) for cached in (frozen, random, pixels)}
            found = {FROZEN: frozen.score(fitted[frozen]), PIXELS: pixels.score(fitted[pixels])}
            for arm, network, cached in ((TUNED, trained.model, frozen), (RANDOM, fresh, random)):
                noise = generator(seed, "probe batches", draw)
                found[arm] = tune(network, cached, fitted[cached], labelled_KM, tuning, noise)
            for arm, score in found.items():
                scores[arm].setdefault(per_class, []).append(score)
            progress(draw * len(numbers) + number + 1, draws * len(numbers))
    return scores


class Cached:
    """Features that do not change, and linear layers on them."""

    def __init__(self, features: Features, problem: Problem) -> None:
        self.features, self.problem = features, problem
        some = torch.arange(min(SCALED_BY, len(problem.train)))
        self.scaling = Scaling.of(self._of(problem.train, some))
        self._held_out_NF: Tensor | None = None

    @torch.no_grad()
    def _of(self, images: ImageSplit, indices: Tensor) -> Tensor:
        """Float32 (N, F) on the CPU."""
        parts = []
        with self.problem.compute.autocasting():
            for part in indices.split(FEATURES_AT_ONCE):
                parts.append(self.features(images.take(part)).float().cpu())
        return torch.cat(parts)

    def fit(self, chosen_KM: Tensor) -> Linear:
        x_NF, y_N = self.scaling(self._of(self.problem.train, chosen_KM.flatten())), labels_of(chosen_KM)
        classes, per_class = chosen_KM.shape
        return fit_linear(x_NF, y_N, classes, choose_l2(x_NF, y_N, classes, per_class))

    def score(self, linear: Linear) -> Score:
        if self._held_out_NF is None:
            self._held_out_NF = self._of(self.problem.held_out, torch.arange(len(self.problem.held_out)))
        # Part by part: scaled, they are float64.
        parts = self._held_out_NF.split(FEATURES_AT_ONCE)
        guessed_N = torch.cat([linear.logits(self.scaling(part)).argmax(1) for part in parts])
        hits = guessed_N == self.problem.held_out_labels_N
        return Score(hits.double().mean().item(), linear.l2)


def labels_of(chosen_KM: Tensor) -> Tensor:
    """The classes of `chosen_KM.flatten()`."""
    return torch.arange(len(chosen_KM)).repeat_interleave(chosen_KM.shape[1])


def fresh_network(trained: TrainedRun, seed: int, draw: int) -> nn.Module:
    """The run's network as it would be before training."""
    with torch.random.fork_rng():
        seed_everything(seed, "probe weights", draw)
        network = make_network(trained.config)
    return network.to(trained.compute.device).to(memory_format=trained.compute.memory_format).eval()


def tune(
    network: nn.Module,
    cached: Cached,
    linear: Linear,
    chosen_KM: Tensor,
    tuning: Tuning,
    noise: Generator,
) -> Score:
    """Of a copy of the network, trained as a whole from `linear`, the layer that was fitted alone.

    Adam with a cosine to 0, no dropout, the same steps whatever the number of labels.
    """
    problem, compute = cached.problem, cached.problem.compute
    copy = deepcopy(network).requires_grad_(True)
    classifier = Classifier(cast(Featured, copy).features, cached.scaling, linear).to(compute.device)
    optimizer = torch.optim.Adam([*copy.parameters(), *classifier.head.parameters()], lr=tuning.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, tuning.steps)
    indices_N, y_N = chosen_KM.flatten(), labels_of(chosen_KM).to(compute.device)
    for batch in epochs(len(indices_N), tuning.batch_size, tuning.steps, noise):
        optimizer.zero_grad()
        with compute.autocasting():
            logits_BK = classifier(problem.train.take(indices_N[batch]))
        cross_entropy(logits_BK.float(), y_N[batch.to(compute.device)]).backward()
        optimizer.step()
        schedule.step()
    return Score(accuracy_of(classifier, problem), linear.l2)


@torch.no_grad()
def accuracy_of(classifier: Classifier, problem: Problem) -> float:
    hits = 0
    for indices in problem.held_out.chunks(FEATURES_AT_ONCE):
        with problem.compute.autocasting():
            guesses = classifier(problem.held_out.take(indices)).argmax(1).cpu()
        hits += int((guesses == problem.held_out_labels_N[indices]).sum())
    return hits / len(problem.held_out)
