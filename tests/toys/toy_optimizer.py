"""The smallest optimizer."""

from __future__ import annotations

from typing import Annotated

from torch.optim import SGD, Optimizer

from gentrain.config.ranges import AtLeast
from gentrain.training.optimizers import Parameters


def toy(params: Parameters, lr: float, *, weight_decay: Annotated[float, AtLeast(0)]) -> Optimizer:
    return SGD(params, lr, weight_decay=weight_decay)
