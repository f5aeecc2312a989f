"""Which checkpoint file of a run is meant, and the model's weights in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gentrain.errors import UserError
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.checkpoint import Stateful
from gentrain.runs.rundir import is_run
from gentrain.runs.step_names import newest_first
from gentrain.runtime.files import expanded

AVERAGE = "module."  # what torch's AveragedModel puts before the names of the weights


def find_checkpoint(run: str | Path, which: str) -> Path:
    """The file that `run=` and `checkpoint=` mean, which may be damaged. UserError if there is none."""
    path = expanded(run)
    if path.is_file():
        if path.suffix != ".pt":
            raise UserError(f"{path} is no checkpoint file (*.pt); give it or its run directory")
        return path
    if not path.is_dir() or not is_run(path):
        raise UserError(f"{path} is no run directory (no config.yaml in it) and no checkpoint file")
    directory = path / "checkpoints"
    found = newest_first(directory)
    best = directory / "best.pt"
    if which == "best" and (best.exists() or best.is_symlink()):
        return best
    if which != "best" and found:
        return found[0]
    further = f"train it further with gentrain resume={path}"
    if which == "best" and found:
        raise UserError(
            f"{path} has no best checkpoint: no evaluation has found the figure that chooses one yet; "
            f"{further}, or use checkpoint=last"
        )
    raise UserError(f"{path} has no {which} checkpoint yet; {further}")


def run_of(run: str | Path) -> Path:
    """The run directory that `run=` means: itself, or that in which a checkpoint file lies where it is named,
    or, if it is a link, where it leads. UserError if it lies in none.
    """
    path = expanded(run)
    if not path.is_file():
        return path
    for file in (path.absolute(), path.resolve()):
        if is_run(file.parent.parent):
            return file.parent.parent
    raise UserError(
        f"{path} lies in no run directory: a checkpoint is read with the config of its run, and there is "
        f"no {path.absolute().parent.parent / 'config.yaml'}; give the file in <run>/checkpoints"
    )


def weights_of(stored: checkpoints.Checkpoint, average: bool = True) -> dict[str, Tensor]:
    """The model's weights: averaged ones where the run keeps an average (of a GAN, of its generator).

    They are those of a model only once `check_weights` has said so.
    """
    if "model" not in stored.parts:
        raise UserError(f"the checkpoint of step {stored.step} holds no model")
    if "ema" not in stored.parts or not average:
        return stored.parts["model"]
    averaged = stored.parts["ema"].items()
    return stored.parts["model"] | {
        key.removeprefix(AVERAGE): value for key, value in averaged if str(key).startswith(AVERAGE)
    }


def load_asked(run: str | Path, which: str) -> tuple[checkpoints.Checkpoint, list[str]]:
    """The file itself if it was asked for by name or as the best, else the newest whole one; and a sentence
    about each damaged one that was passed over.
    """
    file = find_checkpoint(run, which)
    if expanded(run).is_file() or which == "best":
        return checkpoints.load_or_explain(file), []
    found, complaints = checkpoints.load_newest(file.parent)
    if found is None:
        raise UserError("; ".join([*complaints, "there is no whole checkpoint left"]))
    return found, [f"{said}; the one before it is used" for said in complaints]


def check_weights(file: Path, weights: Mapping[str, Any], network: nn.Module) -> str:
    """Whether these are weights for the network, which may be on the meta device. Raises UserError.

    Returns a sentence if some are not finite, else "".
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        said = _fault(weights.get(name), expected.get(name))
        if said:
            raise UserError(f"{file} has the weights of another model: {name[:120]} {said}")
    return not_finite(file, weights)


def not_finite(file: Path, weights: Mapping[str, Tensor]) -> str:
    """A sentence if some weights of the file are not finite, else ""."""
    bad = sum(int((~value.isfinite()).sum()) for value in weights.values())
    count = sum(value.numel() for value in weights.values())
    if not bad:
        return ""
    return (
        f"{bad:,} of the {count:,} weights in {file} are not finite: the run has diverged, and neither its "
        "pictures nor its figures mean anything"
    )


def _fault(given: Any, wanted: Tensor | None) -> str:
    if wanted is None:
        return "is none of this one's"
    if not isinstance(given, Tensor):
        return "is missing" if given is None else "is no tensor"
    if given.shape != wanted.shape:
        return f"has the shape {tuple(given.shape)} and not {tuple(wanted.shape)}"
    plain = given.layout == torch.strided and not given.is_meta and not given.is_quantized
    return "" if plain and given.is_complex() == wanted.is_complex() else "is no plain tensor"


def load_parts(parts: Mapping[str, Stateful], stored: checkpoints.Checkpoint, where: Path) -> None:
    """Load a learner's parts from a checkpoint in, or of, `where`. UserError if they are others."""
    if stored.parts.keys() != parts.keys():
        lacks = ", ".join(sorted(parts.keys() - stored.parts.keys())) or "nothing"
        more = ", ".join(sorted(stored.parts.keys() - parts.keys())) or "nothing"
        raise UserError(
            f"the checkpoint of step {stored.step} in {where} is that of another learner: it lacks {lacks} "
            f"and has {more[:200]} too much"
        )
    for name, part in parts.items():
        try:
            _check_state(part, stored.parts[name])
            part.load_state_dict(stored.parts[name])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"the {name} in the checkpoint of step {stored.step} in {where} is that of another learner: "
                f"{type(error).__name__}: {reason}"
            ) from error


def _check_state(part: Stateful, state: dict[str, Any]) -> None:
    """Raise ValueError for what would be loaded and only then be of no use."""
    if isinstance(part, nn.Module):
        expected = part.state_dict()
        for name in sorted(expected.keys() | state.keys()):
            said = _fault(state.get(name), expected.get(name))
            if said:
                raise ValueError(f"{name[:120]} {said}")
    elif isinstance(part, Optimizer):
        sizes = [parameter.shape for group in part.param_groups for parameter in group["params"]]
        for number, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.shape not in ((), sizes[number]):
                    raise ValueError(f"{name} {number} has the shape {tuple(value.shape)}")
