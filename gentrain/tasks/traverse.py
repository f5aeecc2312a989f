"""task=traverse: what each number of a code does to the picture, and how the codes lie beside the prior.

Legend: N pictures, R latents shown, K values of one, D numbers in a code, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gentrain.analysis.latents import ACTIVE, Aggregate, aggregate, shares_of_label
from gentrain.config.ranges import Above, AtLeast, Between
from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.packed import Packed
from gentrain.errors import UserError
from gentrain.images import to_picture
from gentrain.models.interface import Decodes, Encodes, HasPosterior
from gentrain.runs.rundir import write_json
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.runtime.seeding import generator
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.viz.grids import labelled_grid, png

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/traverse.yaml."""

    latents: Annotated[int, Between(1, 256)]
    steps: Annotated[int, Between(2, 101)]
    reach: Annotated[float, Above(0)]
    picture: Annotated[int, AtLeast(0)] | None
    split: Literal["test", "valid"]
    count: Annotated[int, Between(2, 20_000)]
    seed: Annotated[int, AtLeast(0)]


@dataclass(frozen=True)
class Codes:
    """The codes of a split, and on which scale each of their numbers is moved. (D,) each but the first."""

    mean_ND: Tensor
    middle_D: Tensor
    scale_D: Tensor
    order_D: Tensor  # of the latents, what says most first
    words: list[str]  # what each latent is ordered by


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/traverse/grid.png and traversal.json, and prints a table."""
    trained, settings, console = open_run(config), Settings(**config["traverse"]), Console()
    family = trained.config["model"]["name"]
    if not (isinstance(trained.model, Encodes) and isinstance(trained.model, Decodes)):
        raise UserError(f"task=traverse moves the codes of pictures, and model={family} has no such codes")
    with preparing(console) as progress:
        packed = open_data_of(trained, config, settings.split, progress)
    images = ImageSplit(
        packed.split(settings.split), preprocessing_of(trained.config["data"]), torch.device("cpu")
    )
    if settings.picture is not None and settings.picture >= len(images):
        raise UserError(
            f"traverse.picture={settings.picture} is not there: the {settings.split} split has pictures "
            f"0 .. {len(images) - 1}"
        )
    found = posterior(trained, images, settings)
    codes = codes_of_posterior(*found) if found else codes_alone(trained.encode(images.first(settings.count)))
    start_D = codes.middle_D
    if settings.picture is not None:
        start_D = trained.encode(images.take(torch.tensor([settings.picture])))[0].float()
    values_K = torch.linspace(-settings.reach, settings.reach, settings.steps)
    shown_R = codes.order_D[: settings.latents]
    moved_RKD = moved(start_D, shown_R, codes, values_K)
    decoded_RKCHW = trained.decode(moved_RKD.flatten(0, 1)).unflatten(0, moved_RKD.shape[:2])
    directory = trained.path / "traverse"
    titles = [f"z{latent}  {codes.words[latent]}" for latent in shown_R.tolist()]
    picture = labelled_grid(
        to_picture(decoded_RKCHW, trained.shape.levels), titles, [f"{value:+.1f}" for value in values_K]
    )
    measured = aggregate(*found, generator(settings.seed, "traverse")) if found else None
    weights = "averaged weights" if trained.averaged else "last weights"
    protocol = {"run": str(trained.path), "step": trained.step, "weights": weights, **asdict(settings)}
    protocol["count"] = len(codes.mean_ND)
    shares = label_shares(codes, packed, settings.split)
    content = {"protocol": protocol, "shown": titles, **figures(codes, measured), "label_shares": shares}
    with alone_in(directory):
        write_atomically(directory / "grid.png", png(picture))
        write_json(directory / "traversal.json", content)
    if measured is not None:
        console.print(table(measured, shown_R, shares))
        for sentence in in_words(measured, len(codes.mean_ND)):
            say(console, sentence)
    say(console, f"{len(titles)} latents, one a row: {directory / 'grid.png'} and traversal.json")


def posterior(trained: TrainedRun, images: ImageSplit, settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Mean and log-variance of the codes, (N, D) each; None for a family whose code is one number."""
    if not isinstance(trained.model, HasPosterior):
        return None
    m_ND, s_ND = trained.posterior(images.first(settings.count))
    return m_ND, s_ND


