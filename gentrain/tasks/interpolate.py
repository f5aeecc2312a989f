"""task=interpolate: what lies between two codes.

Legend: B pairs, T points of a path, K pictures in a row, D numbers in a code, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from gentrain.analysis.latents import PATHS
from gentrain.analysis.moon_midpoints import report_midpoints
from gentrain.config.ranges import AtLeast, Between
from gentrain.data.build import preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.errors import UserError
from gentrain.images import to_picture
from gentrain.models.interface import Decodes, DrawsCodes, Encodes
from gentrain.runs.rundir import write_json
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.runtime.seeding import generator
from gentrain.tasks.on_run import WHERE, check_on_run, open_data_of, open_run
from gentrain.viz.grids import animation, labelled_grid, png

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/interpolate.yaml."""

    between: Literal["pictures", "seeds"]
    path: Literal["linear", "spherical"]
    steps: Annotated[int, Between(3, 101)]
    pairs: Annotated[int, Between(1, 64)]
    pictures: list[int] | None
    split: Literal["test", "valid"]
    seed: Annotated[int, AtLeast(0)]
    milliseconds: Annotated[int, Between(20, 10_000)]


@dataclass(frozen=True)
class Ends:
    """Where paths begin and end."""

    codes_2BD: Tensor
    originals_2BCHW: Tensor | None  # levels; None between seeds
    numbers: list[list[int]] | None  # of the pictures in their split


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides, may_set=WHERE)
    settings = Settings(**config["interpolate"])
    if settings.pictures is not None and settings.between == "seeds":
        raise UserError("interpolate.pictures has no meaning with interpolate.between=seeds")
    if settings.pictures is not None and (not settings.pictures or len(settings.pictures) % 2):
        raise UserError(
            f"interpolate.pictures={settings.pictures} must be pairs, [first, second, ...]: numbers of "
            f"pictures in the {settings.split} split"
        )


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/interpolate/grid.png, moving.gif and interpolation.json; on moons the midpoints, too."""
    trained, settings, console = open_run(config), Settings(**config["interpolate"]), Console()
    refuse_without_codes(trained, settings.between)
    if settings.between == "pictures":
        with preparing(console) as progress:
            packed = open_data_of(trained, config, settings.split, progress)
        images = ImageSplit(
            packed.split(settings.split), preprocessing_of(trained.config["data"]), torch.device("cpu")
        )
        ends = between_pictures(trained, images, settings)
    else:
        ends = between_seeds(trained, settings)
    t_T = torch.linspace(0, 1, settings.steps)
    first_BD, last_BD = ends.codes_2BD
    codes_BTD = PATHS[settings.path](first_BD, last_BD, t_T)
    middle_BD = PATHS[settings.path](first_BD, last_BD, torch.tensor([0.5]))[:, 0]
    decoded_BTCHW = decode_paths(trained, codes_BTD)
    directory = trained.path / "interpolate"
    picture = png(grid(decoded_BTCHW, ends, trained.shape.levels))
    shown_BTCHW = to_picture(decoded_BTCHW, trained.shape.levels)
    of_codes = lengths(codes_BTD, middle_BD)
    content = {"protocol": protocol(trained, settings), "pairs": ends.numbers, "codes": of_codes}
    with alone_in(directory):
        write_atomically(directory / "grid.png", picture)
        write_atomically(directory / "moving.gif", animation(shown_BTCHW, settings.milliseconds))
        write_json(directory / "interpolation.json", content)
    what = f"{settings.path} paths between {len(codes_BTD)} pairs of {settings.between}"
    say(console, f"{what}: {directory / 'grid.png'}, moving.gif and interpolation.json")
    if trained.config["data"]["name"] == "moons" and isinstance(trained.model, Encodes):
        report_midpoints(trained, PATHS[settings.path], protocol(trained, settings), directory, console)


def refuse_without_codes(trained: TrainedRun, between: str) -> None:
    family = trained.config["model"]["name"]
    if not isinstance(trained.model, Decodes):
        raise UserError(f"task=interpolate goes between codes, and model={family} has no pictures of codes")
    if between == "pictures" and not isinstance(trained.model, Encodes):
        raise UserError(
            f"model={family} has no encoder to go between pictures; use interpolate.between=seeds"
        )
    if between == "seeds" and not isinstance(trained.model, DrawsCodes):
        raise UserError(f"model={family} draws no codes; use interpolate.between=pictures")


def between_pictures(trained: TrainedRun, images: ImageSplit, settings: Settings) -> Ends:
    """Given ones, or pairs of different ones drawn by the seed."""
    count = len(images)
    if settings.pictures is not None:
        wrong = [number for number in settings.pictures if not 0 <= number < count]
        if wrong:
            raise UserError(
                f"interpolate.pictures={wrong[0]} is not there: the {settings.split} split has pictures "
                f"0 .. {count - 1}"
            )
        chosen_2B = torch.tensor(settings.pictures).view(-1, 2).T
    else:
        pairs = min(settings.pairs, count // 2)
        if pairs == 0:
            raise UserError(
                f"the {settings.split} split has {count} picture, and a pair needs two; use "
                "interpolate.between=seeds or the other interpolate.split"
            )
        noise = generator(settings.seed, "interpolate")
        chosen_2B = torch.randperm(count, generator=noise)[: 2 * pairs].view(pairs, 2).T
    originals_2BCHW = torch.stack([images.take(chosen_B) for chosen_B in chosen_2B])
    codes_2BD = trained.encode(originals_2BCHW.flatten(0, 1)).float().unflatten(0, chosen_2B.shape)
    return Ends(codes_2BD, originals_2BCHW, chosen_2B.T.tolist())


def between_seeds(trained: TrainedRun, settings: Settings) -> Ends:
    codes_BD = trained.draw_codes(2 * settings.pairs, settings.seed)
    # Neighbours are a pair: fewer pairs are the first of more.
    codes_2BD = codes_BD.unflatten(0, (settings.pairs, 2)).transpose(0, 1)
    return Ends(codes_2BD, None, None)


def decode_paths(trained: TrainedRun, codes_BTD: Tensor) -> Tensor:
    """Levels, uint8 (B, T, C, H, W)."""
    return trained.decode(codes_BTD.flatten(0, 1)).unflatten(0, codes_BTD.shape[:2])


def grid(decoded_BTCHW: Tensor, ends: Ends, levels: int) -> Any:
    """A row a pair; between pictures the two themselves at its ends."""
    if ends.originals_2BCHW is None:
        return labelled_grid(to_picture(decoded_BTCHW, levels))
    first, last = ends.originals_2BCHW[:, :, None]
    rows_BKCHW = to_picture(torch.cat([first, decoded_BTCHW, last], 1), levels)
    return labelled_grid(rows_BKCHW, headings=["picture", *[""] * decoded_BTCHW.shape[1], "picture"])


def lengths(codes_BTD: Tensor, middle_BD: Tensor) -> dict[str, float]:
    """Mean lengths of the codes: a line's middle is nearer to 0 than its ends, an arc's is not."""
    ends = codes_BTD[:, [0, -1]].double().norm(dim=2).mean().item()
    return {"mean_length_at_the_ends": ends, "in_the_middle": middle_BD.double().norm(dim=1).mean().item()}


def protocol(trained: TrainedRun, settings: Settings) -> dict[str, Any]:
    weights = "averaged weights" if trained.averaged else "last weights"
    return {"run": str(trained.path), "step": trained.step, "weights": weights, **asdict(settings)}
