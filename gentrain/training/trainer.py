"""The training loop. It owns the cadence and knows no family.

What is done between two steps (evaluate, draw samples) is recorded in the checkpoint as `pending` if a signal
stopped it, and is made up for on resume; so an interrupted run logs the same figures as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gentrain.config.settings import Train
from gentrain.data.batches import Batches
from gentrain.data.dataset import ImageSplit
from gentrain.errors import RunFailed
from gentrain.images import to_picture
from gentrain.metrics.evaluate import evaluate_split, means
from gentrain.metrics.validation import TAG, ValidationDistance
from gentrain.runs import checkpoint
from gentrain.runs.checkpoint import Checkpoint
from gentrain.runs.rundir import RunDir
from gentrain.runs.tracking import NoTracker, Tracker
from gentrain.runtime import collectives, distributed
from gentrain.runtime.console import Display
from gentrain.runtime.ranks import is_main
from gentrain.runtime.seeding import generator, image_streams, seed_step
from gentrain.runtime.signals import StopRequest
from gentrain.training.data_dependent import refit_buffers
from gentrain.training.learner import Learner, Metrics
from gentrain.training.rollback import Alarm, lr_scale, noise_of_step, respond

RECONSTRUCTIONS = 32
INTERPOLATIONS = 8  # from one picture to another, in as many steps


@dataclass
class State:
    """Where a run stands, beside the learner's parts."""

    step: int = 0
    best: dict[str, Any] | None = None
    pending: list[str] = field(default_factory=list)
    rollbacks: int = 0  # how often the run has gone back after an alarm
    refitted_at: int | None = None  # the step up to which `refit_buffers` has seen the weights
    pruned: bool = False  # the judge has ended the run early


# Given the step and the figures of an evaluation in mid-training: True ends the run there.
Judge = Callable[[int, Mapping[str, float]], bool]


@dataclass(frozen=True)
class Fit:
    """All that `fit` works with."""

    learner: Learner
    batches: Batches
    valid: ImageSplit
    settings: Train
    seed: int
    run: RunDir
    config_text: str
    data_fingerprint: str
    tracker: Tracker | NoTracker
    display: Display
    stop: StopRequest
    distance: ValidationDistance | None = None  # None: not asked for, or too few pictures
    judge: Judge | None = None


def fit(this: Fit, state: State) -> State:
    """Train from `state` to max_steps, or to the end of the step in which a stop is requested or judged."""
    settings, clock = this.settings, _Clock()
    this.learner.lr_scale = lr_scale(state)
    if state.pending:
        state.pending = _duties(this, state, state.pending)
        save(this, state)
    while state.step < settings.max_steps and not state.pending and not state.pruned:
        seed_step(this.seed, *noise_of_step(state))
        clock.start()
        metrics = this.learner.train_step(this.batches.at(state.step), state.step)
        state.step += 1
        logs, checks, saves = _due(settings, state.step)
        this.stop.agree_after_step()
        look = logs or saves or bool(checks) or this.stop.requested
        look = look or this.batches.images.device.type == "cpu"
        alarm = _trouble(this, state.step, metrics, look)
        clock.stop(settings.batch_size)
        if logs or checks or saves or alarm is not None or this.stop.requested:
            this.run.check()
        if alarm is not None and logs:
            _log(this, state.step, metrics, clock)  # before it stops; going back cuts it off again
            logs = False
        if alarm is not None and respond(this, state, alarm):
            state.pending = _duties(this, state, state.pending)  # that the checkpoint has not done yet
            save(this, state)  # that it went back
            continue
        this.display.advance(state.step)
        if logs:
            _log(this, state.step, metrics, clock)
        if checks:
            state.pending = _duties(this, state, checks)
        stopping = this.stop.requested  # asked once: what is decided upon it must agree
        if stopping and not look:
            alarm = _trouble(this, state.step, metrics, look=True)
            if alarm is not None and alarm.fatal:
                raise RunFailed(alarm.sentence)
        if saves or stopping or state.pruned:
            save(this, state)
        if stopping:
            break
    return state


def _due(settings: Train, step: int) -> tuple[bool, list[str], bool]:
    """Whether to log, what to do between the steps, and whether to save, after `step` steps."""
    last = step == settings.max_steps

    def due(every: int | None) -> bool:
        return last or (every is not None and step % every == 0)

    duties = {"evaluate": settings.eval_every_steps, "sample": settings.sample_every_steps}
    return (
        due(settings.log_every_steps),
        [name for name, every in duties.items() if due(every)],
        due(settings.save_every_steps),
    )


def _duties(this: Fit, state: State, names: list[str]) -> list[str]:
    """Do each in turn; returns those that a requested stop left undone."""
    actions: dict[str, Callable[[Fit, State], bool]] = {"evaluate": _evaluate, "sample": _sample}
    left = list(names)
    for name in names:
        this.display.doing(name)
        if not actions[name](this, state):
            break
        left.remove(name)
    this.display.doing("")
    return left


def _evaluate(this: Fit, state: State) -> bool:
    """Log the means over the validation split, if any, and keep the best checkpoint. False if stopped."""
    if len(this.valid) == 0:
        return True
    figures = evaluate_split(
        this.learner.eval_step, this.valid, this.settings.batch_size, this.seed, this.stop.agree
    )
    if figures is None:
        return False
    values = {f"valid/{name}": value for name, value in means(figures).items()}
    if this.distance is not None:
        _settle(this, state)
        found = this.distance.of(
            partial(distributed.sample, this.learner.sample),
            this.settings.batch_size,
            this.seed,
            this.stop.agree,
        )
        if found is None:
            return False
        values[TAG] = found
    values = collectives.broadcast_from_main(
        partial(dict, values)
    )  # all have the same, so that they decide alike
    this.run.check()  # once more: what took long may have seen the directory go
    this.tracker.scalars(state.step, values)
    this.display.figures(state.step, values)
    _keep_best(this, state, values)
    if this.judge is not None:
        state.pruned = this.judge(state.step, values) and state.step < this.settings.max_steps
    return True


