"""From a checked config to the objects of a run. Config stops here: models know plain arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gentrain.config import registry
from gentrain.data.build import image_shape
from gentrain.errors import UserError


class Uncountable(UserError):
    """A network whose number of weights is too large a number."""


def network_on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The network without its weights: shapes alone. Uncountable if there is none of such a size."""
    try:
        with torch.device("meta"):
            return make_network(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        if not re.search("overflow", str(error), re.IGNORECASE):  # torch has no class of its own for these
            raise
        reason = " ".join(str(error).split())[:120]
        raise Uncountable(f"model={config['model']['name']} cannot have these settings: {reason}") from error


def make_network(config: Mapping[str, Any]) -> nn.Module:
    """The model of the `model` section for the images of the `data` section, freshly initialised."""
    settings = {key: value for key, value in config["model"].items() if key != "name"}
    family = registry.look_up(registry.MODELS, "model", config["model"]["name"])
    return registry.target(family.model)(image_shape(config["data"]), **settings)
