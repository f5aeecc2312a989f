"""The exact likelihood by the chain rule over pixels: what PixelCNN and PixelRNN share.

Legend: B batch, n images, C channels, H height, W width, E features of an embedded pixel, S features of the
trunk, P numbers of the head a pixel, V levels.

    log p(x) = sum over pixels i in reading order, over channels c of log p(x_ic | x_<i, x_i,<c)

A trunk is causal over pixels; the head (models/pixel/heads.py) goes through the channels of one pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from gentrain.images import ImageShape, bits_per_dim
from gentrain.models.pixel.heads import MixtureHead, SoftmaxHead, fourier_table
from gentrain.models.pixel.sampler import Draw, Progress, draw_pictures, known_pixels
from gentrain.runtime.seeding import Random

Output = Literal["softmax", "logistic_mixture"]

# Images evaluated at once: bounds the memory of their logits (3 x 256 a pixel), whatever the batch is.
EVALUATED_AT_ONCE = 32
FEATURE_GRID = 4  # parts of a picture's side over which activations are averaged as features


class Cache(Protocol):
    """What a trunk keeps of a batch of pictures while they are drawn: `row`, then `pixel` for each column."""

    def row(self, above_BWE: Tensor | None) -> None:
        """Begin a row, given the embedded one above; None for the first one."""

    def pixel(self, column: int, left_BE: Tensor | None) -> Tensor:
        """Features (B, S) of the pixel at a column, given the embedded pixel to its left, if any."""


class Trunk(Protocol):
    """An nn.Module: embedded pixels -> features that see only pixels before their own."""

    def __call__(self, e_BEHW: Tensor) -> Tensor:
        """(B, S, H, W)."""

    def begin(self, batch: int, width: int, dtype: torch.dtype) -> Cache:
        """A cache for a batch of pictures of which nothing is drawn yet."""

    def floats_per_image(self, width: int) -> int:
        """About how many numbers a cache holds for each picture that is drawn."""


@dataclass
class DrawingState:
    """A batch of pictures in the making: the trunk's buffers, and where we are."""

    trunk: Cache
    head: list[Tensor]  # what the head has prepared
    row_1: Tensor  # the number of the row in work, on the device: a recorded row must find it there
    position_WE: Tensor  # what the positions of the row in work add to its embedded pixels


