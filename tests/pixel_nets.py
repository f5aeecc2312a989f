"""Small PixelCNNs and PixelRNNs of every variant, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import Tensor

from gentrain.images import ImageShape
from gentrain.models.pixel.autoregressive import Autoregressive
from gentrain.models.pixel.pixelcnn import pixelcnn
from gentrain.models.pixel.pixelrnn import pixelrnn

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
SMALL = {"width": 6, "layers": 3, "first_kernel": 5, "head_width": 8, "mixtures": 3}
CNN_VARIANTS, RNN_VARIANTS = ["gated", "plain"], ["row_lstm", "diagonal_bilstm"]
VARIANTS = CNN_VARIANTS + RNN_VARIANTS
OUTPUTS = ["softmax", "logistic_mixture"]


def small(shape: ImageShape, scale: float = 0.3, variant: str = "gated", **changes: object) -> Autoregressive:
    """The defaults of a family's YAML on a small net, every weight moved: zeros hide mistakes."""
    family, name = (pixelcnn, "pixelcnn") if variant in CNN_VARIANTS else (pixelrnn, "pixelrnn")
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]
    assert settings.pop("name") == name
    torch.manual_seed(0)
    model = family(shape, **{**settings, **SMALL, "variant": variant, **changes})
    for parameter in model.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return model.eval()


def images(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, shape.levels, (count, *shape.chw), dtype=torch.uint8, generator=generator)


def nats(model: Autoregressive, x_BCHW: Tensor) -> Tensor:
    return model.evaluate(x_BCHW, None)["nats"]


def trunk_jacobian(model: Autoregressive) -> Tensor:
    """|d features(pixel) / d embedded input(pixel)|, summed, for all pairs: (H, W, H, W), in float64.

    Over a batch of inputs: a relu that is off for one of them hides what it sees.
    """
    model = model.double()
    height, width = model.shape.height, model.shape.width
    e_BEHW = torch.randn(8, model.embedding.embedding_dim, height, width, dtype=torch.float64)

    def features(e: Tensor) -> Tensor:
        return model.trunk(e).abs().sum((0, 1))

    jacobian = torch.autograd.functional.jacobian(features, e_BEHW)
    return jacobian.abs().sum((2, 3))
