"""What the `domain` extractor is trained on: three kinds of pictures, changed and damaged at random.

Used by train_extractor.py. Faces and articles of clothing have labels; "leaves" (random shapes laid over one
another, "dead leaves") have none: they stand for any other pictures. A label that a change may have destroyed
counts no longer: see `Batch.known`.

Legend: B batch, N pictures, S side (32), K labels. Pictures are floats in [0, 1] until `Batch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gentrain import anime
from gentrain.anime.factors import INDEX, join
from gentrain.data.build import make_source
from gentrain.data.packed import Packed, open_packed
from gentrain.metrics.domain import SIDE

SEED = 20_261_125
FIRST_NUMBER = 2_000_000  # of the faces, above all numbers that data=anime can reach with any seed
COMMON_SEEDS = 1000  # no face of valid or test (numbers 0 .. 1999) of data.seed=0 .. 999 is trained on
CHOICES = (*(len(factor.choices) for factor in anime.FACTORS), 10)  # of the K labels; the last is the class
DAMAGES = ("none", "blur", "noise", "cut-out", "shuffle", "halves", "cross-fade", "checkerboard", "warp")
KEEPS_LABELS = torch.tensor([name in ("none", "blur", "noise", "checkerboard") for name in DAMAGES])
BY_COLOR = [INDEX[name] for name in ("hair_color", "eye_color", "skin", "blush", "background")]
BY_PLACE = [INDEX[name] for name in ("shift_x", "shift_y")]


@dataclass(frozen=True)
class Labelled:
    """uint8 pictures (N, 3, 32, 32) and labels (N, K), -1 where there is none."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Batch:
    """Pictures in [-1, 1], (B, 3, 32, 32), and all that is to be read from them."""

    x: Tensor
    labels: Tensor  # (B, K), -1 where there is none or it cannot be known any more
    damage: Tensor  # (B,) number in DAMAGES
    strength: Tensor  # (B,) of the damage, 0 .. 1


def faces(count: int, count_64: int) -> Labelled:
    """Faces at 32 px, and others drawn at 64 and resized; none of them held out under a common seed."""
    held_out = np.concatenate(
        [join(anime.combinations(np.arange(2000), seed)) for seed in range(COMMON_SEEDS)]
    )
    numbers = np.arange(FIRST_NUMBER, FIRST_NUMBER + count + count_64)
    factors_NK = anime.combinations(numbers, SEED)
    factors_NK = factors_NK[~np.isin(join(factors_NK), held_out)]
    small = torch.from_numpy(anime.draw(factors_NK[count_64:], 32))
    large = torch.from_numpy(anime.draw(factors_NK[:count_64], 64)).float()
    large = F.interpolate(large, (SIDE, SIDE), mode="bilinear", antialias=True).round().to(torch.uint8)
    return labelled_faces(torch.cat([large, small]), factors_NK)


def labelled_faces(images_N3SS: Tensor, factors_NF: np.ndarray) -> Labelled:
    labels_NK = F.pad(torch.from_numpy(factors_NF.astype(np.int64)), (0, 1), value=-1)
    return Labelled(images_N3SS, labels_NK)


def fashion() -> Packed:
    """Fashion-MNIST as data=fashion_mnist has it: its test pictures are the test split."""
    section = {
        "name": "fashion_mnist",
        "root": None,
        "size": 28,
        "channels": 1,
        "count": None,
        "held_out": 0.1,
    }
    return open_packed("fashion_mnist", make_source(section), lambda done, total: None)


def clothes(packed: Packed, split: str) -> Labelled:
    images = F.interpolate(
        torch.from_numpy(packed.split(split)).float(), (SIDE, SIDE), mode="bilinear", antialias=True
    )
    classes = torch.from_numpy(np.array(packed.labels[packed.rows(split)], np.int64))
    labels_NK = F.pad(classes, (len(CHOICES) - 1, 0), value=-1)
    return Labelled(images.round().to(torch.uint8).expand(-1, 3, -1, -1), labels_NK)


