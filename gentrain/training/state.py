"""Where a run stands, beside what its learner holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LR_FACTOR = 0.5  # of all learning rates, each time that a run is set back


@dataclass
class State:
    step: int = 0  # finished steps
    best: dict[str, Any] | None = None  # figure and step of best.pt
    pending: list[str] = field(default_factory=list)  # periodic actions that a stop left undone
    rollbacks: int = 0  # how often the run has gone back after an alarm
    refitted_at: int | None = None  # the step whose weights the refitted buffers belong to
    pruned: bool = False  # a search has ended the run early

    @property
    def lr_scale(self) -> float:
        return float(LR_FACTOR**self.rollbacks)

    @property
    def seed_purpose(self) -> tuple[str | int, ...]:
        """What the next step's random numbers are seeded from: others after each rollback."""
        again = ("rollback", self.rollbacks) if self.rollbacks else ()
        return ("train", self.step, *again)
