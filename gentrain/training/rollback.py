"""What the loop does when training has gone wrong, as train.on_alarm says: warn, stop, or go back.

To go back is to load the newest checkpoint from before it went wrong, with everything in it, and to go on
with half the learning rates and other random numbers. How often that was done is part of the checkpoint, so
a run that is killed meanwhile goes on as it would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gentrain.errors import RunFailed
from gentrain.runs import checkpoint
from gentrain.runs.step_names import newest_first, step_of
from gentrain.runs.stored import load_parts

if TYPE_CHECKING:
    from gentrain.training.trainer import Fit, State

LR_FACTOR = 0.5  # of all learning rates, each time


@dataclass(frozen=True)
class Alarm:
    """Something that calls for an answer."""

    sentence: str  # what is wrong and what to try, in one line
    fatal: bool  # there is no use in going on
    last_good_step: int  # until when all was known to be well


def respond(this: Fit, state: State, alarm: Alarm) -> bool:
    """Do as train.on_alarm says. True if the run was set back.

    Raises RunFailed to stop: as asked for, or because there is nothing to go back to, or no try left.
    """
    settings = this.settings
    if settings.on_alarm == "warn" and not alarm.fatal:
        this.display.say(f"alarm: {alarm.sentence}")
        return False
    if settings.on_alarm != "rollback":
        raise RunFailed(f"stopped: {alarm.sentence}; {_last_sound(this, alarm)}")
    if state.rollbacks >= settings.max_rollbacks:
        raise RunFailed(
            f"stopped after {state.rollbacks} rollbacks: {alarm.sentence}; {_last_sound(this, alarm)}"
        )
    stored = checkpoint.from_main(lambda: _go_back(this, alarm))
    if stored is None:
        raise RunFailed(f"stopped: {alarm.sentence}; no checkpoint from before it is left")
    load_parts(this.learner.parts, stored, this.run.path)
    state.step, state.best, state.pending = stored.step, stored.best, list(stored.pending)
    if this.learner.monitor is not None:
        this.learner.monitor.last_good_step = max(this.learner.monitor.last_good_step, stored.step)
    state.refitted_at = None  # these are other weights, though of a step that was seen before
    state.rollbacks += 1
    this.learner.lr_scale = lr_scale(state)
    this.tracker.rewind(state.step)
    this.display.say(
        f"alarm: {alarm.sentence}. Going back to step {state.step} with learning rates times "
        f"{this.learner.lr_scale:g} (rollback {state.rollbacks} of {settings.max_rollbacks})"
    )
    return True


def _go_back(this: Fit, alarm: Alarm) -> checkpoint.Checkpoint | None:
    stored, complaints = checkpoint.go_back(this.run.checkpoints, alarm.last_good_step)
    for complaint in complaints:
        this.display.say(complaint)
    if stored is not None and not (this.run.checkpoints / "best.pt").is_file():
        stored.best = None  # it was of later, and an older one had been overwritten
    return stored


def lr_scale(state: State) -> float:
    return float(LR_FACTOR**state.rollbacks)


def noise_of_step(state: State) -> tuple[str | int, ...]:
    """The purpose from which a step's random numbers are seeded: others after each rollback."""
    again = ("rollback", state.rollbacks) if state.rollbacks else ()
    return ("train", state.step, *again)


def _last_sound(this: Fit, alarm: Alarm) -> str:
    good = [
        path
        for path in newest_first(this.run.checkpoints)
        if (step := step_of(path)) is not None and step <= alarm.last_good_step
    ]
    if not good:
        return "no checkpoint from before it is left"
    return f"the last good checkpoint is {good[0]}, which resume= takes with a lower optimizer.lr"
