"""Every random number is a function of (seed, what it is for, step): the reason why resume is exact.

And not of how many processes there are: in a step of training each process draws the noise of the whole
batch, and takes the rows of its own images. So two processes see what one would have seen. Everywhere else an
image has numbers of its own (`image_streams`), whatever batch it is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Generator, Tensor

from gentrain.runtime import ranks
from gentrain.runtime.streams import Streams

Shape = tuple[int, ...]
Random = Generator | Streams  # where noise comes from: one stream for all, or one an image
SEEDS = 2**62  # of images: there are so many


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and a purpose, e.g. derive(0, "train", 17)."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int, *purpose: str | int) -> None:
    """Re-seed torch's default generators: the CPU's, and those of the accelerators in use.

    As torch.manual_seed, which takes 0.15 ms to ask every backend: too long for each step of a fast GPU.
    """
    number = derive(seed, *purpose)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def generator(seed: int, *purpose: str | int) -> Generator:
    """A generator of its own on the CPU: what it draws is the same on every device and moves no other."""
    return Generator().manual_seed(derive(seed, *purpose))


def image_streams(count: int, seed: int, *purpose: str | int) -> Streams:
    """For images 0 .. count - 1 of a split, or of those to be drawn: image i's numbers are a function of
    (seed, purpose, i), so that fewer images have the same."""
    return Streams(torch.randint(0, SEEDS, (count,), generator=generator(seed, *purpose)))


# ---- the noise of a batch


class _Step:
    """Where a step's noise comes from if there are several processes: what one would draw by default."""

    def __init__(self) -> None:
        self.number = 0
        self.generators: dict[torch.device, Generator] = {}

    def seed(self, number: int) -> None:
        self.number = number
        for made in self.generators.values():
            made.manual_seed(number)

    def on(self, device: torch.device) -> Generator:
        if device not in self.generators:
            self.generators[device] = Generator(device).manual_seed(self.number)
        return self.generators[device]


_step = _Step()
_rows: tuple[int, slice | Tensor] | None = None  # see `rows_of`


def seed_step(seed: int, *purpose: str | int) -> None:
    """Before a step of training. A single process: as seed_everything.

    With several, noise that `drawn` gives is what a single process would draw, and what is drawn past it,
    which is dropout, differs between processes.
    """
    if ranks.world_size() == 1:
        seed_everything(seed, *purpose)
    else:
        _step.seed(derive(seed, *purpose))
        seed_everything(seed, *purpose, "rank", ranks.rank())


def drawn(how: Callable[..., Tensor], shape: Shape, generator: Random | None, device: torch.device) -> Tensor:
    """Noise of `shape`, a row an image: `how(shape, generator=..., device=...)`, such as torch.randn.

    From `Streams` each row is what its image has next, and no other row matters.

    `generator` None is for training: torch's default one. With several processes the noise of all of them is
    drawn, as if the batch were in one piece, and this process's rows of it are returned.
    """
    if isinstance(generator, Streams):
        return generator.draw(how, shape, device)
    if generator is not None:
        if _rows is None:
            return how(shape, generator=generator, device=device)
        whole, mine = _rows
        return how((whole, *shape[1:]), generator=generator, device=device)[mine]
    world = ranks.world_size()
    if world == 1:
        return how(shape, generator=None, device=device)
    first = ranks.rank() * shape[0]
    whole_shape = (world * shape[0], *shape[1:])
    return how(whole_shape, generator=_step.on(device), device=device)[first : first + shape[0]]


@contextmanager
def rows_of(whole: int, mine: slice | Tensor) -> Iterator[None]:
    """While it is entered, what `drawn` gives from a generator is rows `mine` of noise for `whole` images."""
    global _rows
    before, _rows = _rows, (whole, mine)
    try:
        yield
    finally:
        _rows = before


def normal_noise(shape: Shape, generator: Random | None, like: Tensor) -> Tensor:
    """Standard normal, a row an image, drawn where the generator is, returned on `like`'s device."""
    return drawn(torch.randn, shape, generator, device_of(generator, like)).to(like.device)


def device_of(generator: Random | None, like: Tensor) -> torch.device:
    """Where to draw: a torch.Generator has a device of its own."""
    return generator.device if isinstance(generator, Generator) else like.device


def normal_noise_like(x_BCHW: Tensor) -> Tensor:
    """Standard normal for training, laid out in memory as the pictures are: torch.randn_like."""
    channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return drawn(partial(_normal, layout), tuple(x_BCHW.shape), None, x_BCHW.device)


def _normal(
    layout: torch.memory_format, shape: Shape, *, generator: Generator | None, device: torch.device
) -> Tensor:
    return torch.empty(shape, device=device, memory_format=layout).normal_(generator=generator)


def whole_numbers(
    low: int, high: int, shape: Shape, generator: Generator | None, device: torch.device
) -> Tensor:
    """Uniform on low .. high - 1, int64, a row an image."""
    return drawn(partial(torch.randint, low, high), shape, generator, device)
