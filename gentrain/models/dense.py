"""Encoder and decoder of dense layers alone: they do not know that a picture is a picture.

Legend: B batch, C image channels, F features of a vector, P output channels, H height, W width.
"""

from torch import Tensor, nn

from gentrain.models.conv import keep_scale


def _hidden(features: int, hidden: int, layers: int, dropout: float) -> list[nn.Module]:
    made: list[nn.Module] = []
    for before in [features, *[hidden] * (layers - 1)][:layers]:
        dense = nn.Linear(before, hidden)
        keep_scale(dense, before)
        made += [dense, nn.SiLU(), nn.Dropout(dropout)]
    return made


class DenseEncoder(nn.Module):
    """Float (B, C, H, W) -> features (B, F), F = `features`; with no layers the picture's own numbers."""

    def __init__(self, dims: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *_hidden(dims, hidden, layers, dropout))
        self.features = hidden if layers else dims

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW)


class DenseDecoder(nn.Module):
    """Vectors (B, F) -> maps (B, P, H, W); with no layers a linear map."""

    def __init__(
        self, features: int, maps_PHW: tuple[int, int, int], hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        channels, height, width = maps_PHW
        self.pixels = height * width
        self.layers = nn.Sequential(*_hidden(features, hidden, layers, dropout))
        self.head = nn.Linear(hidden if layers else features, channels * self.pixels)
        self.unflatten = nn.Unflatten(1, maps_PHW)

    def start_at(self, params_P: Tensor) -> None:
        """Starts the output near params_P (P,) everywhere, with a little of its variation left."""
        nn.init.normal_(self.head.weight, std=0.1 * self.head.in_features**-0.5)
        self.head.bias.data.copy_(params_P.repeat_interleave(self.pixels))

    def forward(self, z_BF: Tensor) -> Tensor:
        return self.unflatten(self.head(self.layers(z_BF)))
