"""What torchrun changes in training, and nothing else.

Each process has the whole network and its rows of each batch. Once in an optimizer step, after the last
accumulated part, gradients and figures are averaged over all processes by one all-reduce of one flat buffer;
so every process takes the same step, and decides alike. Rank 0 alone writes and speaks. In a single process
all of this does nothing.

Legend: N processes, n images of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gentrain.runtime.collectives import all_gather, all_gather_rows, or_lost
from gentrain.runtime.ranks import rank, world_size
from gentrain.runtime.streams import Streams

T = TypeVar("T")


# ---- training


def sees_whole_batch(network: nn.Module) -> bool:
    """Whether a picture's output depends on the others of its batch, so that a batch has no parts."""
    return bool(_normalising(network))


def _normalising(network: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def batch_norms(network: nn.Module) -> list[Tensor]:
    """The running means and variances of a network's batch normalisations, which differ between processes."""
    kept = [value for layer in _normalising(network) for value in (layer.running_mean, layer.running_var)]
    return [value for value in kept if value is not None]


@torch.no_grad()
def all_reduce_mean(
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
    with or_lost():
        dist.all_reduce(flat)
    flat /= world_size()
    *means, last = flat.split([value.numel() for value in tensors] + [len(numbers)])
    torch._foreach_copy_(
        tensors, [mean.view(value.shape) for mean, value in zip(means, tensors, strict=True)]
    )
    return dict(zip(figures, last.unbind(), strict=True))


def mean_over_processes(mean: Tensor) -> Tensor:
    """A mean over the batch of all processes, from one over this process's rows, with this one's gradient.

    For what is no mean itself but a function of one. After `all_reduce_mean` gradients are that function's.
    """
    if world_size() == 1:
        return mean
    whole = mean.detach().clone()
    with or_lost():
        dist.all_reduce(whole)
    return in_place_of(mean, whole / world_size())


def in_place_of(mean: Tensor, whole: Tensor) -> Tensor:
    """The value of a mean over the whole batch, with the gradient of the mean over a part of it.

    The gradients of all parts, each times its share, then add up to that of a function of the whole mean.
    """
    return mean + (whole - mean.detach())


def whole_batch(x_n: Tensor, accumulate_steps: int) -> Tensor:
    """The batch of all processes, in its order, from each one's rows."""
    if world_size() == 1:
        return x_n
    parts = [part.tensor_split(accumulate_steps) for part in all_gather(x_n.cpu())]
    return torch.cat([part for dealt in zip(*parts, strict=True) for part in dealt]).to(x_n.device)


@torch.no_grad()
def broadcast_weights(network: nn.Module) -> None:
    """Every process's network becomes rank 0's."""
    if world_size() > 1:
        with or_lost():
            for value in network.state_dict().values():
                sent = value.detach().contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


# ---- looking


def sample(draw: Callable[[int, Streams], Tensor], count: int, noise: Streams) -> Tensor:
    """draw(count, noise), (count, C, H, W), of which each process draws a part, in every process.

    The pictures that one process would draw, since each has noise of its own.
    """
    if world_size() == 1:
        return draw(count, noise)
    edges = [count * number // world_size() for number in (rank(), rank() + 1)]
    return all_gather_rows(draw(edges[1] - edges[0], noise[slice(*edges)]))


def shard(chunks: list[T]) -> list[tuple[int, T | None]]:
    """This process's of some numbered pieces of work, dealt out in turn.

    All processes take as many turns, and may talk to each other in each: None where one has nothing left.
    """
    world = world_size()
    padded: list[T | None] = [*chunks, *[None] * (-len(chunks) % world)]
    return list(enumerate(padded))[rank() :: world]
