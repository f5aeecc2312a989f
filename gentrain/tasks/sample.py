"""task=sample: pictures from a trained run, as a grid and one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rich.console import Console
from torchvision.utils import make_grid

from gentrain.files import write_atomically
from gentrain.images import to_picture
from gentrain.progress import preparing, say
from gentrain.ranges import Above, AtLeast
from gentrain.sampler import Draw
from gentrain.tasks.on_run import check_on_run, open_run
from gentrain.tracking import columns, png_bytes

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/sample.yaml."""

    count: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0)]
    temperature: Annotated[float, Above(0)]
    mode: Literal["draw", "argmax"]
    average: bool


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides)


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/sample/grid.png and <run>/sample/00000.png ..."""
    settings, console = Settings(**config["sample"]), Console()
    trained = open_run(config, settings.average)
    draw = Draw(settings.temperature, settings.mode)
    with preparing(console, "drawing rows") as progress:
        levels_NCHW = trained.sample(settings.count, settings.seed, draw, progress)
    images_NCHW = to_picture(levels_NCHW, trained.shape.levels)
    directory = trained.path / "sample"
    directory.mkdir(exist_ok=True)
    for old in directory.glob("[0-9]*.png"):
        old.unlink()
    for number, image_CHW in enumerate(images_NCHW):
        write_atomically(directory / f"{number:05d}.png", png_bytes(image_CHW))
    grid_CHW = make_grid(images_NCHW, nrow=columns(len(images_NCHW)), padding=2, pad_value=255)
    write_atomically(directory / "grid.png", png_bytes(grid_CHW))
    weights = "averaged weights" if trained.averaged else "last weights"
    say(console, f"{settings.count} samples of step {trained.step} ({weights}): {directory / 'grid.png'}")
