"""What torchrun changes, and nothing else: what the processes of one run tell each other.

Each process has the whole network and its rows of each batch. Once in an optimizer step, after the last
accumulated part, gradients and figures are averaged over all processes by one all-reduce of one flat buffer;
so every process takes the same step, and decides alike. Rank 0 alone writes and speaks. In a single process
all of this does nothing.

Legend: N processes, n images of this process.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gentrain import ranks
from gentrain.errors import RunFailed, UserError
from gentrain.ranks import is_main, local_rank, rank, world_size
from gentrain.seeding import rows_of

T = TypeVar("T")

# How long a process waits for the others at one of these calls before it gives them up.
PATIENCE = timedelta(minutes=10)
POLL_SECONDS = 0.02
ENDING_SECONDS = 3.0  # that rank 0 is given to end first


class Lost(RunFailed):
    """Another process of the run has ended, or does not answer."""


# ---- together from here to the end


@contextmanager
def together(device: str) -> Iterator[None]:
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


def _forget_store() -> None:
    global _store
    _store = None


def _connect(device: str) -> dist.Store:
    global _store
    if not dist.is_available():
        raise UserError("this build of torch has no torch.distributed; run gentrain without torchrun")
    if device not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot train on device={device}; take device=cpu, or one process")
    with _or_lost():
        store, number, world = next(dist.rendezvous("env://", timeout=PATIENCE))
        # Gloo carries what lies on the CPU, which is all but gradients; NCCL what lies on a GPU.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=PATIENCE)
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
def _or_lost() -> Iterator[None]:
    """Around all that waits for other processes."""
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, its own kinds included
        raise Lost(
            f"one of the {world_size()} processes of this run has ended or does not answer, so all stop"
        ) from error


# ---- words of all processes


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        with _or_lost():
            dist.all_reduce(torch.zeros(1))


def all_true(flag: bool) -> bool:
    """Whether it is true in every process."""
    return largest(0.0 if flag else 1.0) == [0.0]


def largest(*numbers: float) -> list[float]:
    """The largest value of each number in any process: the tiny all-reduce by which processes agree."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64)
    with _or_lost():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def all_as_main(number: float) -> float:
    """Rank 0's number: of what all have computed, perhaps not on equal devices."""
    return from_main(lambda: number)


def from_main(make: Callable[[], T]) -> T:
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
                store.add(key, 1)
                _broadcast(answer)
    else:
        _wait_for(store, key, 1)
        answer = _broadcast({})
        if "sentence" in answer:
            raise (UserError if answer["mistake"] else RunFailed)(answer["sentence"])
    return answer["value"]


def in_turn(make: Callable[[], T]) -> T:
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
    """Until `count` processes have been there. Asleep: it can take hours, and a signal is to be heard."""
    with _or_lost():
        while store.add(key, 0) < count:
            time.sleep(POLL_SECONDS)


def gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks, in every process; on the CPU."""
    if world_size() == 1:
        return [value]
    mine = _bytes(value)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    with _or_lost():
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = int(max(sizes))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [_value(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def gather_rows(x_n: Tensor) -> Tensor:
    """Rows of all processes, one after the other in the order of their ranks, in every process."""
    return x_n if world_size() == 1 else torch.cat(gather(x_n.cpu())).to(x_n.device)


def _broadcast(value: Any) -> Any:
    """Rank 0's value."""
    content = _bytes(value) if is_main() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(content)])
    with _or_lost():
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


# ---- training


def batch_norms(network: nn.Module) -> list[Tensor]:
    """The running means and variances of a network's batch normalisations, which differ between processes."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    kept = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    return [value for value in kept if value is not None]


@torch.no_grad()
def average(
    parameters: Iterable[nn.Parameter], figures: Mapping[str, Tensor | float], others: Iterable[Tensor] = ()
) -> dict[str, Tensor]:
    """Gradients and `others` become their means over all processes, in place; the means of the figures.

    One all-reduce. A process's figures are means over its rows, of which each process has as many.
    """
    if world_size() == 1:
        return cast(dict[str, Tensor], figures)
    tensors = [p.grad for p in parameters if p.grad is not None] + list(others)
    device = tensors[0].device
    numbers = [torch.as_tensor(value, dtype=tensors[0].dtype, device=device) for value in figures.values()]
    flat = torch.cat([value.reshape(-1) for value in [*tensors, *numbers]])
    with _or_lost():
        dist.all_reduce(flat)
    flat /= world_size()
    *means, last = flat.split([value.numel() for value in tensors] + [len(numbers)])
    torch._foreach_copy_(
        tensors, [mean.view(value.shape) for mean, value in zip(means, tensors, strict=True)]
    )
    return dict(zip(figures, last.unbind(), strict=True))


def mean_over_processes(mean: Tensor) -> Tensor:
    """A mean over the batch of all processes, from one over this process's rows, with this one's gradient.

    For what is no mean itself but a function of one. After `average` gradients are those of that function.
    """
    if world_size() == 1:
        return mean
    whole = mean.detach().clone()
    with _or_lost():
        dist.all_reduce(whole)
    return mean + (whole / world_size() - mean.detach())


def whole_batch(x_n: Tensor, accumulate_steps: int) -> Tensor:
    """The batch of all processes, in its order, from each one's rows."""
    if world_size() == 1:
        return x_n
    parts = [part.tensor_split(accumulate_steps) for part in gather(x_n.cpu())]
    return torch.cat([part for dealt in zip(*parts, strict=True) for part in dealt]).to(x_n.device)


@torch.no_grad()
def same_as_main(network: nn.Module) -> None:
    """Every process's network becomes rank 0's."""
    if world_size() > 1:
        with _or_lost():
            for value in network.state_dict().values():
                sent = value.detach().contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


# ---- looking


def sample(draw: Callable[[int, Generator], Tensor], count: int, noise: Generator) -> Tensor:
    """draw(count, noise), (count, C, H, W), of which each process draws a part, in every process.

    The pictures that one process would draw, since each part's noise is its rows of the noise for all. (Not
    on CUDA for families that draw pixel after pixel: there the noise of a whole batch is one stream.)
    """
    if world_size() == 1:
        return draw(count, noise)
    edges = [count * number // world_size() for number in (rank(), rank() + 1)]
    with rows_of(count, slice(*edges)):
        mine = draw(edges[1] - edges[0], noise)
    return gather_rows(mine)


def mine_of(chunks: list[T]) -> list[tuple[int, T | None]]:
    """This process's of some numbered pieces of work, dealt out in turn.

    All processes take as many turns, and may talk to each other in each: None where one has nothing left.
    """
    world = world_size()
    padded: list[T | None] = [*chunks, *[None] * (-len(chunks) % world)]
    return list(enumerate(padded))[rank() :: world]


# ---- the machine


def threads_for_each() -> int | None:
    """CPU threads for each process of a machine: its cores, shared by those that may run on them.

    None if a process is alone, or if OMP_NUM_THREADS was set by hand: torchrun sets it to 1 where nobody did.
    """
    if _store is None or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return None
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [os.cpu_count() or 1]
    count = len(cores) if hasattr(os, "sched_getaffinity") else cores[0]
    mine = [socket.gethostname(), *map(str, cores)]
    return max(1, count // gather(mine).count(mine))


def device_of(name: str) -> torch.device:
    """The device of this process: of several GPUs the one with its number."""
    if name != "cuda" or world_size() == 1:
        return torch.device(name)
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank()} of this machine has no GPU of its own: there are "
            f"{torch.cuda.device_count()}; start at most as many processes (--nproc-per-node)"
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())
