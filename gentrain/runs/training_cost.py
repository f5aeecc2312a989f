"""What training took, from the curves that a run logged. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RATE = "perf/images_per_second"


@dataclass(frozen=True)
class TrainingCost:
    seconds: float  # in training steps alone: no evaluation, no pause
    images_per_second: float  # the median of the logged rates


def training_cost(lines: Sequence[Mapping[str, Any]], batch_size: float) -> TrainingCost | None:
    """From the lines of metrics.jsonl in order; None if they hold no rate, or none that makes sense."""
    rated = [(line["step"], line[RATE]) for line in lines if _is_rate(line.get(RATE))]
    if not rated:
        return None
    steps = [step for step, _ in rated]
    before = [0, *steps[:-1]]
    seconds = sum(
        max(0, step - earlier) * batch_size / rate
        for (step, rate), earlier in zip(rated, before, strict=True)
    )
    if not math.isfinite(seconds):
        return None
    return TrainingCost(seconds, statistics.median(rate for _, rate in rated))


def _is_rate(value: Any) -> bool:
    """A file may hold anything: words, or an integer that is too large to divide by."""
    number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    return number and 0 < value < 2**63
