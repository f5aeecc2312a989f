"""Random flips and shifts of a batch, on the device.

Off unless asked for: a model with a likelihood then learns the distribution of the moved pictures, and
spends probability on mirror images that the data may not hold, while it is measured on pictures as they are.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from gentrain.config.settings import Preprocessing
from gentrain.runtime.seeding import drawn


def augment(images_BCHW: Tensor, view: Preprocessing, rng: Generator) -> Tensor:
    """Each image mirrored with probability 1/2 if `view.flip`, and moved by up to `view.shift` pixels.

    Uniformly in both directions; the border's pixels are repeated where the picture has moved away.
    """
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    if view.flip:
        mirrored_B = (drawn(torch.rand, (batch,), rng, rng.device) < 0.5).to(device)
        images_BCHW = torch.where(mirrored_B.view(-1, 1, 1, 1), images_BCHW.flip(-1), images_BCHW)
    if view.shift:
        moves_B2 = drawn(partial(_moves, view.shift), (batch,), rng, rng.device).to(device)
        rows_BH = _moved(height, moves_B2[:, 0])
        columns_BW = _moved(width, moves_B2[:, 1])
        images_BCHW = images_BCHW.gather(2, rows_BH[:, None, :, None].expand_as(images_BCHW))
        images_BCHW = images_BCHW.gather(3, columns_BW[:, None, None, :].expand_as(images_BCHW))
    return images_BCHW


def _moves(most: int, shape: tuple[int, ...], *, generator: Generator, device: torch.device) -> Tensor:
    """-most .. most in both directions, (B, 2)."""
    return torch.randint(-most, most + 1, (2, *shape), generator=generator, device=device).T


def _moved(length: int, moves_B: Tensor) -> Tensor:
    """Where each of `length` pixels comes from, (B, length)."""
    return (torch.arange(length, device=moves_B.device) + moves_B[:, None]).clamp(0, length - 1)
