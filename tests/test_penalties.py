"""R1 and R2 against finite differences in float64: at the pictures, through what D is shown of them."""

from __future__ import annotations

import pytest
import torch
from test_gan import gan, learner
from torch import Tensor

from gentrain.training.adversarial import Adversarial

GAMMA, STEP = 2.0, 1e-6
AUGMENTS = [[], ["color"], ["translation"], ["cutout"], ["color", "translation", "cutout"]]


@pytest.fixture(params=AUGMENTS, ids="+".join)
def players(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Adversarial:
    """A GAN in float64 whose discriminator is no skeleton any more."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    made = learner(gan(augment=request.param, augment_probability=0.8))
    made.network.double()
    with torch.no_grad():
        for weights in made.gan.discriminator.parameters():
            weights += 0.1 * torch.randn_like(weights)
    return made


def pictures(count: int = 4) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(1)
    real, fake = torch.rand(2, count, 3, 8, 8, generator=noise, dtype=torch.float64) * 2 - 1
    return real, fake


def logits(players: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """What D says of augmented pictures, (2, B), with the same augmentation each time."""
    torch.manual_seed(3)
    with torch.no_grad():
        return torch.stack([players.gan.discriminator(players._augmented(x)) for x in (real, fake)])


def objective(players: Adversarial) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    return players._discriminator_loss(*pictures(), GAMMA)


def test_they_are_at_the_pictures_before_the_augmentation(players: Adversarial) -> None:
    real, fake = pictures()
    squares = torch.zeros(2, len(real), dtype=torch.float64)
    for pixel in range(real[0].numel()):  # a picture's logit depends on no other picture: all B at once
        move = torch.zeros(real[0].numel(), dtype=torch.float64)
        move[pixel] = STEP
        move = move.view(real[0].shape)
        up = logits(players, real + move, fake + move)
        squares += ((up - logits(players, real - move, fake - move)) / (2 * STEP)).square()
    r1, r2 = (GAMMA / 2 * squares.mean(1)).tolist()
    figures = objective(players)[1]
    assert figures["r1"].item() == pytest.approx(r1, rel=1e-5)
    assert figures["r2"].item() == pytest.approx(r2, rel=1e-5)


def test_the_weights_gradient_goes_through_the_augmentation(players: Adversarial) -> None:
    """The whole objective, along random directions of the weights."""
    weights = list(players.gan.discriminator.parameters())
    gradients = torch.autograd.grad(objective(players)[0], weights)
    for _ in range(3):
        directions = [torch.randn_like(value) for value in weights]
        values = []
        for step in (STEP, -STEP):
            torch._foreach_add_([w.data for w in weights], directions, alpha=step)
            values.append(objective(players)[0].item())
            torch._foreach_add_([w.data for w in weights], directions, alpha=-step)
        expected = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
        assert (values[0] - values[1]) / (2 * STEP) == pytest.approx(expected.item(), rel=1e-4)
