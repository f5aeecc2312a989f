"""Which of the processes of one run this is, as torchrun (or who does the same) says. Imports no torch.

Five variables are in the environment of each process of a run: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Nothing else is relied on. Without all five, or with WORLD_SIZE=1, a process is on its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

from gentrain.errors import UserError

HEAD_START_SECONDS = 10.0
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """How many processes train this run together."""
    return _number("WORLD_SIZE", 1) if all(name in os.environ for name in VARIABLES) else 1


def rank() -> int:
    """This process's number among them, 0 .. world_size() - 1."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Its number among those on this machine: the number of its GPU."""
    return _number("LOCAL_RANK", 0) if world_size() > 1 else 0


def is_main() -> bool:
    """Rank 0 alone writes and speaks."""
    return rank() == 0


def check_batch(batch_size: int, accumulate_steps: int) -> None:
    """UserError if a batch cannot be dealt out to the processes."""
    world = world_size()
    if batch_size % world:
        near = max(world, batch_size // world * world)
        raise UserError(
            f"train.batch_size={batch_size} is over all processes and cannot be split evenly among {world}; "
            f"take a multiple of {world}, such as train.batch_size={near}"
        )
    if accumulate_steps > batch_size // world:
        raise UserError(
            f"train.accumulate_steps={accumulate_steps} cannot split the {batch_size // world} images that "
            f"each of {world} processes has of a batch of train.batch_size={batch_size}"
        )


def shard_rows(batch_size: int, accumulate_steps: int) -> list[int]:
    """Which rows of a batch over all processes are this one's, in the order of its own parts.

    Each part of an accumulated step is dealt out by itself, so that the parts of all processes together are
    the part that one process would have (where batch_size divides by the product of both numbers).
    """
    world, rows, start = world_size(), list[int](), 0
    each, longer = divmod(batch_size // world, accumulate_steps)
    for part in range(accumulate_steps):
        size = each + (part < longer)  # as torch.tensor_split
        rows += range(start + rank() * size, start + (rank() + 1) * size)
        start += world * size
    return rows


def check_environment() -> None:
    """UserError if the variables make no sense, and so do not say which process this is."""
    if world_size() == 1:
        return
    numbers = {name: _number(name, 0) for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")}
    if not 0 <= numbers["RANK"] < world_size():
        raise UserError(
            f"RANK={numbers['RANK']} in the environment is not among WORLD_SIZE={world_size()} processes"
        )


# ---- who speaks of a failure

_ask: Callable[[], bool] | None = None


def ask_whether_to_speak(ask: Callable[[], bool] | None) -> None:
    """From now on `may_speak` is `ask`: set by collectives.py while processes are connected."""
    global _ask
    _ask = ask


def may_speak() -> bool:
    """Whether this process is the one to say why all of them end. Asked once, right before it ends.

    While they are connected: the first one to ask, since its failure is the cause of the others'. Before that
    it is rank 0, and the others give it time: torchrun ends all once one has ended. If they are still there
    after it, the mistake was theirs alone, such as a folder that only their machine lacks.
    """
    if _ask is not None:
        return _ask()
    if not is_main():
        time.sleep(HEAD_START_SECONDS + 0.5 * local_rank())
    return True


def say_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook, for failures that keep their traceback: one of them, and not N."""
    if may_speak():
        sys.__excepthook__(kind, error, trace)


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} in the environment is no whole number") from error