class Autoregressive(nn.Module):
    """Embedded pixels, a causal trunk, a head. Images are uint8 levels (B, C, H, W).

    `width` is E, `head_width` S; `mixtures` counts for the logistic mixture alone. `make_trunk` is called
    once the embedding is there, so that initial weights are always drawn in the order of the data's path.
    """

    likelihood_kind = "exact"
    same_each_step = True
    recordable = True

    def __init__(
        self,
        shape: ImageShape,
        make_trunk: Callable[[], nn.Module],
        *,
        width: int,
        output: Output,
        head_width: int,
        mixtures: int,
    ) -> None:
        super().__init__()
        self.shape = shape
        # Level v of channel c is row c*V + v. All channels of a pixel are added up.
        self.embedding = nn.Embedding(shape.channels * shape.levels, width)
        self.offsets_C: Tensor
        offsets_C = torch.arange(shape.channels) * shape.levels
        self.register_buffer("offsets_C", offsets_C, persistent=False)
        tables = [fourier_table(shape.levels, width) for _ in range(shape.channels)]
        self.embedding.weight.data.copy_(torch.cat(tables) * shape.channels**-0.5)
        # A trunk need not know where in the picture it is; pictures often do.
        self.row_position_HE = nn.Parameter(0.1 * torch.randn(shape.height, width))
        self.column_position_WE = nn.Parameter(0.1 * torch.randn(shape.width, width))
        self.trunk = make_trunk()
        self.head: SoftmaxHead | MixtureHead
        if output == "softmax":
            self.head = SoftmaxHead(head_width, shape.channels, shape.levels)
        else:
            self.head = MixtureHead(head_width, shape.channels, shape.levels, mixtures)

    # -- the full pass

    def embed(self, x: Tensor) -> Tensor:
        """Levels (..., C) -> features (..., E)."""
        if self.shape.channels == 1:
            return self.embedding(x[..., 0].long())
        return self.embedding(x.long() + self.offsets_C).sum(-2)

    def activations(self, x_BCHW: Tensor) -> Tensor:
        """What the trunk makes of the pixels before each pixel: (B, S, H, W)."""
        height, width = x_BCHW.shape[2:]
        position_HWE = self.row_position_HE[:height, None] + self.column_position_WE[:width]
        e_BHWE = self.embed(x_BCHW.permute(0, 2, 3, 1)) + position_HWE
        return self.trunk(e_BHWE.permute(0, 3, 1, 2))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The trunk's activations, averaged over each of the FEATURE_GRID^2 parts of the picture: (B, F)."""
        return adaptive_avg_pool2d(self.activations(x_BCHW), FEATURE_GRID).flatten(1)

    def params(self, x_BCHW: Tensor) -> Tensor:
        """All pixels' predictions at once, each from the pixels before it: (B, H, W, P)."""
        return self.head(self.activations(x_BCHW).permute(0, 2, 3, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """-log p(x), nats (B,)."""
        return self.head.nats(x_BCHW, self.params(x_BCHW))

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Bits per dimension, a scalar, which is also the metric."""
        bits = bits_per_dim(self(x_BCHW).mean(), self.shape)
        return bits, {"bits_per_dim": bits.detach()}

    @torch.no_grad()
    def evaluate(self, x_BCHW: Tensor, generator: Random | None) -> dict[str, Tensor]:
        """`nats`: -log p(x) exactly, (B,). Needs no noise."""
        return {"nats": torch.cat([self(part) for part in x_BCHW.split(EVALUATED_AT_ONCE)])}

    # -- pixel after pixel: what gentrain.models.pixel.sampler.PixelByPixel asks for

    def begin(self, batch: int, height: int, width: int) -> DrawingState:
        weight = self.embedding.weight
        # bfloat16 is no exact sampler on a CPU, and no faster one at these sizes.
        fast = weight.is_cuda and torch.is_autocast_enabled("cuda")
        dtype = torch.get_autocast_dtype("cuda") if fast else weight.dtype
        row_1 = torch.zeros(1, dtype=torch.int64, device=weight.device)
        position_WE = torch.zeros_like(self.column_position_WE)
        with torch.autocast(weight.device.type, enabled=False):
            return DrawingState(
                cast(Trunk, self.trunk).begin(batch, width, dtype), self.head.prepare(), row_1, position_WE
            )

    def row(self, state: DrawingState, above_WBC: Tensor | None) -> None:
        above_BWE = None
        if above_WBC is not None:
            above_BWE = self.embed(above_WBC.transpose(0, 1)) + state.position_WE
        state.trunk.row(above_BWE)
        here_1E = self.row_position_HE.index_select(0, state.row_1)
        torch.add(here_1E, self.column_position_WE, out=state.position_WE)
        state.row_1 += 1

    def pixel(self, state: DrawingState, column: int, left_BC: Tensor | None) -> Tensor:
        left_BE = None
        if left_BC is not None:
            left_BE = self.embed(left_BC) + state.position_WE[column - 1]
        features_BS = state.trunk.pixel(column, left_BE)
        return self.head(features_BS.to(self.embedding.weight.dtype))

    def level_logits(self, state: DrawingState, params: Tensor, channel: int, earlier: Tensor) -> Tensor:
        return self.head.level_logits(state.head, params, channel, earlier)

    def bytes_per_image(self, height: int, width: int) -> int:
        return 4 * cast(Trunk, self.trunk).floats_per_image(width)

    # -- pictures

    def sample(self, n: int, generator: Random) -> Tensor:
        """uint8 (n, C, H, W), drawn from the model's own probabilities."""
        return self.draw(n, generator, Draw())

    def draw(
        self, n: int, generator: Random, draw: Draw, progress: Progress = lambda done, total: None
    ) -> Tensor:
        """uint8 (n, C, H, W); `progress` is called with rows drawn and rows in all."""
        return draw_pictures(self, n, generator, self.embedding.weight.device, draw, progress=progress)

    def complete(
        self, x_BCHW: Tensor, known_11HW: Tensor, generator: Random, draw: Draw | None = None
    ) -> Tensor:
        """uint8 (B, C, H, W), equal to x where known; the rest is drawn, each pixel given all before it."""
        known_HW = known_pixels(known_11HW, self.shape)
        device = self.embedding.weight.device
        return draw_pictures(self, len(x_BCHW), generator, device, draw, x_BCHW, known_HW)