def codes_of_posterior(m_ND: Tensor, s_ND: Tensor) -> Codes:
    """Moved on the prior's scale, ordered by KL."""
    kl_D = (0.5 * (torch.expm1(s_ND) - s_ND + m_ND.square())).mean(0)
    zeros_D = torch.zeros_like(kl_D)
    words = [f"KL {kl:.2f}" for kl in kl_D.tolist()]
    return Codes(m_ND, zeros_D, zeros_D + 1, kl_D.argsort(descending=True), words)


def codes_alone(z_ND: Tensor) -> Codes:
    """There is no prior: moved on the codes' own scale, ordered by how much they vary."""
    deviation_D = z_ND.std(0, correction=0)
    words = [f"sd {deviation:.2f}" for deviation in deviation_D.tolist()]
    return Codes(z_ND, z_ND.mean(0), deviation_D, deviation_D.argsort(descending=True), words)


def moved(start_D: Tensor, shown_R: Tensor, codes: Codes, values_K: Tensor) -> Tensor:
    """One latent a row set to middle + value * scale, all others as they are in `start_D`: (R, K, D)."""
    moved_RKD = start_D.repeat(len(shown_R), len(values_K), 1)
    for row, latent in enumerate(shown_R.tolist()):
        moved_RKD[row, :, latent] = codes.middle_D[latent] + values_K * codes.scale_D[latent]
    return moved_RKD


def label_shares(codes: Codes, packed: Packed, split: str) -> dict[str, list[float]]:
    """By label: the share of each latent's variance that lies between its classes. What a latent is about."""
    labels_NL = torch.from_numpy(np.asarray(packed.labels[packed.rows(split)]).astype(np.int64))
    return {
        label.name: shares_of_label(codes.mean_ND, labels_NL[: len(codes.mean_ND), column]).tolist()
        for column, label in enumerate(packed.label_info)
    }


def figures(codes: Codes, measured: Aggregate | None) -> dict[str, Any]:
    """For traversal.json: lists hold one number a latent, in the code's own order."""
    if measured is None:
        return {
            "order": codes.order_D.tolist(),
            "code_mean": codes.middle_D.tolist(),
            "code_sd": codes.scale_D.tolist(),
        }
    return {
        "order": codes.order_D.tolist(),
        "kl_nats": measured.kl_Z.tolist(),
        "variance_of_the_mean": measured.active_Z.tolist(),
        "active_units": int((measured.active_Z > ACTIVE).sum()),
        "active_threshold": ACTIVE,
        "noise_sd": measured.noise_Z.tolist(),
        "aggregate": {
            "mean": measured.mean_Z.tolist(),
            "variance": measured.variance_Z.tolist(),
            "kl_to_prior_nats_by_latent": measured.marginal_kl_Z.tolist(),
            "kl_to_prior_nats_upper_estimate": measured.kl_to_prior,
            "kl_to_prior_nats_lower_bound": measured.kl_to_prior_gaussian,
            "information_nats": measured.information,
            "information_nats_at_most": math.log(len(codes.mean_ND)),
        },
    }


def table(measured: Aggregate, shown_R: Tensor, shares: dict[str, list[float]]) -> Table:
    made = Table(title="latents by KL (nats); m: mean of q(z|x), q: all pictures' q(z|x) together, p: prior")
    for heading in ("latent", "KL", "var m", "noise", "q mean", "q var", "KL q,p"):
        made.add_column(heading, justify="right")
    if shares:
        made.add_column("like label", no_wrap=True)
    columns = (
        measured.kl_Z, measured.active_Z, measured.noise_Z,
        measured.mean_Z, measured.variance_Z, measured.marginal_kl_Z,
    )  # fmt: skip
    for z in shown_R.tolist():
        row = [f"z{z}", *(f"{column[z]:.2f}" for column in columns)]
        like = max(shares, key=lambda name: shares[name][z], default=None)
        made.add_row(*row, *([f"{like} {shares[like][z]:.2f}"] if like is not None else []))
    return made


def in_words(measured: Aggregate, count: int) -> list[str]:
    active = int((measured.active_Z > ACTIVE).sum())
    return [
        f"active units: {active} of {len(measured.active_Z)} (variance of the mean above {ACTIVE})",
        f"KL of all codes to the prior: {measured.kl_to_prior_gaussian:.2f} (bound from below) to "
        f"{measured.kl_to_prior:.2f} nats (estimate from above), of a mean KL of {measured.kl_Z.sum():.2f}; "
        f"with {count} pictures the estimate is at most {math.log(count):.2f} nats below the mean KL",
    ]
