"""task=complete: the other half of test pictures, redrawn given one half.

Legend: N pictures, D completions of each, K pictures in a row, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gentrain.analysis.inpainting import inpainting_method
from gentrain.config.ranges import Above, AtLeast, Between
from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.fingerprints import pictures_of
from gentrain.images import ImageShape, to_picture, to_unit
from gentrain.models.pixel.sampler import Draw
from gentrain.runs.rundir import write_json
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.viz.grids import labelled_grid, png

SECTIONS = ()  # of this config: none, they are the run's
GREY = 128  # what is not given, in the picture


@dataclass(frozen=True)
class Settings:
    """configs/task/complete.yaml."""

    known: Literal["upper", "lower", "left", "right"]
    count: Annotated[int, Between(1, 64)]
    draws: Annotated[int, Between(1, 16)]
    split: Literal["test", "valid"]
    seed: Annotated[int, AtLeast(0)]
    temperature: Annotated[float, Above(0)]
    steps: Annotated[int, Between(1, 10_000)] | None


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/complete/grid.png and completion.json, and prints a table."""
    trained, settings, console = open_run(config), Settings(**config["complete"]), Console()
    complete = inpainting_method(trained, Draw(settings.temperature), settings.steps)
    with preparing(console) as progress:
        packed = open_data_of(trained, config, settings.split, progress)
    view = preprocessing_of(trained.config["data"])
    images = ImageSplit(packed.split(settings.split), view, torch.device("cpu"))
    x_NCHW, known_11HW = images.first(settings.count), mask(settings.known, trained.shape)
    repeated = x_NCHW.repeat_interleave(settings.draws, 0)
    with preparing(console, "completing") as progress:
        done = complete(repeated, known_11HW, settings.seed, progress)
    completed_NDCHW = done.levels_BCHW.unflatten(0, (len(x_NCHW), settings.draws))
    figures = measure(x_NCHW, completed_NDCHW, known_11HW, trained.shape.levels)
    weights = "averaged weights" if trained.averaged else "last weights"
    protocol = {
        "run": str(trained.path),
        "step": trained.step,
        "weights": weights,
        **asdict(settings),
        "images": len(x_NCHW),
        "levels": view.levels,
        "pictures": view.description,
        "how": done.how,
        "data_fingerprint": pictures_of(packed.fingerprint),
    }
    directory = trained.path / "complete"
    picture = grid(x_NCHW, completed_NDCHW, known_11HW, trained.shape.levels)
    with alone_in(directory):
        write_atomically(directory / "grid.png", picture)
        write_json(directory / "completion.json", {"protocol": protocol, "figures": figures})
    title = (
        f"the {settings.known} half of {len(x_NCHW)} {settings.split} pictures given, {settings.draws} "
        f"completions each, seed {settings.seed}; step {trained.step}, {weights}; {view.description}"
    )
    console.print(table(figures, title))
    say(console, f"{done.how}: {directory / 'grid.png'} and completion.json")


def mask(known: str, shape: ImageShape) -> Tensor:
    """Which half is known, bool (1, 1, H, W); of an odd number of lines the middle one is not."""
    made = torch.zeros(1, 1, shape.height, shape.width, dtype=torch.bool)
    rows, columns = shape.height // 2, shape.width // 2
    if known == "upper":
        made[:, :, :rows] = True
    elif known == "lower":
        made[:, :, -rows:] = True
    elif known == "left":
        made[..., :columns] = True
    else:
        made[..., -columns:] = True
    return made


def measure(
    x_NCHW: Tensor, completed_NDCHW: Tensor, known_11HW: Tensor, levels: int
) -> dict[str, dict[str, Any]]:
    """Over the unknown pixels, in units of [-1, 1]; standard errors over the pictures.

    The error of a draw counts its spread too: drawing from the true distribution does not make it least.
    """
    unknown_CHW = ~known_11HW[0].expand(x_NCHW.shape[1:])
    truth_ND1P = to_unit(x_NCHW, levels)[:, None, unknown_CHW]
    made_NDP = to_unit(completed_NDCHW, levels)[:, :, unknown_CHW]
    error_N = (made_NDP - truth_ND1P).double().square().mean((1, 2))
    figures = {
        "unknown_mse": figure(
            error_N, "squared error against the true half, pixels in [-1, 1], mean over completions"
        )
    }
    if completed_NDCHW.shape[1] > 1:
        spread_N = made_NDP.double().var(1).mean(1)
        figures["unknown_variance"] = figure(
            spread_N, "variance among the completions of one picture, pixels in [-1, 1]"
        )
    return figures


def figure(values_N: Tensor, meaning: str) -> dict[str, Any]:
    """As in evaluation.json: the mean and its standard error; None of a single picture."""
    error = values_N.std().item() / math.sqrt(len(values_N)) if len(values_N) > 1 else None
    return {
        "mean": values_N.mean().item(),
        "standard_error": error,
        "unit": "per dimension",
        "meaning": meaning,
    }


def grid(x_NCHW: Tensor, completed_NDCHW: Tensor, known_11HW: Tensor, levels: int) -> bytes:
    """A row a picture: itself, what was given of it, its completions."""
    pictures_NCHW = to_picture(x_NCHW, levels)
    given_NCHW = torch.where(known_11HW, pictures_NCHW, torch.tensor(GREY, dtype=torch.uint8))
    made_NDCHW = to_picture(completed_NDCHW, levels)
    rows_NKCHW = torch.cat([pictures_NCHW[:, None], given_NCHW[:, None], made_NDCHW], 1)
    return png(
        labelled_grid(rows_NKCHW, headings=["picture", "given", *map(str, range(1, made_NDCHW.shape[1] + 1))])
    )


def table(figures: dict[str, dict[str, Any]], title: str) -> Table:
    made = Table(title=title)
    for heading in ("figure", "mean", "standard error", "unit", "meaning"):
        made.add_column(heading, no_wrap=heading != "meaning")
    for name, found in figures.items():
        error = found["standard_error"]
        words = "" if error is None else f"{error:.2g}"
        made.add_row(name, f"{found['mean']:.5g}", words, found["unit"], found["meaning"])
    return made
