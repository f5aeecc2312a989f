"""Data sets: a source by name, its packed array, and its splits as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from gentrain.config import registry
from gentrain.config.settings import Preprocessing
from gentrain.data.packed import DrawsFresh, Packed, Progress, Source, open_packed
from gentrain.data.reading.entries import in_lines
from gentrain.errors import UserError
from gentrain.images import ImageShape

_VIEW = {field.name for field in fields(Preprocessing)}


def preprocessing_of(section: Mapping[str, Any]) -> Preprocessing:
    """How a checked `data` section wants its pictures shown."""
    return Preprocessing(**{key: value for key, value in section.items() if key in _VIEW})


def make_source(section: Mapping[str, Any]) -> Source:
    """From the checked `data` section; reads nothing yet."""
    settings = {key: value for key, value in section.items() if key != "name" and key not in _VIEW}
    return registry.target(registry.look_up(registry.DATA, "data", section["name"]))(**settings)


def check_data(section: Mapping[str, Any]) -> None:
    """Raise UserError for settings that do not go together. Reads no picture."""
    view = preprocessing_of(section)
    if view.binarize == "dynamic" and view.levels != 2:
        raise UserError(f"data.binarize=dynamic needs data.levels=2, but data.levels is {view.levels}")
    if view.shift * 2 >= section["size"]:
        raise UserError(f"data.shift={view.shift} is too far for pictures of {section['size']} pixels")
    make_source(section).check()


def image_shape(section: Mapping[str, Any]) -> ImageShape:
    """The shape of the images that a `data` section describes, known without reading any."""
    return ImageShape(section["channels"], section["size"], section["size"], section["levels"])


def open_data(section: Mapping[str, Any], progress: Progress) -> Packed:
    """The packed array at 256 levels; what is known of its entropy only where it is used at that many.

    Raises UserError if pictures are bad and `on_bad` is "fail".
    """
    packed = open_packed(section["name"], make_source(section), progress)
    if packed.bad and section["on_bad"] == "fail":
        found = packed.facts.get("found", len(packed.bad) + len(packed.images))
        raise UserError(
            f"{len(packed.bad)} of {found} pictures cannot be used; mend or remove them (task=inspect lists "
            f"all), or leave them out with data.on_bad=skip:{in_lines(packed.bad)}"
        )
    facts = dict(packed.facts) | ({"bad": len(packed.bad)} if packed.bad else {})
    if section["levels"] != 256:
        facts.pop("entropy_bits", None)
    return replace(packed, facts=facts)


def fresh_pictures(section: Mapping[str, Any], count: int, seed: int) -> np.ndarray | None:
    """More pictures of the data set's own distribution, bytes (count, C, H, W); None if it has none."""
    source = make_source(section)
    return source.fresh(count, seed) if isinstance(source, DrawsFresh) else None


__all__ = [
    "Packed",
    "check_data",
    "fresh_pictures",
    "image_shape",
    "make_source",
    "open_data",
    "preprocessing_of",
]
