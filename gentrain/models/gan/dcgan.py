"""The networks of DCGAN (Radford et al., arXiv 1511.06434): strided convolutions and batch normalisation.

Weights start at N(0, 0.02), those of batch normalisation at N(1, 0.02), as documented there and in the
authors' code. Legend: B batch, C channels, H height, W width, Z latent dimensions.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

STD = 0.02
SLOPE = 0.2
KERNEL = 4  # with stride 2 and padding 1 exactly twice, or half, the size


def start(network: nn.Module) -> None:
    """The paper's initialisation of every layer."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, STD)
            nn.init.zeros_(layer.bias)


class DCGANGenerator(nn.Module):
    """z (B, Z) -> pictures (B, C, H, W) in (-1, 1), by a tanh.

    `widths`: channels before each doubling, the smallest size first; `size`: that of the first.
    """

    def __init__(self, latent_dim: int, channels: int, widths: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], size, bias=False)]
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers += [nn.ConvTranspose2d(before, after, KERNEL, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        layers += [nn.ConvTranspose2d(widths[-1], channels, KERNEL, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        start(self)

    def forward(self, z_BZ: Tensor) -> Tensor:
        return self.layers(z_BZ[:, :, None, None])


class DCGANDiscriminator(nn.Module):
    """Pictures (B, C, H, W) -> logits (B,).

    `batch_norm`: as in the paper. A penalty on the gradient at each picture has no meaning where pictures
    of a batch see each other, so the losses with one go without (as arXiv 1704.00028, section 4, says).
    """

    def __init__(self, channels: int, widths: Sequence[int], size: tuple[int, int], batch_norm: bool) -> None:
        super().__init__()
        largest_first = list(reversed(widths))
        layers: list[nn.Module] = [nn.Conv2d(channels, largest_first[0], KERNEL, stride=2, padding=1)]
        for before, after in pairwise(largest_first):
            layers += [nn.LeakyReLU(SLOPE)]
            layers += [nn.Conv2d(before, after, KERNEL, stride=2, padding=1, bias=not batch_norm)]
            layers += [nn.BatchNorm2d(after)] * batch_norm
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(widths[0], 1, size)]
        self.layers = nn.Sequential(*layers)
        start(self)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, F): what the logit is a linear function of."""
        return self.layers[:-1](x_BCHW).flatten(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW).flatten()
