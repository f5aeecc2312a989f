"""Every loss on a toy whose answer is known: 25 Gaussians on a grid, and two small fully connected players.

    python scripts/toy_gan.py [--steps 3000] [--seeds 3] [--gamma 0.003] [--lr 0.005] [losses ...]

The players are trained by gentrain's own learner, on points of the plane as pictures of 1x1 pixel with two
channels. A mode counts as covered if at least a tenth of its fair share of 10,000 samples lies within 3
standard deviations of it. "Near one" is the share of samples that lie so near to any: 0.99 of the mixture
itself, 0.28 of points spread evenly. A new generator's points all lie in the middle.

Legend: B batch, N points, M modes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gentrain.config.settings import Schedule, Train
from gentrain.images import ImageShape, to_levels, to_unit
from gentrain.models.gan.objective import LOSSES, MonitorSettings, Objective
from gentrain.runtime.device import Compute
from gentrain.runtime.seeding import seed_everything
from gentrain.training.adversarial import Adversarial
from gentrain.training.optimizers import OptimizerSettings, adam

SHAPE = ImageShape(2, 1, 1)
SPACING, STD = 0.4, 0.04
LATENT_DIM = 2
ZOOM = 5.0
TEST_STEPS = 1000
NEAR = 3.0  # standard deviations
ENOUGH = 0.1  # of a mode's fair share of samples

OBJECTIVE = Objective(
    loss=LOSSES["r3gan"],
    discriminator_steps=1,
    gamma=0.01,
    gamma_final=0.01,
    anneal_images=0,
    lr_final=0.05,
    beta2_final=None,
    discriminator_lr=None,
    discriminator_betas=None,
    augment=[],
    augment_probability=0.0,
    monitor=MonitorSettings(every_steps=10**9, after_steps=0, checks=1, diversity=None, d_right=None),
)


def modes() -> Tensor:
    """The 25 means, (M, 2), in [-0.8, 0.8]."""
    line = torch.arange(-2, 3) * SPACING
    return torch.cartesian_prod(line, line)


def mixture(count: int, noise: torch.Generator | None = None) -> Tensor:
    """Points of the 25 Gaussians as pictures, uint8 (N, 2, 1, 1)."""
    which = torch.randint(25, (count,), generator=noise)
    points = modes()[which] + STD * torch.randn(count, 2, generator=noise)
    return to_levels(points, SHAPE.levels)[:, :, None, None]


def mlp(before: int, after: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(before, width), nn.LeakyReLU(0.2),
        nn.Linear(width, width), nn.LeakyReLU(0.2),
        nn.Linear(width, width), nn.LeakyReLU(0.2),
        nn.Linear(width, after),
    )  # fmt: skip


class Scale(nn.Module):
    """So that a small network can tell what lies as near together as the modes do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class PointGame(nn.Module):
    """A Game (see gentrain/models) of two fully connected players in the plane."""

    likelihood_kind = None

    def __init__(self, objective: Objective, width: int = 64) -> None:
        super().__init__()
        self.objective = objective
        self.generator = nn.Sequential(mlp(LATENT_DIM, 2, width), Scale(1 / ZOOM), nn.Unflatten(1, (2, 1, 1)))
        self.discriminator = nn.Sequential(nn.Flatten(), Scale(ZOOM), mlp(2, 1, width), nn.Flatten(0))

    def latents(self, n: int, noise: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, LATENT_DIM, generator=noise)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        return to_levels(self.generator(self.latents(n, generator)), SHAPE.levels)


def learner(objective: Objective, lr: float, steps: int, batch_size: int, width: int = 64) -> Adversarial:
    train = Train(steps, batch_size, 1, None, 50 * batch_size, 50, 500, 500, 500, 3, 64)
    schedule = Schedule(lr, "constant", 0)
    optimizer = OptimizerSettings(schedule, lambda p: adam(p, lr, betas=(0.0, 0.99), eps=1e-8), steps)
    compute = Compute(torch.device("cpu"), None, channels_last=False, compile=False, cuda_graph=False)
    return Adversarial(PointGame(objective, width), SHAPE, optimizer, train, compute)


@dataclass(frozen=True)
class Outcome:
    covered: int
    near: float
    seconds: float


def covered(points_N: Tensor) -> tuple[int, float]:
    """How many modes are covered by points (N, 2, 1, 1), and the share of points near one."""
    distances_NM = torch.cdist(to_unit(points_N, SHAPE.levels).flatten(1), modes())
    nearest = distances_NM.min(1)
    near_N = nearest.values < NEAR * STD
    counts_M = torch.bincount(nearest.indices[near_N], minlength=25)
    return int((counts_M >= ENOUGH * len(points_N) / 25).sum()), float(near_N.float().mean())


def play(
    objective: Objective, seed: int, steps: int, batch_size: int = 256, lr: float = 5e-3, width: int = 64
) -> Outcome:
    begun = time.perf_counter()
    seed_everything(seed, "weights")
    objective = replace(objective, anneal_images=steps * batch_size)
    players = learner(objective, lr, steps, batch_size, width)
    for step in range(steps):
        seed_everything(seed, "train", step)
        players.train_step(lambda: mixture(batch_size), step)
    points = players.sample(10_000, torch.Generator().manual_seed(seed))
    return Outcome(*covered(points), time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gamma", type=float, default=OBJECTIVE.gamma)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("losses", nargs="*", choices=[*LOSSES, []], default=list(LOSSES))
    args = parser.parse_args()
    for name in args.losses:
        gamma = 10.0 if name == "wgan_gp" else args.gamma
        objective = replace(OBJECTIVE, loss=LOSSES[name], gamma=gamma, gamma_final=gamma)
        for seed in range(args.seeds):
            outcome = play(objective, seed, args.steps, lr=args.lr)
            print(
                f"{name}, seed {seed}: {outcome.covered} of 25 modes, {100 * outcome.near:.1f} % near one, "
                f"{args.steps} steps of 256 in {outcome.seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
