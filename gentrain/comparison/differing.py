"""Which settings make the runs different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gentrain.config.registry import TASKS
from gentrain.config.schema import NOT_PART_OF_A_RUN

NOT_SET = "(not set)"
CHOSEN = ("model", "data", "optimizer")  # sections whose `name` says what their other settings mean


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values are not all equal.

    A setting of a model, data set or optimizer is compared among the runs that have the same one: that a vae
    has no head_width is no difference of settings.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    known = [key for key in keys if key.split(".")[0] not in (*NOT_PART_OF_A_RUN, *TASKS)]
    found = [key for key in known if _differs(key, configs)]
    first = [f"{section}.name" for section in CHOSEN]
    return sorted(found, key=lambda key: (key not in first, key))


def _differs(key: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    section = key.split(".")[0]
    alike: dict[str, set[str]] = {}
    for config in configs:
        name = "" if key.endswith(".name") or section not in CHOSEN else str(config.get(f"{section}.name"))
        alike.setdefault(name, set()).add(repr(config.get(key, NOT_SET)))
    return any(len(values) > 1 for values in alike.values())
