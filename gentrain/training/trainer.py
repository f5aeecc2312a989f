"""The trainer: the loop of training. It owns the cadence and knows no family.

What is done between two steps (evaluate, draw samples) is recorded in the checkpoint as `pending` if a signal
stopped it, and is made up for on resume; so an interrupted run logs the same figures as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

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
from gentrain.runs.step_names import newest_first
from gentrain.runs.stored import load_parts
from gentrain.runs.tracking import NoTracker, Tracker
from gentrain.runtime import collectives, distributed
from gentrain.runtime.console import Display
from gentrain.runtime.ranks import is_main
from gentrain.runtime.seeding import generator, image_streams, seed_step
from gentrain.runtime.signals import StopRequest
from gentrain.training.clock import Clock
from gentrain.training.data_dependent import refit_buffers
from gentrain.training.learner import Learner, Metrics
from gentrain.training.rollback import Alarm, asks_for_rollback, load_last_good
from gentrain.training.state import State

RECONSTRUCTIONS = 32
INTERPOLATIONS = 8  # from one picture to another, in as many steps


# Given the step and the figures of an evaluation in mid-training: True ends the run there.
ShouldPrune = Callable[[int, Mapping[str, float]], bool]


@dataclass
class Trainer:
    """Trains a learner, and looks at it periodically: evaluates, draws samples, saves, answers alarms."""

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
    state: State
    distance: ValidationDistance | None = None  # None: not asked for, or too few pictures
    should_prune: ShouldPrune | None = None

    def fit(self) -> None:
        """Train to max_steps, or to the end of the step in which a stop is requested or judged."""
        settings, state, clock = self.settings, self.state, Clock()
        self.learner.lr_scale = state.lr_scale
        if state.pending:
            state.pending = self._periodic_actions(state.pending)
            self.save()
        while state.step < settings.max_steps and not state.pending and not state.pruned:
            seed_step(self.seed, *state.seed_purpose)
            clock.start()
            metrics = self.learner.train_step(self.batches.at(state.step), state.step)
            state.step += 1
            logs, checks, saves = _due(settings, state.step)
            self.stop.agree_after_step()
            look = logs or saves or bool(checks) or self.stop.requested
            look = look or self.batches.images.device.type == "cpu"
            alarm = self._alarm(state.step, metrics, look)
            clock.stop(settings.batch_size)
            if logs or checks or saves or alarm is not None or self.stop.requested:
                self.run.check()
            if alarm is not None and logs:
                self._log(state.step, metrics, clock)  # before it stops; a rollback cuts it off again
                logs = False
            if alarm is not None and self._respond(alarm):
                # What the checkpoint has not done yet, and that it went back.
                state.pending = self._periodic_actions(state.pending)
                self.save()
                continue
            self.display.advance(state.step)
            if logs:
                self._log(state.step, metrics, clock)
            if checks:
                state.pending = self._periodic_actions(checks)
            stopping = self.stop.requested  # asked once: what is decided upon it must agree
            if stopping and not look:
                alarm = self._alarm(state.step, metrics, look=True)
                if alarm is not None and alarm.fatal:
                    raise RunFailed(alarm.sentence)
            if saves or stopping or state.pruned:
                self.save()
            if stopping:
                break

    def _periodic_actions(self, names: list[str]) -> list[str]:
        """Do each in turn; returns those that a requested stop left undone."""
        actions = {"evaluate": self._evaluate, "sample": self._sample}
        left = list(names)
        for name in names:
            self.display.doing(name)
            if not actions[name]():
                break
            left.remove(name)
        self.display.doing("")
        return left

    def _evaluate(self) -> bool:
        """Log means over the validation split, if any, and keep the best checkpoint. False if stopped."""
        if len(self.valid) == 0:
            return True
        figures = evaluate_split(
            self.learner.eval_step, self.valid, self.settings.batch_size, self.seed, self.stop.agree
        )
        if figures is None:
            return False
        values = {f"valid/{name}": value for name, value in means(figures).items()}
        if self.distance is not None:
            self._refit_buffers()
            found = self.distance.of(
                partial(distributed.sample, self.learner.sample),
                self.settings.batch_size,
                self.seed,
                self.stop.agree,
            )
            if found is None:
                return False
            values[TAG] = found
        # All have the same, so that they decide alike.
        values = collectives.broadcast_from_main(partial(dict, values))
        self.run.check()  # once more: what took long may have seen the directory go
        self.tracker.scalars(self.state.step, values)
        self.display.figures(self.state.step, values)
        self._keep_best(values)
        if self.should_prune is not None:
            unfinished = self.state.step < self.settings.max_steps
            self.state.pruned = self.should_prune(self.state.step, values) and unfinished
        return True

    def _keep_best(self, values: Mapping[str, float]) -> None:
        name = f"valid/{self.learner.headline()}"
        if name not in values:
            return
        if not math.isfinite(values[name]):
            raise RunFailed(f"{name} is {values[name]} at step {self.state.step}; {self._last_good()}")
        best = {"metric": name, "value": values[name], "step": self.state.step}
        if name == TAG and self.distance is not None:
            best["measured"] = self.distance.measured
        comparable = self.state.best is not None and self.state.best.get("measured") == best.get("measured")
        if self.state.best is None or not comparable or best["value"] < self.state.best["value"]:
            self.state.best = best
            self.save("best.pt")

    def _sample(self) -> bool:
        """Grids: samples from the same noise each time, reconstructions, at the end interpolations.

        False if stopped.
        """
        self._refit_buffers()
        count, batch_size = self.settings.sample_count, self.settings.batch_size
        noise = image_streams(count, self.seed, "sample")
        drawn: list[Tensor] = []
        for start in range(0, count, batch_size):
            if self.stop.agree():
                return False
            part = noise[start : start + batch_size]
            drawn.append(distributed.sample(self.learner.sample, len(part), part))
        if not is_main():
            return True
        levels = self.valid.view.levels
        self.run.check()
        self.tracker.pictures(self.state.step, "samples", to_picture(torch.cat(drawn), levels))
        originals = self.valid.first(RECONSTRUCTIONS)
        rebuilt = self.learner.reconstruct(originals) if len(originals) else None
        if rebuilt is not None:
            pairs = torch.stack([originals, rebuilt.to(originals.device)], 1).flatten(0, 1)
            self.tracker.pictures(self.state.step, "reconstructions", to_picture(pairs, levels))
        if self.state.step == self.settings.max_steps:
            between = self.learner.interpolate(
                INTERPOLATIONS, INTERPOLATIONS, generator(self.seed, "interpolate")
            )
            if between is not None:
                self.tracker.pictures(self.state.step, "interpolation", to_picture(between, levels))
        return True

    def _refit_buffers(self) -> None:
        """Before the network is sampled or saved: once a step, and only for families that ask for it."""
        if self.state.refitted_at != self.state.step:
            for network in self.learner.networks():
                refit_buffers(network, self.batches.images, self.seed)
            self.state.refitted_at = self.state.step

    def save(self, name: str | None = None) -> None:
        """Write a checkpoint of this step, or of this step under another name, and drop old ones."""
        self._refit_buffers()
        if is_main():
            self._write(name)
        collectives.barrier()  # no process ends before it is written

    def _write(self, name: str | None) -> None:
        self.run.check()
        self.tracker.flush()
        parts = {key: part.state_dict() for key, part in self.learner.parts.items()}
        content = Checkpoint(
            self.state.step,
            self.config_text,
            parts,
            self.state.best,
            list(self.state.pending),
            self.data_fingerprint,
            self.state.rollbacks,
        )
        checkpoint.save(self.run.checkpoints / (name or checkpoint.file_name(self.state.step)), content)
        monitor = self.learner.monitor
        keep_from = (
            monitor.last_good_step if monitor is not None and self.settings.on_alarm == "rollback" else None
        )
        checkpoint.prune(self.run.checkpoints, self.settings.keep_last, keep_from)

    def _log(self, step: int, metrics: Metrics, clock: Clock) -> None:
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        values["perf/images_per_second"] = clock.images_per_second()
        self.tracker.scalars(step, values)
        self.display.figures(step, values)

    def _alarm(self, step: int, metrics: Metrics, look: bool) -> Alarm | None:
        """What is wrong after a step: a loss or gradient that is not finite, or what the monitor says.

        `look`: whether to ask for the step's figures, which a GPU has to be waited for.
        """
        monitor = self.learner.monitor
        # Figures were finite whenever a checkpoint was written; a monitor may know of more that was not.
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

    def _respond(self, alarm: Alarm) -> bool:
        """Do as train.on_alarm says. True if the run was set back. Raises RunFailed to stop."""
        directory, state, monitor = self.run.checkpoints, self.state, self.learner.monitor
        if not asks_for_rollback(alarm, self.settings, state.rollbacks, directory):
            self.display.say(f"alarm: {alarm.sentence}")
            return False
        stored = load_last_good(alarm, directory, self.display.say)
        load_parts(self.learner.parts, stored, self.run.path)
        state.step, state.best, state.pending = stored.step, stored.best, list(stored.pending)
        if monitor is not None:
            monitor.last_good_step = max(monitor.last_good_step, stored.step)
        state.refitted_at = None  # these are other weights, though of a step that was seen before
        state.rollbacks += 1
        self.learner.lr_scale = state.lr_scale
        self.tracker.rewind(state.step)
        self.display.say(
            f"alarm: {alarm.sentence}. Going back to step {state.step} with learning rates times "
            f"{self.learner.lr_scale:g} (rollback {state.rollbacks} of {self.settings.max_rollbacks})"
        )
        return True

    def _last_good(self) -> str:
        good = newest_first(self.run.checkpoints)
        return f"the last good checkpoint is {good[0]}" if good else "nothing was saved yet"


def _due(settings: Train, step: int) -> tuple[bool, list[str], bool]:
    """Whether to log, what to do between the steps, and whether to save, after `step` steps."""
    last = step == settings.max_steps

    def due(every: int | None) -> bool:
        return last or (every is not None and step % every == 0)

    actions = {"evaluate": settings.eval_every_steps, "sample": settings.sample_every_steps}
    return (
        due(settings.log_every_steps),
        [name for name, every in actions.items() if due(every)],
        due(settings.save_every_steps),
    )
