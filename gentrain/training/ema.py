"""An exponential moving average of the weights, whose memory grows with the run.

At a fixed half-life a short run's average would be mostly its initial weights. So the half-life is at
most a twentieth of the images seen so far (as in the training code of EDM, arXiv 2206.00364).
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = list[Tensor] | tuple[Tensor, ...]

RAMP = 0.05


def decay(images_seen: int, batch_size: int, halflife_images: float) -> float:
    """What one update of `batch_size` images leaves of the average."""
    return float(0.5 ** (batch_size / min(halflife_images, max(1.0, RAMP * images_seen))))


def make_ema(model: nn.Module, batch_size: int, halflife_images: float) -> AveragedModel:
    """An average of `model`, to be moved on by `.update_parameters(model)` after each step."""

    def update(average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        seen = (int(updates) + 1) * batch_size
        torch._foreach_lerp_(average, current, 1 - decay(seen, batch_size, halflife_images))

    # The counter stays on the CPU, so that asking for it never waits for a GPU.
    return AveragedModel(model, multi_avg_fn=update)


def begin_at(average: AveragedModel, model: nn.Module) -> None:
    """The average becomes the model as it is, as if it had been made of it now."""
    average.module.load_state_dict(model.state_dict())
