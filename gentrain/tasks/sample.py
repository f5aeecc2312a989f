"""task=sample: pictures from a trained run, as a grid and one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rich.console import Console
from torch import Tensor
from torchvision.utils import make_grid

from gentrain.errors import UserError
from gentrain.files import write_atomically
from gentrain.images import to_picture
from gentrain.models import SaysHowItSamples
from gentrain.progress import preparing, say
from gentrain.ranges import Above, AtLeast
from gentrain.sampler import Draw
from gentrain.tasks.codes import read_codes
from gentrain.tasks.on_run import check_on_run, open_run
from gentrain.tracking import columns, png_bytes
from gentrain.trained import TrainedRun

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/sample.yaml. What only some families take is None unless the user asks for it."""

    count: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0)]
    temperature: Annotated[float, Above(0)]
    mode: Literal["draw", "argmax"]
    codes: str | None


def check(config: dict[str, Any], overrides: list[str]) -> None:
    check_on_run(config, overrides)
    if config["sample"]["codes"] is None:
        return
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for key in ("count", "seed", "temperature", "mode"):
        if f"sample.{key}" in typed:
            raise UserError(f"sample.{key} has no meaning beside sample.codes: each code is one picture")
    read_codes("sample.codes", config["sample"]["codes"])


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/sample/grid.png and <run>/sample/00000.png ..."""
    trained, settings, console = open_run(config), Settings(**config["sample"]), Console()
    with preparing(console, "drawing") as progress:
        levels_NCHW, how = _draw(trained, settings, progress)
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
    say(
        console,
        f"{len(images_NCHW)} samples of step {trained.step} ({weights}{how}): {directory / 'grid.png'}",
    )


def _draw(
    trained: TrainedRun, settings: Settings, progress: Callable[[int, int], None]
) -> tuple[Tensor, str]:
    """The pictures, and how they came to be in words, where there is more than one way."""
    if settings.codes is not None:
        return trained.decode(read_codes("sample.codes", settings.codes)), f"; codes from {settings.codes}"
    draw = Draw(settings.temperature, settings.mode)
    levels_NCHW = trained.sample(settings.count, settings.seed, draw, progress)
    model = trained.model
    return levels_NCHW, f"; {model.samples_in_words()}" if isinstance(model, SaysHowItSamples) else ""
