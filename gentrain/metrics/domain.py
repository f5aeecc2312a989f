"""The network of the `domain` extractor: 64 numbers a picture, from weights that ship with gentrain.

It is trained by scripts/train_extractor.py; docs/extractors.md says on what, and what it can see.

Legend: B batch, C channels, H height, W width, D features.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentrain.errors import UserError

SIDE = 32  # pixels; every picture is resized to SIDE x SIDE
DIMS = 64
WEIGHTS = "domain.safetensors"
SHA256 = "c9293f651c617d9876670f6b1daa31bf01be534ff3b0803b29e34f1e545a48d7"  # of WEIGHTS; in figures' names


class DomainNet(nn.Module):
    """Five convolutions, 3x32x32 -> 112x4x4. The features are linear in averages over the whole picture,
    which see texture, and in a narrow 4x4 map, which sees what lies where.

    Training puts a batch norm behind each convolution (scripts/train_extractor.py) and folds it in later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 32, 4, stride=2, padding=1),  # 16x16
                nn.Conv2d(32, 32, 3, padding=1),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),  # 8x8
                nn.Conv2d(64, 96, 3, padding=1),
                nn.Conv2d(96, 112, 3, stride=2, padding=1),  # 4x4
            ]
        )
        self.where = nn.Conv2d(112, 24, 1)
        self.out = nn.Linear(32 + 96 + 112 + 24 * 4 * 4, DIMS)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Floats in [-1, 1], (B, 3, 32, 32) -> (B, D)."""
        maps = [x_B3HW]
        for conv in self.convs:
            maps.append(F.relu(conv(maps[-1])))
        averages = [maps[k].mean((2, 3)) for k in (2, 4, 5)]
        return self.out(torch.cat([*averages, F.relu(self.where(maps[-1])).flatten(1)], 1))


def resized(bytes_BCHW: Tensor) -> Tensor:
    """Bytes of pictures of any size, grey or RGB -> floats in [-1, 1], (B, 3, 32, 32), without rounding."""
    x_BCHW = bytes_BCHW.to(torch.float32)
    if x_BCHW.shape[-2:] != (SIDE, SIDE):
        x_BCHW = F.interpolate(x_BCHW, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x_BCHW.div(127.5).sub(1).expand(-1, 3, -1, -1)


def load_domain_net() -> DomainNet:
    """The network with the shipped weights, in eval mode; UserError unless they are these weights."""
    file = files("gentrain.metrics") / WEIGHTS
    advice = "install gentrain again"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {advice}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(f"{file} is damaged: its sha256 begins with {found[:8]}, not {SHA256[:8]}; {advice}")
    net = DomainNet()
    net.load_state_dict(safetensors.torch.load(content))
    return net.eval().requires_grad_(False)
