"""Feature extractors: what turns pictures into vectors, in which sets of pictures are compared.

`domain` is small, ships with gentrain, and gives the same figures everywhere. `inception` is the network of
"FID" (Heusel et al. 2017, arXiv 1706.08500): only figures in its features may be called that.

Legend: B batch, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gentrain.config import registry
from gentrain.images import to_picture
from gentrain.metrics import domain
from gentrain.metrics.inception import load_inception

CHUNK = {"domain": 128, "inception": 16}  # pictures at a time, always: see _in_chunks


class Extractor(Protocol):
    """What a figure in features needs to know, and the features."""

    name: str
    label: str  # name@hash, the first 8 hex digits of the weights' sha256: belongs into a figure's name
    dims: int  # D

    def features(self, x_BCHW: Tensor, levels: int) -> Tensor:
        """uint8 levels (B, C, H, W), C 1 or 3, of any size -> float32 (B, D) on the extractor's device.

        Without gradients or autocast. A picture's features do not depend on the others in the batch.
        """


class Domain:
    """The weights that ship with gentrain: see metrics/domain.py."""

    name = "domain"
    dims = domain.DIMS

    def __init__(self, device: torch.device) -> None:
        self.label = f"{self.name}@{domain.SHA256[:8]}"
        self._device = device
        self._net = domain.load_domain_net().to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(self, x_BCHW: Tensor, levels: int) -> Tensor:
        return _in_chunks(self._chunk, to_picture(x_BCHW, levels), CHUNK[self.name], self.dims, self._device)

    def _chunk(self, bytes_BCHW: Tensor) -> Tensor:
        return self._net(domain.resized(bytes_BCHW).contiguous(memory_format=torch.channels_last))


class Inception:
    """Inception v3 with the weights of the original FID, through torch-fidelity: see metrics/inception.py."""

    name = "inception"
    dims = 2048

    def __init__(self, device: torch.device) -> None:
        self._net, digest = load_inception()
        self._net.to(device)
        self._device = device
        self.label = f"{self.name}@{digest[:8]}"

    @torch.no_grad()
    def features(self, x_BCHW: Tensor, levels: int) -> Tensor:
        return _in_chunks(self._chunk, to_picture(x_BCHW, levels), CHUNK[self.name], self.dims, self._device)

    def _chunk(self, bytes_BCHW: Tensor) -> Tensor:
        return self._net(bytes_BCHW.expand(-1, 3, -1, -1).contiguous())[0]


EXTRACTORS: dict[str, type[Domain | Inception]] = {"domain": Domain, "inception": Inception}


def make_extractor(name: str, device: torch.device) -> Extractor:
    """By its name. UserError if there is none, or if its library or its weights are missing or damaged."""
    return registry.look_up(EXTRACTORS, "extractor", name)(device)


def _in_chunks(
    net: Callable[[Tensor], Tensor], bytes_BCHW: Tensor, chunk: int, dims: int, device: torch.device
) -> Tensor:
    """float32 (B, D), `chunk` pictures at a time, the last chunk filled up with black ones.

    The size of a batch decides which kernels multiply, and so the last bits of the features.
    """
    parts = [torch.empty(0, dims, device=device)]
    with torch.autocast(device.type, enabled=False):
        for part in bytes_BCHW.split(chunk):
            filled = F.pad(part.to(device), (0, 0, 0, 0, 0, 0, 0, chunk - len(part)))
            parts.append(net(filled)[: len(part)].float())
    return torch.cat(parts)
