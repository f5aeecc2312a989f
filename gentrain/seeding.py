"""Every random number is a function of (seed, what it is for, step): the reason why resume is exact."""

import hashlib

import torch
from torch import Tensor


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


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator of its own on the CPU: what it draws is the same on every device and moves no other."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def normal_noise(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal, drawn on the generator's device, returned on `like`'s."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device).to(like.device)
