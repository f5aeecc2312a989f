"""PixelCNN: the exact likelihood by the chain rule, with convolutions that see only earlier pixels.

Plain: van den Oord et al., arXiv 1601.06759. Gated: arXiv 1606.05328. The logistic mixture: PixelCNN++,
arXiv 1701.05517.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from gentrain.config.ranges import AtLeast, Between
from gentrain.images import ImageShape
from gentrain.models.pixel.autoregressive import Autoregressive, Output
from gentrain.models.pixel.gated import GatedStack
from gentrain.models.pixel.masked import MaskedStack


def pixelcnn(
    shape: ImageShape,
    *,
    variant: Literal["gated", "plain"],
    output: Output,
    width: Annotated[int, AtLeast(1)],
    layers: Annotated[int, Between(1, 1000)],
    first_kernel: Literal[3, 5, 7, 9, 11],
    kernel: Literal[3, 5, 7],
    head_width: Annotated[int, AtLeast(1)],
    mixtures: Annotated[int, AtLeast(1)],
    dropout: Annotated[float, Between(0, 0.9)],
) -> Autoregressive:
    """configs/model/pixelcnn.yaml says what each setting is."""
    stack = GatedStack if variant == "gated" else MaskedStack
    return Autoregressive(
        shape,
        partial(stack, width, width, layers, first_kernel, kernel, head_width, dropout),
        width=width,
        output=output,
        head_width=head_width,
        mixtures=mixtures,
    )
