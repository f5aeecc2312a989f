"""What a model says of each picture of a split: in training, for task=evaluate, in one process or several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gentrain.data.dataset import ImageSplit
from gentrain.images import ImageShape, bits_per_dim, psnr_db
from gentrain.models.interface import Generative
from gentrain.runtime import collectives, distributed
from gentrain.runtime.seeding import Random, image_streams
from gentrain.runtime.streams import Streams


def evaluate_split(
    eval_step: Callable[[Tensor, Streams], dict[str, Tensor]],
    images: ImageSplit,
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
    for number, indices in distributed.shard(images.chunks(batch_size)):
        if stopped():
            return None
        if indices is not None:
            figures = eval_step(images.take(indices), noise[indices])
            mine[number] = {name: value.cpu().double() for name, value in figures.items()}
    batches = dict(pair for each in collectives.all_gather(mine) for pair in each.items())
    in_order = [batches[number] for number in sorted(batches)]
    return {name: torch.cat([batch[name] for batch in in_order]) for name in in_order[0]} if in_order else {}


def evaluate_images(
    model: Generative, shape: ImageShape, x_BCHW: Tensor, generator: Random
) -> dict[str, Tensor]:
    """What a model says of each image, shape (B,), with bits per dimension where it has a likelihood."""
    values = model.evaluate(x_BCHW, generator)
    if model.likelihood_kind is not None:
        values["bits_per_dim"] = bits_per_dim(values["nats"], shape)
    return values


def means(figures: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each figure over all images, float64 (N,), and `psnr_db` of the mean squared error.

    The PSNR of the mean error, not the mean of PSNRs: one perfect picture would outweigh all others there.
    """
    out = {name: value.mean() for name, value in figures.items()}
    if out.get("mse"):  # 0 has no finite PSNR, and a curve no place for an infinite one
        out["psnr_db"] = psnr_db(out["mse"])
    return {name: value.item() for name, value in out.items()}
