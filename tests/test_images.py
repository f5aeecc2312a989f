"""The conversions at the borders, and bits per dimension."""

from __future__ import annotations

import math

import pytest
import torch

from gentrain.images import ImageShape, bits_per_dim, quantize, to_levels, to_picture, to_unit


@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256])
def test_levels_survive_the_way_to_floats_and_back(levels: int) -> None:
    x = torch.arange(levels, dtype=torch.uint8)
    unit = to_unit(x, levels)
    assert unit[0] == -1
    assert unit[-1] == 1
    assert torch.equal(to_levels(unit, levels), x)
    assert to_levels(torch.tensor([-3.0, 3.0]), levels).tolist() == [0, levels - 1]


@pytest.mark.parametrize("levels", [2, 4, 7, 256])
def test_bytes_are_cut_into_bins_of_equal_width_and_stretched_for_people(levels: int) -> None:
    quantized = quantize(torch.arange(256, dtype=torch.uint8), levels)
    sizes = torch.bincount(quantized.long(), minlength=levels)
    assert sizes.sum() == 256
    assert sizes.max() - sizes.min() <= 1
    pictures = to_picture(torch.arange(levels, dtype=torch.uint8), levels)
    assert pictures[0] == 0
    assert pictures[-1] == 255


def test_a_uniform_model_has_eight_bits_per_dimension() -> None:
    shape = ImageShape(3, 5, 7)
    nats = torch.tensor([3 * 5 * 7 * math.log(256)], dtype=torch.float64)
    assert bits_per_dim(nats, shape).item() == pytest.approx(8, abs=1e-12)
