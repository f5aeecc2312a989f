"""From a checked config to the objects of a run. Config stops here: models know plain arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gentrain.config import registry
from gentrain.config.settings import Train
from gentrain.data.build import check_data, image_shape
from gentrain.errors import UserError
from gentrain.metrics.domain import DIMS
from gentrain.models.build import make_network, network_on_meta
from gentrain.runtime.device import Compute, check_device
from gentrain.runtime.distributed import sees_whole_batch
from gentrain.runtime.ranks import check_batch
from gentrain.runtime.seeding import seed_everything
from gentrain.training.learner import Learner
from gentrain.training.optimizers import optimizer_settings


def check_buildable(config: Mapping[str, Any]) -> None:
    """Raise UserError for settings that do not go together, before any data is read.

    The network and its size are `capacity.check_fits`'s.
    """
    check_device(config["device"])
    check_data(config["data"])
    train = Train(**config["train"])
    if train.accumulate_steps > train.batch_size:
        raise UserError(
            f"train.accumulate_steps={train.accumulate_steps} cannot split a batch of "
            f"train.batch_size={train.batch_size} images"
        )
    check_batch(train.batch_size, train.accumulate_steps)
    if train.frechet_samples is not None and train.frechet_samples <= DIMS:
        raise UserError(
            f"train.frechet_samples={train.frechet_samples} is too few: features of {DIMS} numbers need more "
            "samples than that; null leaves valid/frechet_distance out"
        )


def check_same_in_parts(config: Mapping[str, Any]) -> None:
    """Raise UserError if a step in train.accumulate_steps parts would be another step. Allocates nothing."""
    parts = config["train"]["accumulate_steps"]
    if parts > 1 and sees_whole_batch(network_on_meta(config)):
        raise UserError(
            f"train.accumulate_steps={parts} would be another step: this network has batch normalisation, "
            "and each part would be normalised by itself; take train.accumulate_steps=1 and a smaller "
            "train.batch_size, or model.network=r3"
        )


def make_learner(config: Mapping[str, Any], compute: Compute) -> Learner:
    """Model, optimizer and average; the initial weights are a function of the seed alone."""
    seed_everything(config["seed"], "weights")
    network = make_network(config)
    train = Train(**config["train"])
    family = registry.MODELS[config["model"]["name"]]
    optimizer = optimizer_settings(config["optimizer"], train.max_steps)
    return registry.target(family.learner)(network, image_shape(config["data"]), optimizer, train, compute)
