"""Differentiable augmentation of what the discriminator sees (Zhao et al., arXiv 2006.10738).

Real and generated pictures are changed in the same ways, and the generator learns through the change. Each
picture is changed with a probability below one, so that the unchanged ones stay the most frequent, and the
generator does not learn to draw the changes (Karras et al., arXiv 2006.06676, section 2.2).

Legend: B batch, C channels, H height, W width. Pictures are floats about in [-1, 1].
Randomness comes from torch's default generators, for the whole batch if several processes share it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gentrain.runtime.seeding import drawn, whole_numbers

Change = Literal["color", "translation", "cutout"]
# A transformation's own inverse can be told from it with certainty only below this: arXiv 2006.06676, fig. 3.
MOST = 0.8
SHIFT = 1 / 8  # of a side, at most
HOLE = 1 / 2  # of a side


def diff_augment(x_BCHW: Tensor, changes: Sequence[Change], probability: float) -> Tensor:
    """Each picture changed in each of the named ways with `probability`, all independent of each other."""
    for change in changes:
        picked_B111 = _uniform(x_BCHW) < probability
        x_BCHW = torch.where(picked_B111, CHANGES[change](x_BCHW), x_BCHW)
    return x_BCHW


def _uniform(x_BCHW: Tensor) -> Tensor:
    how = partial(torch.rand, dtype=x_BCHW.dtype)
    return drawn(how, (len(x_BCHW), 1, 1, 1), None, x_BCHW.device)


def color(x_BCHW: Tensor) -> Tensor:
    """Brightness moved by up to 0.5; distance from grey times 0 .. 2, from the mean times 0.5 .. 1.5."""
    x_BCHW = x_BCHW + _uniform(x_BCHW) - 0.5
    grey_B1HW = x_BCHW.mean(1, keepdim=True)
    x_BCHW = grey_B1HW + (x_BCHW - grey_B1HW) * 2 * _uniform(x_BCHW)
    mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
    return mean_B111 + (x_BCHW - mean_B111) * (0.5 + _uniform(x_BCHW))


def translation(x_BCHW: Tensor) -> Tensor:
    """Moved by up to an eighth of each side; grey (0) comes in."""
    rows_BH, rows_kept_BH = _moved(x_BCHW, x_BCHW.shape[2])
    columns_BW, columns_kept_BW = _moved(x_BCHW, x_BCHW.shape[3])
    kept_B1HW = rows_kept_BH[:, None, :, None] & columns_kept_BW[:, None, None, :]
    moved = x_BCHW.gather(2, rows_BH[:, None, :, None].expand_as(x_BCHW))
    moved = moved.gather(3, columns_BW[:, None, None, :].expand_as(x_BCHW))
    return moved * kept_B1HW


def _moved(x_BCHW: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where each of `length` pixels comes from, and whether from within the picture: (B, length) each."""
    most, device = int(length * SHIFT + 0.5), x_BCHW.device
    move_B1 = whole_numbers(-most, most + 1, (len(x_BCHW), 1), None, device)
    from_BL = torch.arange(length, device=device) + move_B1
    return from_BL.clamp(0, length - 1), (from_BL >= 0) & (from_BL < length)


def cutout(x_BCHW: Tensor) -> Tensor:
    """A rectangle of half of each side is grey (0); its centre is anywhere in the picture."""
    outside_BH = _outside(x_BCHW, x_BCHW.shape[2])
    outside_BW = _outside(x_BCHW, x_BCHW.shape[3])
    return x_BCHW * (outside_BH[:, None, :, None] | outside_BW[:, None, None, :])


def _outside(x_BCHW: Tensor, length: int) -> Tensor:
    """Which of `length` pixels are not in the hole's range, bool (B, length)."""
    hole, device = int(length * HOLE + 0.5), x_BCHW.device
    start_B1 = whole_numbers(-(hole // 2), length - hole // 2, (len(x_BCHW), 1), None, device)
    offset_BL = torch.arange(length, device=device) - start_B1
    return (offset_BL < 0) | (offset_BL >= hole)


CHANGES = {"color": color, "translation": translation, "cutout": cutout}
