"""What a PixelCNN sees: the documented receptive fields, and the blind spot of the plain variant."""

from __future__ import annotations

import itertools

import pytest
import torch
from pixel_nets import CNN_VARIANTS, small, trunk_jacobian
from torch import Tensor

from gentrain.images import ImageShape
from gentrain.models.pixel.autoregressive import Autoregressive


def receptive_field(model: Autoregressive, variant: str, first: int, other: int, layers: int) -> Tensor:
    """docs/pixelcnn.md's formula, (H, W, H, W): whether a pixel is seen from another. `first`, `other`: kernels."""
    f, p, n = first // 2, other // 2, layers - 1
    reach = f + p * n
    height, width = model.shape.height, model.shape.width
    seen = torch.zeros(height, width, height, width, dtype=torch.bool)
    for y, x, y2, x2 in itertools.product(range(height), range(width), range(height), range(width)):
        up, right = y - y2, x2 - x
        if up == 0:
            seen[y, x, y2, x2] = 1 <= -right <= reach
        elif 1 <= up <= reach:
            furthest = reach if variant == "gated" else f + p * min(n, up - 1)
            seen[y, x, y2, x2] = -reach <= right <= furthest
    return seen


@pytest.mark.parametrize("variant", CNN_VARIANTS)
@pytest.mark.parametrize(("first", "kernel", "layers"), [(3, 3, 1), (5, 3, 3), (3, 5, 3), (7, 3, 2)])
def test_the_receptive_field_is_the_documented_one(
    variant: str, first: int, kernel: int, layers: int
) -> None:
    """Every earlier pixel within it matters, and no other one does: not the pixel itself, not the future."""
    model = small(ImageShape(1, 7, 9), variant=variant, first_kernel=first, kernel=kernel, layers=layers)
    jacobian = trunk_jacobian(model)
    assert torch.equal(jacobian > 1e-12, receptive_field(model, variant, first, kernel, layers))
    assert (jacobian[jacobian <= 1e-12] == 0).all(), "exactly nothing, not just little"


def test_the_blind_spot_of_the_plain_variant_and_of_it_alone() -> None:
    """Two rows up and five to the right: outside the plain one's sight, however deep, inside the gated one's."""
    shape = ImageShape(1, 4, 13)
    for layers in (4, 6):
        seen = {
            variant: trunk_jacobian(small(shape, variant=variant, first_kernel=3, layers=layers))[3, 4]
            for variant in CNN_VARIANTS
        }
        assert seen["plain"][1, 7] == 0 and seen["gated"][1, 7] > 0
        assert seen["plain"][1, 6] > 0, "one pixel nearer it is seen"
        assert (seen["gated"][:3, :8] > 0).all()
