"""Learner and losses on games whose answer is known: scripts/toy_gan.py, at budgets of seconds."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from gentrain.images import to_levels
from gentrain.models.gan.objective import LOSSES
from gentrain.runtime.seeding import seed_everything


def load_toy() -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "toy_gan.py"
    spec = importlib.util.spec_from_file_location("toy_gan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_gan"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


toy = load_toy()


def test_the_toy_knows_its_own_modes() -> None:
    """The mixture itself covers all modes; its mean leaves none."""
    points = toy.mixture(10_000, torch.Generator().manual_seed(0))
    covered, near = toy.covered(points)
    assert covered == 25
    assert near == pytest.approx(1 - math.exp(-4.5), abs=0.005)  # P(a Rayleigh number < 3)
    assert toy.covered(to_levels(toy.modes()[7:8].expand(100, 2), 256)[:, :, None, None]) == (1, 1.0)


def test_r3gan_covers_all_25_gaussians() -> None:
    """From a generator that knows at most a few, in a small budget: docs/gan.md has what a longer run reaches."""
    assert toy.play(toy.OBJECTIVE, seed=0, steps=1).covered <= 4
    outcome = toy.play(toy.OBJECTIVE, seed=0, steps=toy.TEST_STEPS)
    assert outcome.covered == 25
    assert outcome.near > 0.4  # points spread evenly would have 0.28


@pytest.mark.parametrize("loss", ["non_saturating", "minimax"])
def test_a_trained_discriminator_is_the_ratio_of_densities(loss: str) -> None:
    """Proposition 1 of arXiv 1406.2661: for a fixed G, D(x) = p_data(x) / (p_data(x) + p_G(x)).

    Both are Gaussians with closed densities, one off the other and narrower.
    """
    data, fake = Normal(0.1, 0.25), Normal(-0.1, 0.18)
    seed_everything(0, "weights")
    objective = replace(toy.OBJECTIVE, loss=LOSSES[loss])
    players = toy.learner(objective, lr=2e-3, steps=600, batch_size=512, width=64)

    class Fixed(nn.Module):
        def forward(self, z_BZ: Tensor) -> Tensor:
            return (fake.mean + fake.stddev * z_BZ)[:, :, None, None]

    players.gan.generator = Fixed()
    for step in range(600):
        seed_everything(0, "train", step)
        for group in players.optimizers["discriminator"].param_groups:
            group["lr"] = 2e-3 * (1 - step / 600)
        players._discriminator_step(data.sample((512, 2, 1, 1)), 0.0)
    x = torch.cartesian_prod(*[torch.linspace(-0.5, 0.6, 12)] * 2)[:, :, None, None]
    p_data, p_fake = (d.log_prob(x).flatten(1).sum(1).exp() for d in (data, fake))
    seen = p_data + p_fake > 0.02 * (p_data + p_fake).max()  # where there is something to learn from
    with torch.no_grad():
        learned = players.gan.discriminator(x).sigmoid()
    error = (learned - p_data / (p_data + p_fake)).abs()[seen]
    assert seen.sum() > 60
    assert error.mean() < 0.03
    assert error.max() < 0.15


def test_minimax_tells_a_poor_generator_nothing() -> None:
    """The sizes of the generator's gradients where D has learned to tell its pictures with near certainty."""
    norms = {}
    for loss in ("minimax", "non_saturating"):
        seed_everything(0, "weights")
        players = toy.learner(
            replace(toy.OBJECTIVE, loss=LOSSES[loss]), lr=1e-3, steps=300, batch_size=128, width=64
        )
        with torch.no_grad():
            players.gan.generator[0][-1].bias.fill_(3.0 * toy.ZOOM)  # far outside of the data
        for step in range(200):
            seed_everything(0, "train", step)
            figures = players._discriminator_step(toy.to_unit(toy.mixture(128), 256), 0.0)
        assert figures["d_fake"] < 1e-3
        norms[loss] = players._generator_step(toy.to_unit(toy.mixture(128), 256))["g_grad_norm"].item()
    assert norms["minimax"] < 2e-3 * norms["non_saturating"]
