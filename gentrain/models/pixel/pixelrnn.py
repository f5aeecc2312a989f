"""PixelRNN: the exact likelihood by the chain rule, with LSTMs over rows or diagonals of pixels.

van den Oord et al., arXiv 1601.06759: Row LSTM (section 3.1), Diagonal BiLSTM (3.2), residual connections
(3.3). The logistic mixture: PixelCNN++, arXiv 1701.05517.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from gentrain.config.ranges import AtLeast, Between
from gentrain.images import ImageShape
from gentrain.models.pixel.autoregressive import Autoregressive, Output
from gentrain.models.pixel.recurrent import RecurrentStack, Variant


def pixelrnn(
    shape: ImageShape,
    *,
    variant: Variant,
    output: Output,
    width: Annotated[int, AtLeast(1)],
    layers: Annotated[int, Between(1, 1000)],
    first_kernel: Literal[3, 5, 7, 9, 11],
    head_width: Annotated[int, AtLeast(1)],
    mixtures: Annotated[int, AtLeast(1)],
    dropout: Annotated[float, Between(0, 0.9)],
) -> Autoregressive:
    """configs/model/pixelrnn.yaml says what each setting is."""
    return Autoregressive(
        shape,
        partial(RecurrentStack, variant, width, width, layers, first_kernel, head_width, dropout),
        width=width,
        output=output,
        head_width=head_width,
        mixtures=mixtures,
    )
