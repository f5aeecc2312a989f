"""Learners: how one step of training is made of a model, a batch and an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from gentrain.runs.checkpoint import Stateful
from gentrain.runtime.seeding import Random

NextBatch = Callable[[], Tensor]
Metrics = dict[str, Tensor | float]


class Monitor(Protocol):
    """A look at whether training still goes well, beyond whether its figures are finite."""

    raised: str | None  # what is wrong and what to try, in one line, if the step just taken found it
    last_good_step: int  # the last step up to which all was known to be well
    healthy: bool  # nothing bad was seen at the last look


class Learner(Protocol):
    """What the trainer knows of training. `step` counts finished steps.

    All randomness in `train_step` comes by `seeding.drawn` from what the trainer seeds before each step, and
    elsewhere from the generator given. Gradients and figures are made those of all processes together by
    `distributed.all_reduce_mean`.
    """

    parts: dict[str, Stateful]  # everything that a checkpoint must hold, by name
    model: nn.Module  # the network to look at: with averaged weights where they are kept
    monitor: Monitor | None  # None: only figures that are not finite are an alarm
    lr_scale: float  # a factor on every learning rate, 1 unless the run was rolled back after an alarm

    def train_step(self, next_batch: NextBatch, step: int) -> Metrics:
        """One update. `next_batch()` gives uint8 (B, C, H, W), as often as needed. Names without a prefix.

        Must hold "loss", "grad_norm" and "lr"; tensors are scalars, left on the device.
        """

    def weights_replaced(self) -> None:
        """To be called once other weights than those it was made with are in the network, before a step.

        What was derived from those before, such as the average, is derived from the new ones.
        """

    def networks(self) -> list[nn.Module]:
        """`model`, and the network that is trained if that is another one: both are saved."""

    def eval_step(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        """One value an image, shape (B,), by name, of the averaged model."""

    def sample(self, n: int, generator: Random) -> Tensor:
        """uint8 levels (n, C, H, W) of the averaged model."""

    def reconstruct(self, x_BCHW: Tensor) -> Tensor | None:
        """uint8 levels (B, C, H, W), or None for a family that has no reconstructions."""

    def interpolate(self, rows: int, columns: int, generator: Random) -> Tensor | None:
        """uint8 levels (rows * columns, C, H, W) of the averaged model, or None where there are none."""

    def headline(self) -> str | None:
        """The evaluated figure, as in the tags, on which the best checkpoint is chosen; less is better.

        "frechet_distance" is measured by the trainer. None: there is none, and so no best checkpoint.
        """
