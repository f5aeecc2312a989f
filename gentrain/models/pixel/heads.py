"""From features of the pixels before to the probabilities of one pixel's channels, each given those before.

Legend: B batch, C channels, H height, W width, S features, P numbers that a head predicts, V levels. `...` is
any number of leading dimensions: a batch (B,) while pictures are drawn, all pixels (B, H, W) in training.

    p(pixel | pixels before) = p(R | before) p(G | R, before) p(B | R, G, before)
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentrain.models.likelihoods import LogisticMixture

# Cosines that a softmax's weights share over the levels: the shortest wave is 2 * V / WAVES levels long.
WAVES = 64


class PixelHead(Protocol):
    """An nn.Module. Autoregressive networks over pixels share it, whatever their trunk."""

    params: int
    """P: numbers a pixel, which do not depend on that pixel."""

    def __call__(self, features: Tensor) -> Tensor:
        """(..., S) -> (..., P)."""

    def prepare(self) -> list[Tensor]:
        """What `level_logits` needs and no pixel changes: made once, not at each of them."""

    def level_logits(self, prepared: list[Tensor], params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        """(..., P) and the levels (..., >= channel) of the channels before -> (..., V): log-probabilities of
        the channel's levels, up to a constant."""

    def nats(self, x_BCHW: Tensor, params_BHWP: Tensor) -> Tensor:
        """-log p(x) in nats, (B,)."""


def fourier_table(levels: int, features: int) -> Tensor:
    """A start for embedded levels, (V, features): waves over [-1, 1], so that near levels are alike.

    Wave lengths run from twice the whole range down to about two levels.
    """
    unit_V1 = torch.linspace(-1, 1, levels)[:, None]
    highest = math.log(max(2.0, levels / 2))
    frequencies_F = torch.exp(torch.rand(features) * highest) * (math.pi / 2)
    return torch.cos(unit_V1 * frequencies_F + 2 * math.pi * torch.rand(features))


class LevelWeights(nn.Module):
    """Weights from a hidden layer to the logits of all levels, (V, S): free ones, plus smooth ones.

    W = free + waves M, with cosines of the level as waves: levels are numbers, and what is learned of one
    should hold for its neighbours, which a softmax over 256 classes must find out 256 times. All 0 at first.
    """

    def __init__(self, features: int, levels: int) -> None:
        super().__init__()
        angle_V1 = torch.linspace(0, math.pi, levels)[:, None]
        self.waves_VK: Tensor
        waves_VK = 0.5 * torch.cos(angle_V1 * torch.arange(min(levels, WAVES)))
        self.register_buffer("waves_VK", waves_VK, persistent=False)
        self.free_VS = nn.Parameter(torch.zeros(levels, features))
        self.smooth_KS = nn.Parameter(torch.zeros(waves_VK.shape[1], features))

    def forward(self) -> Tensor:
        return self.free_VS + self.waves_VK @ self.smooth_KS


class SoftmaxHead(nn.Module):
    """Any distribution over the levels: a hidden layer a channel that sees the pixel's earlier channels.

    logits_c = W_c relu(A_c s + sum over j < c of E_cj[x_j]) + b_c. At first all levels are equally likely.
    """

    def __init__(self, features: int, channels: int, levels: int) -> None:
        super().__init__()
        self.features, self.channels, self.levels = features, channels, levels
        self.params = channels * features
        self.hidden = nn.Linear(features, self.params)
        self.outputs = nn.ModuleList(LevelWeights(features, levels) for _ in range(channels))
        self.bias_CV = nn.Parameter(torch.zeros(channels, levels))
        # One table a pair (c, j): which channel is predicted, and which earlier one is seen.
        pairs = channels * (channels - 1) // 2
        self.earlier = nn.ModuleList(nn.Embedding(levels, features) for _ in range(pairs))
        for table in self.earlier.parameters():
            table.data.copy_(0.5 * fourier_table(levels, features))

    def forward(self, features: Tensor) -> Tensor:
        return self.hidden(F.relu(features))

    def prepare(self) -> list[Tensor]:
        return [output() for output in self.outputs]

    def level_logits(self, prepared: list[Tensor], params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        hidden = params[..., channel * self.features : (channel + 1) * self.features]
        for j in range(channel):
            hidden = hidden + self.earlier[channel * (channel - 1) // 2 + j](earlier[..., j])
        return F.linear(F.relu(hidden), prepared[channel], self.bias_CV[channel])

    def nats(self, x_BCHW: Tensor, params_BHWP: Tensor) -> Tensor:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1).long()
        nats_B, prepared = params_BHWP.new_zeros(len(x_BCHW), dtype=torch.float32), self.prepare()
        for channel in range(self.channels):
            logits = self.level_logits(prepared, params_BHWP, channel, x_BHWC).flatten(0, 2)
            wanted = x_BHWC[..., channel].flatten()
            wide = torch.promote_types(logits.dtype, torch.float32)
            nats = F.cross_entropy(logits.to(wide), wanted, reduction="none")
            nats_B = nats_B + nats.unflatten(0, x_BHWC.shape[:3]).sum((1, 2))
        return nats_B


class MixtureHead(nn.Module):
    """PixelCNN++'s discretized mixture of logistics: later channels' means move with the earlier channels."""

    def __init__(self, features: int, channels: int, levels: int, mixtures: int) -> None:
        super().__init__()
        self.mixture = LogisticMixture(channels, levels, mixtures)
        self.params = self.mixture.param_channels
        self.hidden = nn.Linear(features, features)
        self.output = nn.Linear(features, self.params)
        nn.init.normal_(self.output.weight, std=0.1 * features**-0.5)
        self.output.bias.data.copy_(self.mixture.initial_params())

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(F.relu(features)))
        # Means in bfloat16 would be off by half a level.
        with torch.autocast(features.device.type, enabled=False):
            return self.output(hidden.to(self.output.weight.dtype))

    def prepare(self) -> list[Tensor]:
        return []

    def level_logits(self, prepared: list[Tensor], params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        flat = self.mixture.level_log_mass(
            params.reshape(-1, self.params), channel, earlier.reshape(-1, earlier.shape[-1])
        )
        return flat.view(*params.shape[:-1], -1)

    def nats(self, x_BCHW: Tensor, params_BHWP: Tensor) -> Tensor:
        # The likelihood works map by map: channels-last maps would be strided.
        return self.mixture.nll(x_BCHW, params_BHWP.permute(0, 3, 1, 2).contiguous())
