"""What task=sample needs for families whose pictures are states of a Markov chain: its start, its picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.reading.decode import decode
from gentrain.errors import UserError
from gentrain.images import quantize
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.files import expanded
from gentrain.tasks.on_run import open_data_of

WATCHED = 8  # chains in the picture, one a row
COLUMNS = 14  # of it, at most


def starts(
    trained: TrainedRun, config: Mapping[str, Any], count: int, progress: Callable[[int, int], None]
) -> Tensor | None:
    """`sample.chain_from` as pictures, uint8 levels (count, C, H, W); None for noise."""
    source = config["sample"]["chain_from"] or "noise"
    if source == "noise":
        return None
    if source in ("valid", "test"):
        packed = open_data_of(trained, config, source, progress)
        split = ImageSplit(
            packed.split(source), preprocessing_of(trained.config["data"]), torch.device("cpu")
        )
        return split.take(torch.arange(count) % len(split))
    path, shape = expanded(source), trained.shape
    if not path.is_file():
        raise UserError(f"sample.chain_from={source} is no picture file; it may also be noise, valid or test")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"sample.chain_from={source} cannot be read: {error.strerror}") from error
    decoded = decode(content, shape.height, shape.channels)
    if isinstance(decoded, str):
        raise UserError(f"sample.chain_from={source} is no picture that can be used: {decoded}")
    return quantize(torch.from_numpy(decoded), shape.levels).repeat(count, 1, 1, 1)


def steps_shown(frames: int) -> list[int]:
    """Which of so many frames are shown, the first and the last among them: the first steps change most."""
    if frames <= COLUMNS:
        return list(range(frames))
    ratio = (frames - 1) ** (1 / (COLUMNS - 1))
    chosen = [0]
    for number in range(1, COLUMNS):
        chosen.append(max(chosen[-1] + 1, round(ratio**number)))
    return [*chosen[:-1], frames - 1]
