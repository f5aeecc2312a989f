"""Pictures of which a part is known: the three ways in which families fill in the rest.

Legend: B pictures to complete, C channels, H height, W width, Z numbers in a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from gentrain.errors import UserError
from gentrain.images import to_levels, to_unit
from gentrain.models.interface import Completes, Renders, RunsChain
from gentrain.models.pixel.sampler import Draw, Progress
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.seeding import image_streams, normal_noise

SEARCH_STEPS = 300
SEARCH_LR = 0.05
SEARCHED_AT_ONCE = 64  # pictures: bounds the memory of the gradients
SEARCH_SIGMA = 0.1  # of the known pixels about the picture of a latent, in units of [-1, 1]


@dataclass(frozen=True)
class Completed:
    """Levels, uint8 (B, C, H, W), equal to what was given where it is known; and how, in words."""

    levels_BCHW: Tensor
    how: str


class InpaintingMethod(Protocol):
    def __call__(self, x_BCHW: Tensor, known_11HW: Tensor, seed: int, progress: Progress) -> Completed:
        """uint8 levels of which only those where bool (1, 1, H, W) is True are looked at."""


def inpainting_method(trained: TrainedRun, draw: Draw, steps: int | None) -> InpaintingMethod:
    """How a family completes; UserError if it cannot, or if it does not take what is asked of it."""
    model = trained.model
    if isinstance(model, Completes):
        if steps is not None:
            raise UserError("complete.steps has no meaning here: this family draws each pixel once")
        return lambda x, known, seed, progress: pixel_by_pixel(trained, x, known, seed, draw)
    family = trained.config["model"]["name"]
    if not isinstance(model, RunsChain | Renders):
        raise UserError(f"task=complete has no way to redraw a part of a picture with model={family}")
    if draw != Draw():
        raise UserError(f"complete.temperature has no meaning for model={family}: leave it at 1")
    if isinstance(model, RunsChain):
        chain_steps = steps or model.sample_steps
        return lambda x, known, seed, progress: clamped_chain(trained, x, known, seed, chain_steps, progress)
    search_steps = steps or SEARCH_STEPS
    return lambda x, known, seed, progress: latent_search(trained, x, known, seed, search_steps, progress)


def pixel_by_pixel(
    trained: TrainedRun, x_BCHW: Tensor, known_11HW: Tensor, seed: int, draw: Draw
) -> Completed:
    """Each unknown pixel drawn given all before it in reading order."""
    levels_BCHW = trained.complete(x_BCHW, known_11HW, seed, draw)
    flat = known_11HW.flatten()
    all_before = not bool((flat[1:] & ~flat[:-1]).any())
    how = "drawn exactly from p(rest | known)"
    if not all_before:
        how = "each pixel drawn given all before it in reading order; known ones that come later are not seen"
    elif draw.temperature != 1:
        how = f"drawn pixel after pixel at temperature {draw.temperature:g}"
    return Completed(levels_BCHW, how)


@torch.no_grad()
def clamped_chain(
    trained: TrainedRun, x_BCHW: Tensor, known_11HW: Tensor, seed: int, steps: int, progress: Progress
) -> Completed:
    """The rest starts as noise; after every step of the chain the known pixels are put back (arXiv 1306.1091,
    section 3.3)."""
    model, device = cast(RunsChain, trained.model), trained.compute.device
    noise = image_streams(len(x_BCHW), seed, "complete")
    x_BCHW, known_11HW = x_BCHW.to(device), known_11HW.to(device)
    start_BCHW = torch.where(known_11HW, x_BCHW, model.noise(len(x_BCHW), noise).to(device))
    shown_BCHW = start_BCHW
    with trained.compute.autocasting():
        for number, shown_BCHW in enumerate(model.chain(start_BCHW, steps, noise, known_11HW)):  # noqa: B007
            progress(number + 1, steps)
    how = f"{steps} steps of the chain from noise, the known pixels put back after each"
    return Completed(torch.where(known_11HW, x_BCHW, shown_BCHW).cpu(), how)


def latent_search(
    trained: TrainedRun, x_BCHW: Tensor, known_11HW: Tensor, seed: int, steps: int, progress: Progress
) -> Completed:
    """The rest of the picture of the latent whose known part is most like the given one.

    Adam from z ~ N(0, I) down  sum over known of (picture(z) - x)^2 / (2 sigma^2) + |z|^2 / 2,  minus the
    log of N(known part; picture(z), sigma^2) N(z; 0, I) up to a constant: a mode of the posterior, no draw.
    Other seeds end in other modes.
    """
    model, device = cast(Renders, trained.model), trained.compute.device
    noise = image_streams(len(x_BCHW), seed, "complete")
    starts_BZ = normal_noise((len(x_BCHW), model.latent_dim), noise, torch.empty(0))
    given, known_11HW = x_BCHW.split(SEARCHED_AT_ONCE), known_11HW.to(device)
    found = []
    for number, start_BZ in enumerate(starts_BZ.split(SEARCHED_AT_ONCE)):
        part_BCHW = given[number].to(device)
        target_BCHW = to_unit(part_BCHW, trained.shape.levels)
        z_BZ = start_BZ.to(device)
        for step in _search(model, z_BZ, target_BCHW, known_11HW, steps):
            progress(number * steps + step, len(given) * steps)
        with torch.no_grad():
            picture_BCHW = to_levels(model.render(z_BZ), trained.shape.levels)
        found.append(torch.where(known_11HW, part_BCHW, picture_BCHW).cpu())
    how = f"by {steps} steps of Adam on the latent from N(0, I), sigma {SEARCH_SIGMA:g} on the known pixels"
    return Completed(torch.cat(found), how)


def _search(
    model: Renders, z_BZ: Tensor, target_BCHW: Tensor, known_11HW: Tensor, steps: int
) -> Iterator[int]:
    """Moves the latents, each without regard to the others, and yields how many steps are done."""
    z_BZ.requires_grad_()
    adam = torch.optim.Adam([z_BZ], lr=SEARCH_LR)
    for number in range(steps):
        misfit_BCHW = torch.where(known_11HW, model.render(z_BZ) - target_BCHW, 0.0)
        loss = misfit_BCHW.square().sum() / (2 * SEARCH_SIGMA**2) + z_BZ.square().sum() / 2
        z_BZ.grad = torch.autograd.grad(loss, z_BZ)[0]
        adam.step()
        yield number + 1