def leaves(count: int, shapes: int = 40) -> Labelled:
    """Ellipses and boxes of random place, size and colour over one another; a quarter of them grey."""
    y_SS, x_SS = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    done = []
    for part in torch.arange(count).split(1000):
        n = len(part)
        base_N3, spread_N1 = torch.rand(n, 3), 0.1 + 0.9 * torch.rand(n, 1)
        grey_N1 = torch.rand(n, 1) < 0.25
        smallest_N = 0.7 + 3 * torch.rand(n)
        how_many_N = torch.randint(4, shapes + 1, (n,))
        images = base_N3[:, :, None, None].expand(-1, -1, SIDE, SIDE).clone()
        for shape in range(shapes):
            color_N3 = (base_N3 + spread_N1 * (2 * torch.rand(n, 3) - 1)).clamp(0, 1)
            # From half the picture down to the smallest, so that none is covered whole.
            radius_N = smallest_N * (SIDE / 2 / smallest_N) ** (1 - shape / how_many_N).clamp(min=0)
            aspect_N = torch.exp(0.8 * torch.randn(n))
            x_NSS = x_SS - SIDE * torch.rand(n)[:, None, None]
            y_NSS = (y_SS - SIDE * torch.rand(n)[:, None, None]) * aspect_N[:, None, None]
            angle_N11 = math.pi * torch.rand(n)[:, None, None]
            cos, sin = angle_N11.cos(), angle_N11.sin()
            u, v = x_NSS * cos - y_NSS * sin, x_NSS * sin + y_NSS * cos
            round_N11 = (torch.rand(n) < 0.6)[:, None, None]
            distance = torch.where(round_N11, (u * u + v * v).sqrt(), torch.maximum(u.abs(), v.abs()))
            covers = (radius_N[:, None, None] - distance + 0.5).clamp(0, 1)
            covers = covers * (shape < how_many_N)[:, None, None]
            images += covers[:, None] * (color_N3[:, :, None, None] - images)
        images = torch.where(grey_N1[:, :, None, None], images.mean(1, keepdim=True), images)
        done.append(images.mul(255).round().to(torch.uint8))
    return Labelled(torch.cat(done), torch.full((count, len(CHOICES)), -1))


def make_batch(parts: list[Labelled], counts: list[int]) -> Batch:
    """That many random pictures of each kind, changed; a damage that needs two pictures takes one kind's."""
    made = [change(part.images[rows].float().div(255), part.labels[rows])
            for part, count in zip(parts, counts, strict=True)
            for rows in [torch.randint(len(part), (count,))]]  # fmt: skip
    x, labels, damage, strength = (torch.cat(pieces) for pieces in zip(*made, strict=True))
    return Batch(x.clamp(0, 1).mul(2).sub(1), labels, damage, strength)


