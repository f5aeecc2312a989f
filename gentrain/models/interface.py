"""What a family's network owes, and what it may offer besides.

Legend: B batch, n images, C channels, H height, W width, D numbers in a code,
F features. Images are uint8 levels.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from gentrain.models.gan.objective import Objective
from gentrain.models.pixel.sampler import Draw, Progress
from gentrain.runtime.seeding import Random


@runtime_checkable
class Generative(Protocol):
    """An nn.Module that learns by minimising one loss; constructed from an ImageShape and its settings."""

    # What "nats" below is: -log p(x) exactly, an upper bound on it, or not there at all.
    likelihood_kind: Literal["exact", "bound"] | None

    def train_loss(self, x_BCHW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and detached figures to log, means over the batch.

        Noise by `runtime.seeding.drawn`, with generator None: several processes then draw what one would.
        """

    def evaluate(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        """Figures of each image, (B,); "nats" among them if there is a likelihood.

        Noise by `runtime.seeding.drawn` here too, a row an image: then no figure depends on the batch.
        """

    def sample(self, n: int, generator: Random) -> Tensor:
        """uint8 (n, C, H, W)."""


@runtime_checkable
class LossOfBatchMeans(Protocol):
    """`train_loss` is a function of means over the whole batch, which a part of it cannot know."""

    def batch_means(self, x_BCHW: Tensor) -> Tensor | None:
        """Those means, over the pictures given; None if with these settings the loss is a plain mean."""

    def train_loss(
        self, x_BCHW: Tensor, step: int, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As Generative's; `whole`: the means over all parts, where `x_BCHW` is but one of them."""


class AdversarialModel(Protocol):
    """A generator and a discriminator that learn against each other; constructed as a Generative is."""

    likelihood_kind: None
    generator: nn.Module  # latents (n, Z) -> pictures (n, C, H, W), floats about in [-1, 1]
    discriminator: nn.Module  # such pictures -> logits (n,)
    objective: Objective

    def latents(self, n: int, noise: Random | None = None) -> Tensor:
        """(n, Z), from the generator given or, by `seeding.drawn`, for a step of training."""

    def evaluate(self, x_BCHW: Tensor, generator: Random) -> dict[str, Tensor]:
        """Figures of each image, (B,)."""

    def sample(self, n: int, generator: Random) -> Tensor:
        """uint8 (n, C, H, W)."""

    def interpolate(self, rows: int, columns: int, generator: Random) -> Tensor:
        """uint8 (rows * columns, C, H, W): each row goes from one latent to another."""


@runtime_checkable
class SameEachStep(Protocol):
    """`train_loss` is the same operations at every step and never waits for the device: recordable."""

    same_each_step: bool


@runtime_checkable
class Reconstructs(Protocol):
    def reconstruct(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, C, H, W)."""


@runtime_checkable
class Encodes(Protocol):
    def encode(self, x_BCHW: Tensor) -> Tensor:
        """Codes, float32 (B, D)."""


@runtime_checkable
class Decodes(Protocol):
    latent_dim: int  # D

    def decode(self, z_BD: Tensor) -> Tensor:
        """The pictures of codes, uint8 (B, C, H, W)."""


@runtime_checkable
class DrawsCodes(Protocol):
    """Samples are decoded from codes that are drawn first."""

    def draw_codes(self, n: int, generator: Random) -> Tensor:
        """Codes as `sample` draws them, float32 (n, D)."""


@runtime_checkable
class HasPosterior(Protocol):
    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code of a picture, a Gaussian, (B, D) each; the prior is N(0, I)."""


@runtime_checkable
class Featured(Protocol):
    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the network makes of pictures, to lay a linear layer on: float (B, F), differentiable."""


@runtime_checkable
class Completes(Protocol):
    def complete(self, x_BCHW: Tensor, known_11HW: Tensor, generator: Random, draw: Draw) -> Tensor:
        """uint8 (B, C, H, W), equal to x where known."""


@runtime_checkable
class Renders(Protocol):
    """Pictures of latents that are N(0, I), as a differentiable function: so a latent can be searched for."""

    latent_dim: int  # Z

    def render(self, z_BZ: Tensor) -> Tensor:
        """Floats (B, C, H, W), about in [-1, 1]."""


@runtime_checkable
class DrawsPixels(Protocol):
    """Pictures are drawn value by value, so there is a say in how."""

    def draw(self, n: int, generator: Random, draw: Draw, progress: Progress) -> Tensor:
        """uint8 (n, C, H, W)."""


@runtime_checkable
class RunsChain(Protocol):
    """Pictures are states of a Markov chain, so there is a say in where it starts and how long it runs."""

    sample_steps: int  # of `sample`, which starts from noise

    def noise(self, n: int, generator: Random) -> Tensor:
        """States to start from, uint8 (n, C, H, W)."""

    def chain(
        self, start_BCHW: Tensor, steps: int, generator: Random, known_11HW: Tensor | None = None
    ) -> Iterator[Tensor]:
        """What to show after each step, uint8 (B, C, H, W). Where `known_11HW` it stays the start."""


@runtime_checkable
class ImportanceSampled(Protocol):
    def importance_nats(self, x_BCHW: Tensor, k: int, generator: Random) -> Tensor:
        """The importance-weighted bound on -log p(x) with k samples, (B,)."""


@runtime_checkable
class InitsFromData(Protocol):
    """Initial weights that depend on the pictures."""

    def init_from_data(self, x_NCHW: Tensor, generator: Generator) -> None:
        """Sets the weights from training pictures."""


@runtime_checkable
class RefitsBuffers(Protocol):
    """Buffers that are functions of the weights and of training pictures, and are needed only to sample."""

    def refit_buffers(self, pictures: Iterable[Tensor]) -> None:
        """Sets the buffers from batches of training pictures; called before it is sampled or saved."""


@runtime_checkable
class SaysHowItSamples(Protocol):
    def samples_in_words(self) -> str:
        """What a sample is, for the line that names the samples of a run."""
