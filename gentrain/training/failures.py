"""Failures of the machine during training, in words that say how to go on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from gentrain.errors import RunFailed
from gentrain.models.build import network_on_meta
from gentrain.runtime.distributed import sees_whole_batch
from gentrain.runtime.files import in_words
from gentrain.runtime.ranks import world_size


@contextmanager
def failures_explained(config: Mapping[str, Any]) -> Iterator[None]:
    """Out of memory, in a sentence that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(config) from error
    except RuntimeError as error:
        if not re.search("can't allocate memory|bad_alloc|not enough memory", str(error)):
            raise
        raise _out_of_memory(config) from error


@contextmanager
def files_explained(to_go_on: str) -> Iterator[None]:
    """For a run that has begun: a failure of files ends with the command that goes on in it."""
    try:
        yield
    except (OSError, RunFailed) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        words = in_words(reason) if isinstance(reason, OSError) else None
        if words is None:
            raise
        said = str(error) if isinstance(error, RunFailed) else words
        raise RunFailed(f"{said}; to go on once that is put right: {to_go_on}") from reason


def _out_of_memory(config: Mapping[str, Any]) -> RunFailed:
    """What would take less, of what is possible."""
    batch_size, parts = config["train"]["batch_size"], 2 * config["train"]["accumulate_steps"]
    half = batch_size // world_size() // 2 * world_size()
    advice = [f"train.batch_size={half}"] if half else []
    if parts <= batch_size // world_size() and not sees_whole_batch(network_on_meta(config)):
        advice.append(f"train.accumulate_steps={parts}, which takes the same steps in less memory")
    wish = ", or ".join([*advice, "a smaller model"])
    return RunFailed(f"out of memory with train.batch_size={batch_size}: try {wish}")
