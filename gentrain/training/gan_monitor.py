"""Does the training of a GAN still go well? Finds collapse, divergence and a discriminator that wins.

    diversity = mean |f(g_i) - f(g_j)| / mean |f(x_i) - f(x_j)|      over pairs i < j

g: the generator's pictures from latents that stay the same all through training; x: a batch of real ones;
f: a small convolutional network with random weights that are the same for ever. Near 1 the generator's
pictures differ as much from each other as real ones do; near 0 they are all alike: it has collapsed; and far
above 1 its values, which are not clamped here, have left the range of pictures: it has diverged.

Legend: B batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.models.gan.objective import MonitorSettings
from gentrain.runtime.collectives import broadcast_from_main
from gentrain.runtime.seeding import generator

FEATURES = (16, 32, 64)
POOLED = 4  # pixels a side, at most, that features are averaged to


class RandomFeatures(nn.Module):
    """Pictures (B, C, H, W) about in [-1, 1] -> features (B, F). From a seed of their own, never trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        noise = generator(0, "random features", channels)
        before = channels
        self.layers = nn.ModuleList()
        for after in FEATURES:
            layer = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            std = (2 / (9 * before)) ** 0.5
            layer.weight = nn.Parameter(std * torch.randn(layer.weight.shape, generator=noise), False)
            self.layers.append(layer)
            before = after

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for layer in self.layers:
            x_BCHW = F.leaky_relu(layer(x_BCHW), 0.2)
        if max(x_BCHW.shape[2:]) > POOLED:
            x_BCHW = F.adaptive_avg_pool2d(x_BCHW, POOLED)
        return x_BCHW.flatten(1)


def mean_distance(features_BF: Tensor) -> Tensor:
    """The mean Euclidean distance over all pairs, a scalar; 0 where there is no pair."""
    return F.pdist(features_BF).mean() if len(features_BF) > 1 else features_BF.new_zeros(())


class GanMonitor:
    """Counts, check by check, for how long training has been going wrong. Its state is part of a checkpoint.

    raised      what is wrong and what to try, in one line, if the step just taken found it for the
                `checks`-th time in a row (or 2 * checks, 3 * checks ...), else None
    sound_step  the last step up to which all was known to be well
    """

    def __init__(self, settings: MonitorSettings, channels: int, device: torch.device) -> None:
        self.settings = settings
        self.raised: str | None = None
        self.last_good_step = 0
        self.diversity: float | None = None
        self._features = RandomFeatures(channels).to(device)
        self._odd = self._winning = self._counted = 0
        self._right = torch.zeros((), device=device)

    def count(self, right: Tensor) -> None:
        """The share of pictures that the discriminator told rightly in a step, left on the device."""
        self.raised = None
        self._right = self._right + right
        self._counted += 1

    def due(self, step: int) -> bool:
        """Whether a check is due after `step` steps."""
        return step % self.settings.every_steps == 0

    @torch.no_grad()
    def check(self, step: int, real_BCHW: Tensor, fake_BCHW: Tensor) -> None:
        """One check after `step` steps; pictures about in [-1, 1], fakes from latents that never change."""
        settings = self.settings
        real, fake = (mean_distance(self._features(x.float())) for x in (real_BCHW, fake_BCHW))
        # Real pictures that are all the same leave nothing to collapse from. Processes must decide alike, so
        # rank 0's number counts: on their devices the same pictures may differ in the last bits.
        self.diversity = broadcast_from_main(lambda: float(fake / real) if real > 0 else 1.0)
        right = float(self._right) / max(1, self._counted)
        self._right, self._counted = torch.zeros_like(self._right), 0
        if step > settings.after_steps:
            lowest = settings.diversity
            odd = lowest is not None and not lowest <= self.diversity <= 1 / lowest
            winning = settings.d_right is not None and right >= settings.d_right
            self._odd = self._odd + 1 if odd else 0
            self._winning = self._winning + 1 if winning else 0
        if self.healthy:
            self.last_good_step = step
        self.raised = self._sentence(right)

    def _sentence(self, right: float) -> str | None:
        checks, every = self.settings.checks, self.settings.every_steps
        if self._odd and self._odd % checks == 0:
            assert self.diversity is not None
            assert self.settings.diversity is not None
            if self.diversity < 1:
                what, where = "collapsed", f"below model.alarm_diversity={self.settings.diversity:g}"
            else:
                what, where = "diverged", f"above 1 / model.alarm_diversity={1 / self.settings.diversity:g}"
            return (
                f"the generator has {what}: its pictures differ {self.diversity:.2g} times as much as real "
                f"ones, {where}, for {self._odd} checks of {every} steps; try a larger model.gamma or a "
                "lower optimizer.lr"
            )
        if self._winning and self._winning % checks == 0:
            return (
                f"the discriminator wins: it told {100 * right:.3g} % of all pictures rightly, at or above "
                f"model.alarm_d_right={self.settings.d_right:g} for {self._winning} checks of {every} steps; "
                "try a lower model.discriminator_lr, a larger model.gamma or model.augment"
            )
        return None

    @property
    def healthy(self) -> bool:
        """The last check was a good one."""
        return self._odd == self._winning == 0

    # -- for checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "odd": self._odd,
            "winning": self._winning,
            "counted": self._counted,
            "right": self._right,
            "diversity": self.diversity,
            "sound_step": self.last_good_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.raised = None
        self._odd, self._winning = state_dict["odd"], state_dict["winning"]
        self._counted = state_dict["counted"]
        self._right = state_dict["right"].to(self._right.device)
        self.diversity, self.last_good_step = state_dict["diversity"], state_dict["sound_step"]
