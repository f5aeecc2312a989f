"""What an alarm asks for, as train.on_alarm says: warn, stop, or go back to the last good checkpoint.

To go back is to load the newest checkpoint from before it went wrong, with everything in it, and to go on
with half the learning rates and other random numbers. How often that was done is part of the checkpoint, so
a run that is killed meanwhile goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gentrain.config.settings import Train
from gentrain.errors import RunFailed
from gentrain.runs import checkpoint
from gentrain.runs.step_names import newest_first, step_of


@dataclass(frozen=True)
class Alarm:
    """Something that calls for an answer."""

    sentence: str  # what is wrong and what to try, in one line
    fatal: bool  # there is no use in going on
    last_good_step: int  # until when all was known to be well


def asks_for_rollback(alarm: Alarm, settings: Train, rollbacks: int, directory: Path) -> bool:
    """False where it is enough to say it. `directory`: of the checkpoints.

    Raises RunFailed to stop: as asked for, or because no try is left.
    """
    if settings.on_alarm == "warn" and not alarm.fatal:
        return False
    if settings.on_alarm != "rollback":
        raise RunFailed(f"stopped: {alarm.sentence}; {_last_good(directory, alarm)}")
    if rollbacks >= settings.max_rollbacks:
        raise RunFailed(
            f"stopped after {rollbacks} rollbacks: {alarm.sentence}; {_last_good(directory, alarm)}"
        )
    return True


def load_last_good(alarm: Alarm, directory: Path, complain: Callable[[str], None]) -> checkpoint.Checkpoint:
    """The newest whole checkpoint from before the alarm, in every process. RunFailed if there is none."""

    def find() -> checkpoint.Checkpoint | None:
        stored, complaints = checkpoint.go_back(directory, alarm.last_good_step)
        for complaint in complaints:
            complain(complaint)
        if stored is not None and not (directory / "best.pt").is_file():
            stored.best = None  # it was of later, and an older one had been overwritten
        return stored

    found = checkpoint.from_main(find)
    if found is None:
        raise RunFailed(f"stopped: {alarm.sentence}; no checkpoint from before it is left")
    return found


def _last_good(directory: Path, alarm: Alarm) -> str:
    good = [
        path
        for path in newest_first(directory)
        if (step := step_of(path)) is not None and step <= alarm.last_good_step
    ]
    if not good:
        return "no checkpoint from before it is left"
    return f"the last good checkpoint is {good[0]}, which resume= takes with a lower optimizer.lr"
