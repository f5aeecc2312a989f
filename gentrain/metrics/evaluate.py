"""What a model says of each picture of a split: in training, for task=evaluate, in one process or several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gentrain.data.dataset import Images
from gentrain.runtime import collectives, distributed
from gentrain.runtime.seeding import image_streams
from gentrain.runtime.streams import Streams


def evaluate_split(
    eval_step: Callable[[Tensor, Streams], dict[str, Tensor]],
    images: Images,
    batch_size: int,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor] | None:
    """Every figure of every image of a split, float64 (N,) on the CPU; None if stopped meanwhile.

    An image's noise belongs to its number in the split, so that `batch_size` matters by rounding alone: a few
    units in the last place of float32. Several processes take the batches in turn, and all have all figures.
    """
    noise = image_streams(len(images), seed, "evaluate")
    mine: dict[int, dict[str, Tensor]] = {}
    for number, indices in distributed.mine_of(images.chunks(batch_size)):
        if stopped():
            return None
        if indices is not None:
            figures = eval_step(images.take(indices), noise[indices])
            mine[number] = {name: value.cpu().double() for name, value in figures.items()}
    batches = dict(pair for each in collectives.gather(mine) for pair in each.items())
    in_order = [batches[number] for number in sorted(batches)]
    return {name: torch.cat([batch[name] for batch in in_order]) for name in in_order[0]} if in_order else {}
