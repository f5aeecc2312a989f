"""Losses against their formulas in float64 numpy; penalties and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gentrain.models.gan.augment import diff_augment
from gentrain.models.gan.dcgan import DCGANDiscriminator
from gentrain.models.gan.objective import LOSSES, between, one_centred, squared_gradients, zero_centred
from gentrain.models.gan.r3 import Block, R3Discriminator
from gentrain.models.gan.resample import downsample, upsample

REAL = np.array([-3.0, -0.2, 0.5, 2.0, 40.0])
FAKE = np.array([1.0, -0.7, 0.1, -60.0, 3.0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "minimax": (
        lambda r, f: -(np.log(sigmoid(r)) + np.log(1 - sigmoid(f))).mean(),
        lambda r, f: np.log(1 - sigmoid(f)).mean(),
    ),
    "non_saturating": (
        lambda r, f: -(np.log(sigmoid(r)) + np.log(1 - sigmoid(f))).mean(),
        lambda r, f: -np.log(sigmoid(f)).mean(),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda r, f: -f.mean(),
    ),
    "wgan_gp": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "r3gan": (
        lambda r, f: -np.log(sigmoid(r - f)).mean(),
        lambda r, f: -np.log(sigmoid(f - r)).mean(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name: str) -> None:
    real, fake = torch.from_numpy(REAL), torch.from_numpy(FAKE)
    discriminator, generator = FORMULAS[name]
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(discriminator(REAL, FAKE), rel=1e-9)
    assert LOSSES[name].generator(fake, real).item() == pytest.approx(generator(REAL, FAKE), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    """Where a probability would round to 0 or 1 in float32, loss and gradient are still what they should be."""
    for size in (1e2, 1e4):
        real = torch.tensor([size, -size], requires_grad=True)
        fake = torch.tensor([-size, size], requires_grad=True)
        value = LOSSES[name].discriminator(real, fake) + LOSSES[name].generator(fake, real)
        gradients = torch.autograd.grad(value, (real, fake), allow_unused=True)
        assert value.isfinite()
        assert all(g is None or g.isfinite().all() for g in gradients)


def test_the_vanishing_gradient_of_minimax() -> None:
    """At a generator so poor that D gives its pictures the logit -10: sigmoid(-10) against 1 - sigmoid(-10)."""
    sizes = {}
    for name in ("minimax", "non_saturating", "r3gan"):
        fake = torch.full((4,), -10.0, dtype=torch.float64, requires_grad=True)
        real = torch.full((4,), 10.0, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(LOSSES[name].generator(fake, real), fake)
        sizes[name] = gradient.abs().sum().item()
    assert sizes["minimax"] == pytest.approx(1 / (1 + np.exp(10)), rel=1e-9)  # 4.5e-5
    assert sizes["non_saturating"] == pytest.approx(1 / (1 + np.exp(-10)), rel=1e-9)  # 0.99995
    assert sizes["r3gan"] == pytest.approx(1 / (1 + np.exp(-20)), rel=1e-9)


# ---- penalties


def small_r3() -> nn.Module:
    torch.manual_seed(0)
    network = R3Discriminator(2, [8, 4], (4, 4), Block(1, 2, 4), patch=2).double()
    for name, parameter in network.named_parameters():  # no zeros: every path counts
        nn.init.normal_(parameter, std=0.4 if "bias" not in name else 0.1)
    return network


def small_dcgan() -> nn.Module:
    torch.manual_seed(0)
    network = DCGANDiscriminator(2, [6, 4], (4, 4), batch_norm=False).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


DISCRIMINATORS = {"r3": small_r3, "dcgan": small_dcgan}


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_the_squared_gradient_against_finite_differences(name: str) -> None:
    """Pixel by pixel, central differences in float64."""
    network = DISCRIMINATORS[name]()
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64).requires_grad_()
    squared = squared_gradients(network(x), x)
    step, expected = 1e-6, torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for index in range(x[0].numel()):
            moved = torch.zeros_like(x).flatten(1)
            moved[:, index] = step
            moved = moved.view_as(x)
            expected += ((network(x + moved) - network(x - moved)) / (2 * step)).square()
    torch.testing.assert_close(squared.detach(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("penalty", ["zero_centred", "one_centred"])
def test_the_penaltys_gradient_against_finite_differences(name: str, penalty: str) -> None:
    """The second derivatives, by every parameter tensor, along random directions."""
    network = DISCRIMINATORS[name]()
    x = torch.randn(3, 2, 16, 16, dtype=torch.float64)

    def value() -> Tensor:
        inputs = x.clone().requires_grad_()
        squared = squared_gradients(network(inputs), inputs)
        return zero_centred(squared, 3.0) if penalty == "zero_centred" else one_centred(squared, 10.0)

    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(value(), list(parameters.values()), allow_unused=True)
    for (key, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction, step = torch.randn_like(parameter), 1e-6
        with torch.no_grad():
            parameter += step * direction
            after = value_of(value)
            parameter -= 2 * step * direction
            before = value_of(value)
            parameter += step * direction
        numeric = (after - before) / (2 * step)
        exact = 0.0 if gradient is None else (gradient * direction).sum().item()
        assert exact == pytest.approx(numeric, rel=1e-4, abs=1e-6), key
        # Biases only move where the network bends, so their part is zero almost everywhere.
        assert (abs(numeric) > 1e-4) == (parameter.ndim > 1), key


def value_of(function) -> float:  # type: ignore[no-untyped-def]
    with torch.enable_grad():
        return function().item()


def test_penalties_of_a_linear_discriminator_are_known() -> None:
    """D(x) = <a, x> + b has the gradient a everywhere: R1 = gamma/2 |a|^2, and weight (|a| - 1)^2."""
    a = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, 1, 1, dtype=torch.float64).requires_grad_()
    squared = squared_gradients((x.flatten(1) * a).sum(1) + 7, x)
    assert squared.tolist() == pytest.approx([25.0] * 5)
    r1 = zero_centred(squared, 0.4)
    assert r1.item() == pytest.approx(5.0)
    assert torch.autograd.grad(r1, a, retain_graph=True)[0].tolist() == pytest.approx([1.2, 1.6])  # gamma a
    assert one_centred(squared, 10.0).item() == pytest.approx(160.0)


def test_points_between_real_and_fake() -> None:
    torch.manual_seed(0)
    real, fake = torch.zeros(1000, 1, 2, 2), torch.ones(1000, 1, 2, 2)
    mixed = between(real, fake).flatten(1)
    assert (mixed == mixed[:, :1]).all()  # one number a picture
    quantiles = mixed[:, 0].sort().values
    assert (quantiles - torch.linspace(0, 1, 1000)).abs().max() < 0.05  # uniform (Kolmogorov, p < 0.02)


# ---- resampling and augmentation


def test_resampling_against_its_definition() -> None:
    """Loops over pixels: zeros between, [1, 2, 1] / 2; and [1, 2, 1] / 4, every other pixel."""
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64)
    taps = {-1: 0.5, 0: 1.0, 1: 0.5}
    up = torch.zeros(1, 2, 8, 12, dtype=torch.float64)
    for row in range(4):
        for column in range(6):
            for i, a in taps.items():
                for j, b in taps.items():
                    to = (2 * row + i, 2 * column + j)
                    if min(to) >= 0 and to[0] < 8 and to[1] < 12:
                        up[..., to[0], to[1]] += a * b * x[..., row, column]
    torch.testing.assert_close(upsample(x), up)
    down = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            for i, a in taps.items():
                for j, b in taps.items():
                    at = (2 * row + i, 2 * column + j)
                    if min(at) >= 0:
                        down[..., row, column] += a * b / 4 * x[..., at[0], at[1]]
    torch.testing.assert_close(downsample(x), down)
    for function in (upsample, downsample):
        assert torch.autograd.gradgradcheck(function, (x.requires_grad_(),))


@pytest.mark.parametrize("change", ["color", "translation", "cutout"])
def test_augmentation_is_differentiable_and_changes_the_share_it_should(change) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.rand(2000, 3, 8, 8) + 0.5
    changed = (diff_augment(x, [change], 0.3) != x).flatten(1).any(1).float().mean().item()
    # Of 17 x 17 (here 3 x 3) translations one is none.
    expected = 0.3 * (8 / 9 if change == "translation" else 1.0)
    assert changed == pytest.approx(expected, abs=0.04)  # 4 standard errors
    assert torch.equal(diff_augment(x, [change], 0.0), x)
    small = x[:2].double().requires_grad_()

    def fixed(pictures: Tensor) -> Tensor:
        torch.manual_seed(3)
        return diff_augment(pictures, [change], 0.8)

    assert torch.autograd.gradcheck(fixed, (small,))


def test_what_translation_and_cutout_do() -> None:
    torch.manual_seed(1)
    x = torch.arange(1, 65, dtype=torch.float32).view(1, 1, 8, 8).expand(500, 1, 8, 8)
    moved = diff_augment(x, ["translation"], 0.8)
    for picture, original in zip(moved[:, 0], x[:, 0], strict=True):
        padded = nn.functional.pad(original, (1, 1, 1, 1))
        assert any(
            torch.equal(picture, padded[row : row + 8, column : column + 8])
            for row in range(3)
            for column in range(3)
        )
    holes = (diff_augment(x, ["cutout"], 0.8) == 0)[:, 0]
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns)  # one rectangle
        assert rows.sum() <= 4
        assert columns.sum() <= 4
