"""How the processes of one run are connected, what they tell each other, and how they end together.

In a single process all of this does nothing. What training does with it is in distributed.py.
"""

from __future__ import annotations

import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gentrain.errors import RunFailed, UserError
from gentrain.runtime import ranks
from gentrain.runtime.ranks import is_main, local_rank, rank, world_size

T = TypeVar("T")

# How long a process waits for the others at one of these calls before it gives them up.
PATIENCE = timedelta(minutes=10)
POLL_SECONDS = 0.02
ENDING_SECONDS = 3.0  # that rank 0 is given to end first


# What gloo, NCCL and the store say of a process that is gone or silent. All else is another failure.
GONE = re.compile(
    r"closed by peer|reset by peer|broken pipe|connection was likely closed|remote process exited|"
    r"tim(ed|ing) ?out|timeout",
    re.IGNORECASE,
)


class Lost(RunFailed):
    """The processes of the run cannot go on together: mostly since one has ended, or does not answer."""


# ---- together from here to the end


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """The processes are connected while it is entered. `device`: "cpu" or "cuda"."""
    if world_size() == 1:
        yield
        return
    store = _connect(device)
    try:
        ranks.ask_whether_to_speak(lambda: _is_first(store))
        yield
    except BaseException:
        # It ends with its connections open, once it has said why: so the others notice, and are then silent.
        _end_after_main(store)
        raise
    barrier()  # else a process that is done would be a lost one to others
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, as soon as one has ended with another status
    ranks.ask_whether_to_speak(None)
    dist.destroy_process_group()
    _forget_store()


def _end_after_main(store: dist.Store) -> None:
    """On the way out after a failure: rank 0, if it fails as well, writes and speaks before the others end.

    For torchrun ends all as soon as one has ended: by SIGTERM, which has nothing more to say here.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(RuntimeError):
        if is_main():
            store.add("main is ending", 1)
            return
        until = time.monotonic() + ENDING_SECONDS
        while not store.check(["main is ending"]) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def connected() -> bool:
    return _store is not None


def _forget_store() -> None:
    global _store
    _store = None


def _connect(device: str) -> dist.Store:
    global _store
    if not dist.is_available():
        raise UserError("this build of torch has no torch.distributed; run gentrain without torchrun")
    if device not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot train on device={device}; take device=cpu, or one process")
    try:
        store, number, world = next(dist.rendezvous("env://", timeout=PATIENCE))
        # Gloo carries what lies on the CPU, which is all but gradients; NCCL what lies on a GPU.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=PATIENCE)
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise Lost(
            f"the {world_size()} processes of this run cannot connect at {where}: {_first_line(error)}"
        ) from error
    _store = dist.PrefixStore("gentrain", store)
    return _store


_store: dist.Store | None = None
_calls = 0


def _is_first(store: dist.Store) -> bool:
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # where rank 0 held the store, and has ended
        return rank() == 1


@contextmanager
def or_lost() -> Iterator[None]:
    """Around all that waits for other processes. Raises Lost, with the first line of what torch says.

    Out of memory, and what is not of the connection, is raised as it is.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "out of memory" in text:  # NCCL's own kind, too
            raise torch.OutOfMemoryError(_first_line(error)) from error
        if GONE.search(text):
            raise _lost(_first_line(error)) from error
        if not isinstance(error, dist.DistError) and "/gloo/" not in text:
            raise
        who = f"the {world_size()} processes of this run"
        raise Lost(f"{who} cannot work together, so all stop: {_first_line(error)}") from error


def _lost(cause: str) -> Lost:
    who = f"one of the {world_size()} processes of this run"
    return Lost(f"{who} has ended or does not answer, so all stop ({cause})")


def _first_line(error: RuntimeError) -> str:
    """Without the place in gloo's source and its advice; with the last error that NCCL names below it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = re.sub(r"^\[\S+:\d+\] ", "", lines[0]).partition(". This is typically caused")[0]
    last = lines[lines.index("Last error:") + 1 :] if "Last error:" in lines else []
    return f"{first}: {last[0]}" if last else first


# ---- words of all processes


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        with or_lost():
            dist.all_reduce(torch.zeros(1))


def all_reduce_max(*numbers: float) -> list[float]:
    """The largest value of each number in any process: the tiny all-reduce by which processes agree."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64)
    with or_lost():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def broadcast_from_main(make: Callable[[], T]) -> T:
    """What `make` gives in rank 0, which alone calls it, or the UserError or RunFailed that it raises there.

    It may take long. It is sent as a checkpoint is stored: tensors, numbers, strings, lists and dicts.
    """
    if world_size() == 1:
        return make()
    store, key = _next_key()
    answer: dict[str, Any] = {}
    if is_main():
        try:
            answer = {"value": make()}
        except (UserError, RunFailed) as error:
            answer = {"mistake": isinstance(error, UserError), "sentence": str(error)}
            raise
        finally:
            if answer:
                with or_lost():
                    store.add(key, 1)
                _broadcast(answer)
    else:
        _wait_for(store, key, 1)
        answer = _broadcast({})
        if "sentence" in answer:
            raise (UserError if answer["mistake"] else RunFailed)(answer["sentence"])
    return answer["value"]


def main_first(make: Callable[[], T]) -> T:
    """Each process's own make(): in rank 0 first, then in the first of each other machine, then in the rest.

    So what takes long is done once a machine, if it leaves its result in a cache.
    """
    if world_size() == 1:
        return make()
    turn = 0 if is_main() else 1 if local_rank() == 0 else 2
    for number in range(3):
        store, key = _next_key()
        if number == turn:
            value = make()
        with or_lost():
            store.add(key, 1)
        _wait_for(store, key, world_size())
    return value


def _next_key() -> tuple[dist.Store, str]:
    """A key that is the same in all processes, since all make the same calls."""
    global _calls
    assert _store is not None, "the processes are not connected"
    _calls += 1
    return _store, f"call {_calls}"


def _wait_for(store: dist.Store, key: str, count: int) -> None:
    """Until `count` processes have been there, or one has said why it ends.

    Asleep: it can take hours, and a signal is to be heard.
    """
    with or_lost():
        while True:
            failed = store.add("spoken", 0) > 0  # asked first: who fails with all others has been there
            if store.add(key, 0) >= count:
                return
            if failed:
                raise _lost("it has said why")
            time.sleep(POLL_SECONDS)


def all_gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks, in every process; on the CPU."""
    if world_size() == 1:
        return [value]
    mine = _bytes(value)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    with or_lost():
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = int(max(sizes))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [_value(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def all_gather_rows(x_n: Tensor) -> Tensor:
    """Rows of all processes, one after the other in the order of their ranks, in every process."""
    return x_n if world_size() == 1 else torch.cat(all_gather(x_n.cpu())).to(x_n.device)


def _broadcast(value: Any) -> Any:
    """Rank 0's value."""
    content = _bytes(value) if is_main() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(content)])
    with or_lost():
        dist.broadcast(size, 0)
        if not is_main():
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, 0)
    return value if is_main() else _value(content)


def _bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _value(content: Tensor) -> Any:
    """Data, and never code, as with checkpoints."""
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
