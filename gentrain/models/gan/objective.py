"""The losses of a GAN as functions of the logits of its discriminator (D), and the penalties on D.

Legend: B batch. `real_B` and `fake_B` are logits D(x) and D(G(z)); each function gives the mean over the
batch, a scalar, to be MINIMISED. log sigmoid(y) is written as -softplus(-y): no log of a rounded zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from gentrain.models.gan.augment import Change
from gentrain.runtime.seeding import drawn

LossName = Literal["minimax", "non_saturating", "hinge", "wgan_gp", "r3gan"]
Penalty = Literal["none", "zero_centred", "interpolated"]
Logits = Callable[[Tensor], Tensor]


# ---- the discriminator


def logistic_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(logit): arXiv 1406.2661, equation 1, negated."""
    return (softplus(-real_B) + softplus(fake_B)).mean()


def hinge_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))): arXiv 1705.02894, section 3; arXiv 1802.05957, eq. 16."""
    return (relu(1 - real_B) + relu(1 + fake_B)).mean()


def wasserstein_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """E D(G(z)) - E D(x): arXiv 1701.07875, equation 2, negated; D is to be 1-Lipschitz."""
    return (fake_B - real_B).mean()


def relativistic_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """E softplus(-(D(x) - D(G(z)))), pairs (x, z): arXiv 1807.00734, eq. 7-8; arXiv 2501.05441, section 2."""
    return softplus(fake_B - real_B).mean()


# ---- the generator


def minimax_generator(fake_B: Tensor, real_B: Tensor | None) -> Tensor:
    """E log(1 - D(G(z))), which saturates where D is sure: arXiv 1406.2661, equation 1.

    Its derivative by a logit y is -sigmoid(y): 0 where D knows the fake.
    """
    return -softplus(fake_B).mean()


def non_saturating_generator(fake_B: Tensor, real_B: Tensor | None) -> Tensor:
    """-E log D(G(z)): arXiv 1406.2661, section 3. Its derivative by a logit y is -(1 - sigmoid(y))."""
    return softplus(-fake_B).mean()


def critic_generator(fake_B: Tensor, real_B: Tensor | None) -> Tensor:
    """-E D(G(z)): of the hinge loss and of the Wasserstein distance."""
    return -fake_B.mean()


def relativistic_generator(fake_B: Tensor, real_B: Tensor | None) -> Tensor:
    """E softplus(-(D(G(z)) - D(x))): each fake should look more real than its real partner."""
    assert real_B is not None
    return softplus(real_B - fake_B).mean()


# ---- the losses by name


@dataclass(frozen=True)
class AdversarialLoss:
    """What generator and discriminator each minimise, with which penalty, and what the logits of D mean."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    penalty: Penalty = "none"
    # sigmoid(D(x)) is a probability; sigmoid(D(x) - D(G(z))) is one; or neither is.
    probability: Literal["single", "pair", "none"] = "none"
    # A logit above 0 means "real"; else only differences between logits mean something.
    has_zero: bool = True

    @property
    def relativistic(self) -> bool:
        """The generator's loss needs real pictures too."""
        return self.probability == "pair"


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator, probability="single"),
    "non_saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator, probability="single"),
    "hinge": AdversarialLoss(hinge_discriminator, critic_generator),
    "wgan_gp": AdversarialLoss(
        wasserstein_discriminator, critic_generator, penalty="interpolated", has_zero=False
    ),
    "r3gan": AdversarialLoss(
        relativistic_discriminator,
        relativistic_generator,
        penalty="zero_centred",
        probability="pair",
        has_zero=False,
    ),
}


# ---- the penalties


def squared_gradients(logits_B: Tensor, x_BCHW: Tensor) -> Tensor:
    """|dD(x)/dx|^2 of each picture, (B,): summed over pixels and channels, itself differentiable.

    `logits_B` must come from `x_BCHW`, which requires a gradient, by a D that looks at each picture alone.
    """
    (gradient_BCHW,) = torch.autograd.grad(logits_B.sum(), x_BCHW, create_graph=True)
    return gradient_BCHW.square().flatten(1).sum(1)


def zero_centred(squared_B: Tensor, gamma: float) -> Tensor:
    """gamma/2 E |dD/dx|^2: R1 on real pictures (arXiv 1801.04406, eq. 9), R2 on generated ones (eq. 10)."""
    return 0.5 * gamma * squared_B.mean()


def one_centred(squared_B: Tensor, weight: float) -> Tensor:
    """weight E (|dD/dx| - 1)^2: arXiv 1704.00028, equation 3."""
    # The root's derivative at 0 is infinite; 1e-12 keeps it finite and moves a norm of 1 by 5e-13.
    return weight * ((squared_B + 1e-12).sqrt() - 1).square().mean()


def between(real_BCHW: Tensor, fake_BCHW: Tensor) -> Tensor:
    """A point between each real and a fake picture, uniform on the line: arXiv 1704.00028, algorithm 1."""
    t_B111 = drawn(torch.rand, (len(real_BCHW), 1, 1, 1), None, real_BCHW.device)
    return torch.lerp(real_BCHW, fake_BCHW, t_B111)


@dataclass(frozen=True)
class MonitorSettings:
    """configs/model/gan.yaml, under `model.alarm_...`."""

    every_steps: int
    after_steps: int
    checks: int
    diversity: float | None
    d_right: float | None


@dataclass(frozen=True)
class Objective:
    """configs/model/gan.yaml says what each setting is."""

    loss: AdversarialLoss
    discriminator_steps: int
    gamma: float
    gamma_final: float
    anneal_images: int
    lr_final: float
    beta2_final: float | None
    discriminator_lr: float | None
    discriminator_betas: tuple[float, float] | None
    augment: Sequence[Change]
    augment_probability: float
    monitor: MonitorSettings

    def gamma_at(self, images_seen: int) -> float:
        return annealed(self.gamma, self.gamma_final, images_seen, self.anneal_images)

    def lr_share_at(self, images_seen: int) -> float:
        return annealed(1.0, self.lr_final, images_seen, self.anneal_images)

    def beta2_at(self, first: float, images_seen: int) -> float:
        """Adam's second beta, which starts at `first`."""
        final = first if self.beta2_final is None else self.beta2_final
        return annealed(first, final, images_seen, self.anneal_images)


def annealed(first: float, final: float, images_seen: int, images: int) -> float:
    """Half a cosine from `first` to `final` over `images`, then `final`; 0 images: `first` for ever.

    As the schedules of R3GAN (arXiv 2501.05441, appendix) for its gamma, learning rate and second beta.
    """
    if images == 0 or first == final:
        return first
    progress = min(1.0, images_seen / images)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))