def _keep_best(this: Fit, state: State, values: Mapping[str, float]) -> None:
    name = f"valid/{this.learner.headline()}"
    if name not in values:
        return
    if not math.isfinite(values[name]):
        raise RunFailed(f"{name} is {values[name]} at step {state.step}; {_last_good(this.run)}")
    best = {"metric": name, "value": values[name], "step": state.step}
    if name == TAG and this.distance is not None:
        best["measured"] = this.distance.measured
    comparable = state.best is not None and state.best.get("measured") == best.get("measured")
    if state.best is None or not comparable or best["value"] < state.best["value"]:
        state.best = best
        save(this, state, "best.pt")


def _sample(this: Fit, state: State) -> bool:
    """A grid of samples from the same noise all through training, reconstructions, interpolations at the end.

    False if stopped.
    """
    _settle(this, state)
    count, batch_size = this.settings.sample_count, this.settings.batch_size
    noise = image_streams(count, this.seed, "sample")
    drawn: list[Tensor] = []
    for start in range(0, count, batch_size):
        if this.stop.agree():
            return False
        part = noise[start : start + batch_size]
        drawn.append(distributed.sample(this.learner.sample, len(part), part))
    if not is_main():
        return True
    levels = this.valid.view.levels
    this.run.check()
    this.tracker.pictures(state.step, "samples", to_picture(torch.cat(drawn), levels))
    originals = this.valid.first(RECONSTRUCTIONS)
    rebuilt = this.learner.reconstruct(originals) if len(originals) else None
    if rebuilt is not None:
        pairs = torch.stack([originals, rebuilt.to(originals.device)], 1).flatten(0, 1)
        this.tracker.pictures(state.step, "reconstructions", to_picture(pairs, levels))
    if state.step == this.settings.max_steps:
        between = this.learner.interpolate(
            INTERPOLATIONS, INTERPOLATIONS, generator(this.seed, "interpolate")
        )
        if between is not None:
            this.tracker.pictures(state.step, "interpolation", to_picture(between, levels))
    return True


def _settle(this: Fit, state: State) -> None:
    """Before the network is sampled or saved: once a step, and only for families that ask for it."""
    if state.refitted_at != state.step:
        for network in this.learner.networks():
            refit_buffers(network, this.batches.images, this.seed)
        state.refitted_at = state.step


def save(this: Fit, state: State, name: str | None = None) -> None:
    """Write a checkpoint of this step, or of this step under another name, and drop old ones."""
    _settle(this, state)
    if is_main():
        _write(this, state, name)
    collectives.barrier()  # no process ends before it is written


def _write(this: Fit, state: State, name: str | None) -> None:
    this.run.check()
    this.tracker.flush()
    parts = {key: part.state_dict() for key, part in this.learner.parts.items()}
    content = Checkpoint(
        state.step,
        this.config_text,
        parts,
        state.best,
        list(state.pending),
        this.data_fingerprint,
        state.rollbacks,
    )
    checkpoint.save(this.run.checkpoints / (name or checkpoint.file_name(state.step)), content)
    monitor = this.learner.monitor
    keep_from = (
        monitor.last_good_step if monitor is not None and this.settings.on_alarm == "rollback" else None
    )
    checkpoint.prune(this.run.checkpoints, this.settings.keep_last, keep_from)


def _log(this: Fit, step: int, metrics: Metrics, clock: _Clock) -> None:
    values = {f"train/{name}": float(value) for name, value in metrics.items()}
    values["perf/images_per_second"] = clock.images_per_second()
    this.tracker.scalars(step, values)
    this.display.figures(step, values)


def _trouble(this: Fit, step: int, metrics: Metrics, look: bool) -> Alarm | None:
    """What is wrong after a step: a loss or gradient that is not finite, or what the learner's watch says.

    `look`: whether to ask for the step's figures, which a GPU has to be waited for.
    """
    monitor = this.learner.monitor
    # Figures were finite whenever a checkpoint was written; a watch may know of more that was not well.
    last_good_step = step - 1 if monitor is None or monitor.healthy else monitor.last_good_step
    if look:
        loss, grad_norm, lr = (float(metrics[name]) for name in ("loss", "grad_norm", "lr"))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            sentence = (
                f"training diverged at step {step}: loss {loss}, gradient norm {grad_norm}, "
                f"learning rate {lr:g}; try a lower optimizer.lr, more "
                "optimizer.warmup_steps or a smaller train.grad_clip"
            )
            return Alarm(sentence, True, last_good_step)
    if monitor is not None and monitor.raised is not None:
        return Alarm(f"at step {step} {monitor.raised}", False, last_good_step)
    return None


def _last_good(run: RunDir) -> str:
    good = checkpoint.newest_first(run.checkpoints)
    return f"the last good checkpoint is {good[0]}" if good else "nothing was saved yet"


class _Clock:
    """Images per second of training alone, since it was last asked."""

    def __init__(self) -> None:
        self._seconds, self._images, self._begun = 0.0, 0, 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()

    def stop(self, images: int) -> None:
        self._seconds += time.perf_counter() - self._begun
        self._images += images

    def images_per_second(self) -> float:
        rate = self._images / self._seconds if self._seconds else 0.0
        self._seconds, self._images = 0.0, 0
        return rate
