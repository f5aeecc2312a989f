"""Which checkpoint file of a run is meant, and the model's weights in it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from gentrain import checkpoint as checkpoints
from gentrain.errors import UserError
from gentrain.files import expanded
from gentrain.rundir import is_run

AVERAGE = "module."  # what torch's AveragedModel puts before the names of the weights


def find_checkpoint(run: str | Path, which: str) -> Path:
    """The file that `run=` and `checkpoint=` mean: a whole one. UserError if there is none."""
    path = expanded(run)
    if path.is_file():
        if path.suffix != ".pt":
            raise UserError(f"{path} is no checkpoint file (*.pt); give it or its run directory")
        return path
    if not path.is_dir() or not is_run(path):
        raise UserError(f"{path} is no run directory (no config.yaml in it) and no checkpoint file")
    directory = path / "checkpoints"
    candidates = [directory / "best.pt"] if which == "best" else checkpoints.newest_first(directory)
    if not candidates or not candidates[0].is_file():
        further = f"train it further with gentrain resume={path}"
        if which == "best" and checkpoints.newest_first(directory):
            raise UserError(
                f"{path} has no best checkpoint: no evaluation has found the figure that chooses one yet; "
                f"{further}, or use checkpoint=last"
            )
        raise UserError(f"{path} has no {which} checkpoint yet; {further}")
    return candidates[0]


def weights_of(stored: checkpoints.Checkpoint, average: bool = True) -> dict[str, Tensor]:
    """The model's weights: averaged ones where the run keeps an average (of a GAN, of its generator)."""
    if "ema" not in stored.parts or not average:
        return stored.parts["model"]
    averaged = stored.parts["ema"].items()
    return stored.parts["model"] | {
        key.removeprefix(AVERAGE): value for key, value in averaged if key.startswith(AVERAGE)
    }


def load_asked(file: Path, directory: Path, exact: bool) -> checkpoints.Checkpoint:
    """The file itself if it was asked for by name, else the newest whole one."""
    if exact:
        return checkpoints.load_or_explain(file)
    found, complaints = checkpoints.load_newest(directory)
    if found is None:
        raise UserError("; ".join(complaints) + "; there is no whole checkpoint left")
    return found