def change(x_B3SS: Tensor, labels_BK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moved or recoloured with probability 0.3 each, then with probability 0.6 damaged."""
    labels_BK, batch = labels_BK.clone(), len(x_B3SS)
    moved, recolored = torch.rand(batch) < 0.3, torch.rand(batch) < 0.3
    x_B3SS = x_B3SS.clone()
    x_B3SS[moved] = move(x_B3SS[moved])
    x_B3SS[recolored] = recolor(x_B3SS[recolored])
    for rows, columns in ((moved, BY_PLACE), (recolored, BY_COLOR)):
        labels_BK[rows.nonzero(), columns] = -1
    damage = torch.where(torch.rand(batch) < 0.6, torch.randint(1, len(DAMAGES), (batch,)), 0)
    strength = torch.rand(batch) * (damage > 0)
    whole_B3SS = x_B3SS.clone()
    for number, name in enumerate(DAMAGES[1:], start=1):
        rows = (damage == number).nonzero()[:, 0]
        if len(rows):
            others = whole_B3SS[torch.randint(batch, (len(rows),))]
            x_B3SS[rows] = damaged(name, x_B3SS[rows], others, strength[rows])
    labels_BK[~KEEPS_LABELS[damage]] = -1
    return x_B3SS, labels_BK, damage, strength


def move(x_B3SS: Tensor) -> Tensor:
    """Shifted by up to a tenth, scaled by up to a sixth in each direction; the border is repeated."""
    batch = len(x_B3SS)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = torch.exp(0.3 * (torch.rand(2, batch) - 0.5))
    theta[:, :, 2] = 0.2 * (2 * torch.rand(batch, 2) - 1)
    grid = F.affine_grid(theta, list(x_B3SS.shape), align_corners=False)
    return F.grid_sample(x_B3SS, grid, padding_mode="border", align_corners=False)


def recolor(x_B3SS: Tensor) -> Tensor:
    """Channels mixed, brightened and bent by random numbers; one in four made grey."""
    batch = len(x_B3SS)
    mix = torch.eye(3) + 0.25 * torch.randn(batch, 3, 3) * torch.rand(batch, 1, 1)
    grey = torch.rand(batch) < 0.25
    mix[grey] = torch.tensor([0.299, 0.587, 0.114])
    bias = 0.15 * torch.randn(batch, 3, 1)
    gamma = torch.exp(0.3 * torch.randn(batch, 1, 1))
    mixed = (mix @ x_B3SS.flatten(2) + bias).clamp(1e-4, 1) ** gamma
    return mixed.view_as(x_B3SS)


def damaged(name: str, x_B3SS: Tensor, others_B3SS: Tensor, strength_B: Tensor) -> Tensor:
    """By one of DAMAGES, weakly to strongly."""
    s = strength_B[:, None, None, None]
    match name:
        case "blur":
            return blurred(x_B3SS, 0.3 + 2 * strength_B)
        case "noise":
            bits = torch.randn_like(x_B3SS)
            grey = (x_B3SS[:, :1] - x_B3SS[:, 1:]).abs().amax((1, 2, 3), keepdim=True) == 0
            return x_B3SS + (0.01 + 0.25 * s) * torch.where(grey, bits[:, :1], bits)
        case "cut-out":
            return torch.where(boxes(strength_B), torch.rand(len(x_B3SS), 3, 1, 1), x_B3SS)
        case "shuffle":
            return torch.where(boxes(strength_B), x_B3SS.roll((11, 9), (2, 3)), x_B3SS)
        case "halves":
            across = (torch.rand(len(x_B3SS)) < 0.5)[:, None, None, None]
            line = torch.arange(SIDE) < SIDE * (0.6 - 0.5 * s + 0.2 * torch.rand_like(s))
            return torch.where(torch.where(across, line, line.mT), others_B3SS, x_B3SS)
        case "cross-fade":
            return x_B3SS.lerp(others_B3SS, 0.1 + 0.4 * s)
        case "checkerboard":
            step = torch.where(torch.rand(len(x_B3SS)) < 0.5, 1, 2)[:, None, None]
            i = torch.arange(SIDE)
            signs = 1 - 2.0 * ((i[:, None] // step + i // step) % 2)
            return x_B3SS + (0.01 + 0.15 * s) * signs[:, None] * (0.3 + x_B3SS)
        case "warp":
            return warped(x_B3SS, 0.3 + 3 * strength_B)
    raise ValueError(name)


def blurred(x_B3SS: Tensor, sigma_B: Tensor) -> Tensor:
    """By a Gaussian of a width in pixels for each picture; the border is repeated."""
    offsets = torch.arange(-6, 7)
    kernel = torch.exp(-0.5 * (offsets / sigma_B[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    x = F.pad(x_B3SS, (6, 6, 6, 6), mode="replicate").flatten(0, 1)[None]
    x = F.conv2d(x, kernel[..., None], groups=len(kernel))
    return F.conv2d(x, kernel[:, :, None], groups=len(kernel)).view_as(x_B3SS)


def boxes(strength_B: Tensor) -> Tensor:
    """True in a box somewhere, (B, 1, S, S), 4 to 20 pixels wide."""
    side_2B = 4 + 16 * strength_B * (0.5 + 0.5 * torch.rand(2, len(strength_B)))
    start_2B = (torch.rand_like(side_2B) * (SIDE - side_2B)).round()
    i = torch.arange(SIDE)
    inside = (i >= start_2B[..., None]) & (i < (start_2B + side_2B)[..., None])
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def warped(x_B3SS: Tensor, pixels_B: Tensor) -> Tensor:
    """Each point moved by a smooth random field of this root mean square."""
    batch = len(x_B3SS)
    field = F.interpolate(torch.randn(batch, 2, 5, 5), (SIDE, SIDE), mode="bicubic", align_corners=True)
    field = field * (pixels_B * 2 / SIDE)[:, None, None, None]
    plain = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), list(x_B3SS.shape), align_corners=False)
    return F.grid_sample(x_B3SS, plain + field.movedim(1, -1), padding_mode="border", align_corners=False)
