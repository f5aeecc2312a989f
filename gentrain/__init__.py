"""gentrain: train deep generative models of images, and say honestly how good they are.

    run = gentrain.load("outputs/2026-11-23/10-00-00-vae-anime")
    pictures_NCHW = run.sample(64, seed=0)

Importing this package imports no torch, and nothing else that takes time: it comes before the command can see
to Ctrl-C (startup.py). `load` and `save_weights` import torch.
"""

from __future__ import annotations

import warnings

TYPE_CHECKING = False  # as typing's own, whose import takes 10 ms
if TYPE_CHECKING:
    from pathlib import Path

    from gentrain.runs.trained import TrainedRun

__version__: str
__all__ = ["__version__", "load", "save_weights"]


def __getattr__(name: str) -> str:
    """`__version__`, from what was installed: looking it up imports a good deal."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("gentrain")


def load(
    run: str | Path, *, checkpoint: str = "last", device: str = "auto", average: bool = True
) -> TrainedRun:
    """A trained run, with averaged weights where it has them, unless `average` is False.

    `run` is a run directory or one checkpoint file in it; `checkpoint` is "last" or "best".
    Raises UserError, with a sentence, if there is nothing to load; warns of damaged checkpoints that were
    passed over, and of weights that are not finite.
    """
    from gentrain.runs.trained import TrainedRun

    trained = TrainedRun.open(run, checkpoint=checkpoint, device=device, average=average)
    for remark in trained.remarks:
        warnings.warn(remark, stacklevel=2)
    return trained


def save_weights(run: str | Path, file: str | Path, *, checkpoint: str = "last") -> None:
    """Write the weights of a run's model (averaged where it has them) as a safetensors file."""
    load(run, checkpoint=checkpoint, device="cpu").save_weights(file)
