"""gentrain: train deep generative models of images, and say honestly how good they are.

    run = gentrain.load("outputs/2026-11-23/10-00-00-vae-anime")
    pictures_NCHW = run.sample(64, seed=0)

Importing this package imports no torch; `load` and `save_weights` do.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gentrain.trained import TrainedRun

__version__ = version("gentrain")
__all__ = ["__version__", "load", "save_weights"]


def load(
    run: str | Path, *, checkpoint: str = "last", device: str = "auto", average: bool = True
) -> TrainedRun:
    """A trained run, with averaged weights where it has them, unless `average` is False.

    `run` is a run directory or one checkpoint file in it; `checkpoint` is "last" or "best".
    Raises UserError, with a sentence, if there is nothing to load; warns of damaged checkpoints that were
    passed over, and of weights that are not finite.
    """
    from gentrain.trained import TrainedRun

    trained = TrainedRun.open(run, checkpoint=checkpoint, device=device, average=average)
    for remark in trained.remarks:
        warnings.warn(remark, stacklevel=2)
    return trained


def save_weights(run: str | Path, file: str | Path, *, checkpoint: str = "last") -> None:
    """Write the weights of a run's model (averaged where it has them) as a safetensors file."""
    load(run, checkpoint=checkpoint, device="cpu").save_weights(file)
