"""Out of memory, out of space: failures of the machine during training, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gentrain.errors import RunFailed
from gentrain.files import out_of_space
from gentrain.settings import Train


@contextmanager
def failures_explained(settings: Train, run: Path | None) -> Iterator[None]:
    """Out of memory and out of space, in a sentence that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(settings) from error
    except RuntimeError as error:
        if not re.search("can't allocate memory|bad_alloc|not enough memory", str(error)):
            raise
        raise _out_of_memory(settings) from error
    except OSError as error:
        if not out_of_space(error):
            raise
        where = error.filename or run or "the run directory"
        raise RunFailed(f"no space left to write {where}; free some space and resume") from error


def _out_of_memory(settings: Train) -> RunFailed:
    half = max(1, settings.batch_size // 2)
    parts = 2 * settings.accumulate_steps
    return RunFailed(
        f"out of memory with train.batch_size={settings.batch_size}: try train.batch_size={half}, or "
        f"train.accumulate_steps={parts}, which takes the same steps in less memory, or a smaller model"
    )
