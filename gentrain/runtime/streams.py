"""Random numbers that belong to an image, and not to its place in a batch.

Number j of an image is a function of (the image's seed, j): a hash of both, as in counter-based generators
(Salmon et al., SC 2011; the hash is SplitMix64's, Steele et al., OOPSLA 2014). So what an image is given does
not depend on the size of the batch, on what else is in it, on the number of processes, or on free memory.

Legend: B images, J numbers of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Shape = tuple[int, ...]

# SplitMix64's constants, as signed 64-bit numbers: torch's int64 products wrap as unsigned ones do.
GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
# Numbers made at once: on a CPU they should stay in its cache, on a GPU they bound the memory.
AT_ONCE = {"cpu": 2**16, "cuda": 2**22}


class Streams:
    """A stream of random numbers for each of B images: stands where a torch.Generator does.

    Drawing goes on from where it stopped, for all images alike. `streams[rows]` are those of some images,
    from their beginning.
    """

    def __init__(self, seeds_B: Tensor) -> None:
        """`seeds_B`: int64; streams of different seeds are independent."""
        self.seeds_B = seeds_B
        self.taken = 0  # numbers that each image has been given

    def __len__(self) -> int:
        return len(self.seeds_B)

    def __getitem__(self, rows: slice | Tensor) -> Streams:
        return Streams(self.seeds_B[rows])

    def draw(self, how: Callable[..., Tensor], shape: Shape, device: torch.device) -> Tensor:
        """As `how(shape, device=device)` for torch.rand and torch.randn, a row an image.

        Any other `how` takes a generator, and is asked once for each image.
        """
        assert shape[0] == len(self), f"noise for {shape[0]} images from the streams of {len(self)}"
        if how is torch.rand:
            return self._blocks(_uniform, shape, device)
        if how is torch.randn:
            return self._blocks(_normal, shape, device)
        seeds = _bits(self.seeds_B, self._take(1), 1).flatten().tolist()
        generators = [Generator(device).manual_seed(seed) for seed in seeds]
        empty = how((0, *shape[1:]), generator=Generator(device), device=device)
        return torch.cat([empty, *(how((1, *shape[1:]), generator=g, device=device) for g in generators)])

    def _take(self, count: int) -> int:
        first, self.taken = self.taken, self.taken + count
        return first

    def _blocks(self, of_bits: Callable[[Tensor], Tensor], shape: Shape, device: torch.device) -> Tensor:
        """Some images at a time."""
        count = math.prod(shape[1:])
        first = self._take(count)
        where = device if device.type in AT_ONCE else torch.device("cpu")
        seeds_B = self.seeds_B.to(where)
        at_once = max(1, AT_ONCE[where.type] // max(1, count))
        parts = [of_bits(_bits(part, first, count)) for part in seeds_B.split(at_once)]
        return torch.cat(parts).view(shape).to(device, torch.get_default_dtype())


def of_contents(x_BCHW: Tensor, seed: int) -> Streams:
    """For a figure that is to be a function of (seed, image) alone: equal images have equal streams."""
    rows = x_BCHW.cpu().contiguous().flatten(1).numpy()
    salt = f"log_prob/{seed}".encode()
    digests = [hashlib.blake2b(row.tobytes() + salt, digest_size=8).digest() for row in rows]
    seeds = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    return Streams(torch.tensor(seeds, dtype=torch.int64))


def _bits(seeds_B: Tensor, first: int, count: int) -> Tensor:
    """64 random bits for numbers first .. first + count - 1 of each image, int64 (B, J)."""
    counters_J = torch.arange(first + 1, first + count + 1, device=seeds_B.device) * GOLDEN
    x_BJ = seeds_B[:, None] + counters_J
    x_BJ.bitwise_xor_(_shifted(x_BJ, 30)).mul_(MIX_1)
    x_BJ.bitwise_xor_(_shifted(x_BJ, 27)).mul_(MIX_2)
    return x_BJ.bitwise_xor_(_shifted(x_BJ, 31))


def _shifted(x_BJ: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in from the left: torch's shift brings in the sign."""
    return (x_BJ >> by).bitwise_and_(2 ** (64 - by) - 1)


def _uniform(bits_BJ: Tensor) -> Tensor:
    """On [0, 1): multiples of 2^-24, all that float32 has there at equal distances."""
    return _shifted(bits_BJ, 40).to(torch.float32).mul_(2**-24)


def _normal(bits_BJ: Tensor) -> Tensor:
    """Standard normal, one number from 64 bits: sqrt(-2 log u) cos(2 pi v) (Box and Muller, 1958)."""
    u_BJ = _shifted(bits_BJ, 32).to(torch.float32).add_(0.5).mul_(2**-32)
    angle_BJ = bits_BJ.bitwise_and_(2**32 - 1).to(torch.float32).mul_(2 * math.pi * 2**-32)
    return u_BJ.log_().mul_(-2).sqrt_().mul_(angle_BJ.cos_())
