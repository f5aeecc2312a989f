"""Optimizers by name, and the learning rate as a function of the step.

A function here takes the parameters and its own settings, which are the keys of its YAML beside those that
all share (`settings.Schedule`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from gentrain.config import registry
from gentrain.config.ranges import AtLeast, Below
from gentrain.config.settings import Schedule

Parameters = Iterable[nn.Parameter]
Fraction = Annotated[float, AtLeast(0), Below(1)]
NotNegative = Annotated[float, AtLeast(0)]


def adamw(
    params: Parameters,
    lr: float,
    *,
    betas: tuple[Fraction, Fraction],
    eps: NotNegative,
    weight_decay: NotNegative,
) -> Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    return AdamW(params, lr, _floats(betas), eps, weight_decay, fused=True)


def adam(params: Parameters, lr: float, *, betas: tuple[Fraction, Fraction], eps: NotNegative) -> Optimizer:
    """Adam (arXiv 1412.6980)."""
    return Adam(params, lr, _floats(betas), eps, fused=True)


def _floats(betas: tuple[float, float]) -> tuple[float, float]:
    """A beta typed as 0 is a whole number, which torch does not take beside a float."""
    return float(betas[0]), float(betas[1])


def sgd(
    params: Parameters, lr: float, *, momentum: Fraction, nesterov: bool, weight_decay: NotNegative
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return SGD(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov and momentum > 0)


def rmsprop(
    params: Parameters, lr: float, *, alpha: Fraction, eps: NotNegative, momentum: Fraction
) -> Optimizer:
    """RMSprop (Tieleman and Hinton, 2012)."""
    return RMSprop(params, lr, alpha, eps, momentum=momentum)


@dataclass(frozen=True)
class OptimizerSettings:
    """What a learner needs to build its optimizers and to set their learning rate at each step."""

    schedule: Schedule
    build: Callable[[Parameters], Optimizer]
    max_steps: int

    def lr_at(self, step: int) -> float:
        """The learning rate for the update from `step` to `step + 1`."""
        return self.schedule.lr * lr_factor(step, self.schedule, self.max_steps)


def lr_factor(step: int, schedule: Schedule, max_steps: int) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then constant, or half a cosine down to 0 at max_steps."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.schedule == "constant":
        return 1.0
    progress = (step - schedule.warmup_steps) / max(1, max_steps - schedule.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_settings(config: Mapping[str, Any], max_steps: int) -> OptimizerSettings:
    """From the `optimizer` section of a checked config."""
    shared = {field.name: config[field.name] for field in fields(Schedule)}
    own = {key: value for key, value in config.items() if key not in shared and key != "name"}
    function = registry.target(registry.look_up(registry.OPTIMIZERS, "optimizer", config["name"]))
    return OptimizerSettings(
        Schedule(**shared), lambda params: function(params, shared["lr"], **own), max_steps
    )
