"""What a command would take at the least, against the memory that is there, before anything is allocated.

Linux gives memory away before it has it, and kills the process that uses too much of it, so a size that no
machine holds has to be found by counting: on the meta device a network is nothing but its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from gentrain.config import registry
from gentrain.config.schema import fits, model_schema
from gentrain.data.build import image_shape
from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.models.build import Uncountable, network_on_meta
from gentrain.runs.checkpoint import memory_bytes
from gentrain.runtime.device import resolve
from gentrain.runtime.ranks import world_size

# A command is checked where it is typed, and may run on a larger machine: there it is checked once more.
LARGEST = 2**42  # bytes: of the machine that a command may be sent to
COPIES = 3  # of pictures that are drawn and laid out in a grid: levels, pictures and the grid
FLOAT = 4  # bytes of a number in training, on every device
STATES = {"adam": 2, "adamw": 2, "rmsprop": 1}  # numbers that an optimizer keeps beside each weight, at least


def check_fits(config: Mapping[str, Any], somewhere: bool = False) -> None:
    """Raise UserError if training would take more memory than this machine has, or any (`somewhere`)."""
    here = _memory_of(resolve(config["device"]["name"]))
    limit = max(here, LARGEST) if somewhere else here
    need = training_bytes(config)
    if need > limit:
        refuse_above(
            limit, _largest(config), need, "for the weights, their gradients and the optimizer", here
        )
    train, shape = config["train"], image_shape(config["data"])
    of_part = train["batch_size"] // world_size() // train["accumulate_steps"]
    of_batch = 1 + of_part * FLOAT / train["batch_size"]  # bytes, and numbers of one part at a time
    check_pictures("train.batch_size", train["batch_size"], shape, of_batch, limit)
    check_pictures("train.sample_count", train["sample_count"], shape, COPIES, limit)


def check_pictures(
    key: str, value: int, shape: ImageShape, bytes_a_value: float = 1, limit: int | None = None
) -> None:
    """Raise UserError if `value` pictures need more than `limit` bytes, which is this machine's memory."""
    size = f"for pictures of {shape.width}x{shape.height}x{shape.channels}"
    here = memory_bytes()
    need = value * shape.dims * bytes_a_value
    refuse_above(here if limit is None else limit, f"{key}={value}", need, size, here)


def check_codes(key: str, value: int, latent_dim: int) -> None:
    """As check_pictures, for codes of `latent_dim` numbers."""
    here = memory_bytes()
    refuse_above(
        here, f"{key}={value}", value * latent_dim * FLOAT, f"for codes of {latent_dim} numbers", here
    )


def refuse_above(limit: int, setting: str, need: float, what_for: str, here: int) -> None:
    if need > limit:
        raise UserError(
            f"{setting} would need {in_words(need)} of memory {what_for}, and this machine has "
            f"{in_words(here)}"
        )


def training_bytes(config: Mapping[str, Any]) -> float:
    """Weights and buffers, gradients, and what the optimizer keeps; infinite if no number says it.

    Raises UserError as the family's constructor does.
    """
    try:
        network = network_on_meta(config)
    except Uncountable:
        return math.inf
    weights = sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    return weights * FLOAT * (2 + STATES.get(config["optimizer"]["name"], 0)) + buffers


def _largest(config: Mapping[str, Any]) -> str:
    """key=value of the setting that takes the most: the one without which the least would be left."""
    name = config["model"]["name"]
    left = {}
    for key, setting in model_schema(registry.MODELS[name]).items():
        value = config["model"][key]
        small = [1] * len(value) if isinstance(value, list) else 1
        if isinstance(value, bool | float) or small == value or not fits(small, setting.annotation):
            continue  # no size, or none that could be smaller
        try:
            smaller = {**config, "model": config["model"] | {key: small}}
            left[f"model.{key}={value}"] = training_bytes(smaller)
        except UserError:  # it does not go with the other settings
            continue
    return min(left, key=lambda text: left[text], default=f"model={name}")


def _memory_of(device: str) -> int:
    """All that the first GPU has, or else the computer."""
    return torch.cuda.get_device_properties(0).total_memory if device == "cuda" else memory_bytes()


def in_words(count: float) -> str:
    """Bytes: "about 24 TB"."""
    for unit, size in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= 1e6 * 1e18:
            return "more than any number of machines has"
        if count >= size:
            return f"about {count / size:.3g} {unit}"
    return f"about {count / 1e6:.3g} MB"
