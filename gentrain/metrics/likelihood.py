"""What a model says of held-out pictures: bits a dimension, distance to the truth, reconstruction errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gentrain.data.dataset import ImageSplit
from gentrain.images import bits_per_dim, psnr_db
from gentrain.metrics.evaluate import evaluate_images, evaluate_split
from gentrain.metrics.figure import Figure, mean_of
from gentrain.metrics.truth import distance_to_truth
from gentrain.models.interface import ImportanceSampled, Reconstructs
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.seeding import image_streams

MEANINGS = {
    "bits_per_dim": ("bits/dim", "{kind} -log2 p(x) / (C*H*W)"),
    "nats": ("nats/image", "{kind} -log p(x)"),
    "nll_nats": ("nats/image", "its first term: -log p(x|z) for one z from q(z|x)"),
    "kl_nats": ("nats/image", "its second term: KL(q(z|x) || p(z))"),
    "logit_real": (
        "logit",
        "D(x); far below train/logit_real: D knows its pictures by heart",
    ),
    "logit_fake": ("logit", "D(G(z)), as many generated pictures; no figure of quality"),
    "mse": ("per dimension", "squared error of the {made}, pixels in [-1, 1]"),
}
KINDS = {"exact": "exact", "bound": "upper bound on", None: ""}


def likelihood(
    trained: TrainedRun,
    images: ImageSplit,
    batch_size: int,
    seed: int,
    iwae_samples: int | None,
    entropy_bits: float | None,
    progress: Callable[[int, int], None],
) -> dict[str, Figure]:
    """Every figure that the family has, as a mean over the images of a split.

    `iwae_samples`: k of the importance-weighted bound. `entropy_bits`: of an image, where it is known.
    """
    kind = KINDS[trained.likelihood_kind]
    # Whose pictures come out changed has denoised one that was corrupted first: another figure.
    made = "reconstruction" if isinstance(trained.model, Reconstructs) else "mean after one corruption"
    values = evaluate_split(
        lambda x, noise: evaluate_images(trained.generative, trained.shape, x, noise),
        images, batch_size, seed,
    )  # fmt: skip
    assert values is not None
    # A figure that a family alone knows the meaning of comes last, by its bare name.
    names = [name for name in MEANINGS if name in values] + [name for name in values if name not in MEANINGS]
    figures = {}
    for name in names:
        unit, meaning = MEANINGS.get(name, ("", ""))
        figures[name] = over_images(values[name], unit, meaning.format(kind=kind, made=made).strip())
    if "mse" in figures and figures["mse"].mean > 0:
        figures["psnr_db"] = _psnr(figures["mse"])
    if entropy_bits is not None and "nats" in values:
        figures["distance_to_truth"] = distance_to_truth(values["nats"], entropy_bits, kind)
    if iwae_samples is not None and isinstance(trained.model, ImportanceSampled):
        nats_N = importance_nats(trained.model, images, batch_size, seed, iwae_samples, progress)
        figures |= _importance_weighted(trained, nats_N, iwae_samples, entropy_bits)
    return figures


def _importance_weighted(
    trained: TrainedRun, nats_N: Tensor, k: int, entropy_bits: float | None
) -> dict[str, Figure]:
    bits_N = bits_per_dim(nats_N, trained.shape)
    figures = {
        "iwae_nats": over_images(nats_N, "nats/image", f"importance-weighted bound on -log p(x), k={k}"),
        "iwae_bits_per_dim": over_images(bits_N, "bits/dim", f"the same, per dimension, k={k}"),
    }
    if entropy_bits is not None:
        figures["iwae_distance_to_truth"] = distance_to_truth(
            nats_N, entropy_bits, KINDS["bound"], f"; by the importance-weighted bound, k={k}"
        )
    return figures


def _psnr(mse: Figure) -> Figure:
    """Of the mean squared error over all images, with that error's own standard error carried over."""
    value = psnr_db(torch.tensor(mse.mean, dtype=torch.float64)).item()
    error = 10 / math.log(10) * mse.standard_error / mse.mean
    return Figure(value, error, "dB", "10 log10(2^2 / mse): peak signal to noise ratio of that mean error")


@torch.inference_mode()
def importance_nats(
    model: ImportanceSampled,
    images: ImageSplit,
    batch_size: int,
    seed: int,
    k: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """The importance-weighted bound (arXiv 1509.00519, eq. 8) on -log p of each image, float64 (N,)."""
    noise, parts = image_streams(len(images), seed, "iwae"), []
    for indices in images.chunks(batch_size):
        parts.append(model.importance_nats(images.take(indices), k, noise[indices]).cpu().double())
        progress(int(indices[-1]) + 1, len(images))
    return torch.cat(parts)


def over_images(values_N: Tensor, unit: str, meaning: str) -> Figure:
    """The mean and its standard error, from float64 (N,)."""
    found = mean_of(values_N)
    return Figure(found.value, found.standard_error, unit, meaning)
