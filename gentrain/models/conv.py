"""Convolutional residual encoder and decoder for pictures of any size.

Legend: B batch, C image channels, F features of a vector, P output channels, H height, W width.

Each level halves the picture, rounding up, until its longer side is at most SMALLEST pixels; the decoder
goes through the same recorded sizes backwards, cutting off the odd row or column. No layer looks at the
batch, so an image's output does not depend on its neighbours.
"""

from itertools import pairwise

from torch import Tensor, nn

from gentrain.errors import UserError
from gentrain.images import ImageShape

SMALLEST = 5
HEAD_WIDENING = 4


def check_size(family: str, shape: ImageShape) -> None:
    """Raise UserError for pictures that the networks here are not made for."""
    if not (8 <= shape.height <= 128 and 8 <= shape.width <= 128):
        raise UserError(
            f"model={family} takes pictures of 8 to 128 pixels a side, but these are {shape.height}x"
            f"{shape.width}: set data.size within 8..128."
        )


def pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes (H, W) from the picture down to the smallest level: 28 -> 28, 14, 7, 4."""
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def level_widths(levels: int, width: int) -> list[int]:
    """Channels of each level: doubled with each halving, up to four times the first level's."""
    return [min(width * 2**level, width * 4) for level in range(levels)]


def keep_scale(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, inputs: int) -> None:
    """Weights that keep the scale of activations, `inputs` of which enter each sum (He et al. 1502.01852).

    PyTorch's default shrinks them at each layer, so that z would hardly reach the picture at first.
    """
    nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """x + f(x), f two 3x3 convolutions. f starts at 0: a deep stack starts as the identity, and trains
    without normalisation."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        first, last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        keep_scale(first, 9 * width)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.f = nn.Sequential(nn.SiLU(), first, nn.SiLU(), nn.Dropout(dropout), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Encoder(nn.Module):
    """Float (B, C, H, W) -> features (B, F), F = `features`."""

    def __init__(
        self, channels: int, height: int, width_px: int, width: int, blocks: int, hidden: int, dropout: float
    ):
        super().__init__()
        sizes = pyramid(height, width_px)[1:]
        layers: list[nn.Module] = []
        before = channels
        for level, after in enumerate(level_widths(len(sizes), width)):
            if level > 0:
                layers.append(nn.SiLU())
            # Stride 2, kernel 3, padding 1: ceil(n / 2) pixels, for odd n too.
            down = nn.Conv2d(before, after, 3, stride=2, padding=1)
            keep_scale(down, 9 * before)
            layers.append(down)
            layers += [ResidualBlock(after, dropout) for _ in range(blocks)]
            before = after
        dense = nn.Linear(before * sizes[-1][0] * sizes[-1][1], hidden)
        keep_scale(dense, dense.in_features)
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Flatten(), dense, nn.SiLU())
        self.features = hidden

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW)


class Upsample(nn.Module):
    """Twice the size: each pixel becomes four by a linear map of its own, cut to `size`."""

    def __init__(self, before: int, after: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.spread = nn.ConvTranspose2d(before, after, 2, stride=2)
        keep_scale(self.spread, before)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        return self.spread(x)[:, :, :height, :width]


class Decoder(nn.Module):
    """Vectors (B, F) -> maps (B, P, H, W), the picture's size whatever it is."""

    def __init__(
        self,
        features: int,
        out_channels: int,
        height: int,
        width_px: int,
        width: int,
        blocks: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = pyramid(height, width_px)
        widths = level_widths(len(sizes) - 1, width)
        smallest = (widths[-1], *sizes[-1])
        # Dense layers first: a face is decided upon as a whole, before any of its pixels.
        layers: list[nn.Module] = []
        for before, after in pairwise((features, hidden, hidden, smallest[0] * smallest[1] * smallest[2])):
            dense = nn.Linear(before, after)
            keep_scale(dense, before)
            layers += [dense, nn.SiLU()]
        layers[-1] = nn.Unflatten(1, smallest)
        for level in range(len(widths) - 1, -1, -1):
            layers += [ResidualBlock(widths[level], dropout) for _ in range(blocks)]
            if level > 0:
                layers += [nn.SiLU(), Upsample(widths[level], widths[level - 1], sizes[level])]
        # A feature pixel becomes 2x2 pixels of P numbers, more than it has channels: widen it first.
        wide = HEAD_WIDENING * widths[0]
        widen = nn.Conv2d(widths[0], wide, 3, padding=1)
        keep_scale(widen, 9 * widths[0])
        self.layers = nn.Sequential(*layers, nn.SiLU(), widen, nn.SiLU())
        self.head = Upsample(wide, out_channels, sizes[0])

    def start_at(self, params_P: Tensor) -> None:
        """Starts the output near params_P (P,) everywhere, with a little of its variation left."""
        spread = self.head.spread
        nn.init.normal_(spread.weight, std=0.1 * spread.in_channels**-0.5)
        if spread.bias is not None:
            spread.bias.data.copy_(params_P)

    def forward(self, z_BF: Tensor) -> Tensor:
        return self.head(self.layers(z_BF))
