"""How a game is played: what the learner of two players needs to know beside their networks.

All schedules are functions of the images seen, so that they do not depend on the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gentrain.models.gan.augment import Change
from gentrain.models.gan.objective import AdversarialLoss
from gentrain.training.gan_monitor import WatchSettings


@dataclass(frozen=True)
class Rules:
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
    watch: WatchSettings

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
