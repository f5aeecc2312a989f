"""Data sets: a source by name, its packed array, and its splits as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gentrain import registry
from gentrain.data.packed import Packed, Progress, Source, open_packed
from gentrain.images import ImageShape


def make_source(section: Mapping[str, Any]) -> Source:
    """From the checked `data` section; reads nothing yet."""
    settings = {key: value for key, value in section.items() if key != "name"}
    return registry.target(registry.look_up(registry.DATA, "data", section["name"]))(**settings)


def image_shape(section: Mapping[str, Any]) -> ImageShape:
    """The shape of the images that a `data` section describes, known without reading any."""
    return ImageShape(section["channels"], section["size"], section["size"], section["levels"])


def open_data(section: Mapping[str, Any], progress: Progress) -> Packed:
    """The packed array at 256 levels; what is known of its entropy only where it is used at that many."""
    packed = open_packed(section["name"], make_source(section), progress)
    return packed if section["levels"] == 256 else replace(packed, facts={})


__all__ = ["Packed", "image_shape", "make_source", "open_data"]
