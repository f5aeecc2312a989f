"""task=sample: pictures from a trained run, as a grid and one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from torch import Tensor
from torchvision.utils import make_grid

from gentrain.config.ranges import Above, AtLeast
from gentrain.errors import UserError
from gentrain.images import to_picture
from gentrain.models.interface import RunsChain, SaysHowItSamples
from gentrain.models.pixel.sampler import Draw
from gentrain.runs.capacity import COPIES, check_pictures
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.tasks.chain import WATCHED, starts, steps_shown
from gentrain.tasks.codes import read_codes
from gentrain.tasks.on_run import WHERE, check_on_run, open_run
from gentrain.viz.grids import columns, png_bytes

SECTIONS = ()  # of this config: none, they are the run's


@dataclass(frozen=True)
class Settings:
    """configs/task/sample.yaml. What only some families take is None unless the user asks for it."""

    count: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0)]
    temperature: Annotated[float, Above(0)]
    mode: Literal["draw", "argmax"]
    average: bool
    codes: str | None
    chain_steps: Annotated[int, AtLeast(1)] | None
    chain_from: str | None


@dataclass(frozen=True)
class Drawn:
    """Pictures, how they came to be in words, and, of a chain, how the first of them got there."""

    levels_NCHW: Tensor
    how: str
    frames_RTCHW: Tensor | None = None


def check(config: dict[str, Any], overrides: list[str]) -> None:
    looks_at_data = config["sample"]["chain_from"] in ("valid", "test")
    check_on_run(config, overrides, may_set=WHERE if looks_at_data else ())
    if config["sample"]["codes"] is None:
        return
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for key in ("count", "seed", "temperature", "mode", "chain_steps", "chain_from"):
        if f"sample.{key}" in typed:
            raise UserError(f"sample.{key} has no meaning beside sample.codes: each code is one picture")
    read_codes("sample.codes", config["sample"]["codes"])


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes <run>/sample/grid.png and <run>/sample/00000.png ..., of a chain also <run>/sample/chain.png."""
    settings, console = Settings(**config["sample"]), Console()
    trained = open_run(config, settings.average)
    check_pictures("sample.count", settings.count, trained.shape, COPIES)
    if settings.chain_steps is not None:  # of some chains each step is kept
        kept = min(WATCHED, settings.count)
        check_pictures("sample.chain_steps", settings.chain_steps, trained.shape, kept)
    with preparing(console, "drawing") as progress:
        drawn = _draw(trained, settings, config, progress)
    images_NCHW = to_picture(drawn.levels_NCHW, trained.shape.levels)
    grid_CHW = make_grid(images_NCHW, nrow=columns(len(images_NCHW)), padding=2, pad_value=255)
    with alone_in(trained.path / "sample") as directory:
        for old in [*directory.glob("[0-9]*.png"), directory / "chain.png"]:
            old.unlink(missing_ok=True)
        for number, image_CHW in enumerate(images_NCHW):
            write_atomically(directory / f"{number:05d}.png", png_bytes(image_CHW))
        write_atomically(directory / "grid.png", png_bytes(grid_CHW))
        if drawn.frames_RTCHW is not None:
            _write_chain(drawn.frames_RTCHW, trained, directory / "chain.png")
    weights = "averaged weights" if trained.averaged else "last weights"
    how = f"; {drawn.how}" if drawn.how else ""
    count, file = len(images_NCHW), directory / "grid.png"
    say(console, f"{count} samples of step {trained.step} ({weights}{how}): {file}")
    if drawn.frames_RTCHW is not None:
        steps = ", ".join(map(str, steps_shown(drawn.frames_RTCHW.shape[1])))
        say(console, f"the chain after {steps} steps: {trained.path / 'sample' / 'chain.png'}")


def _draw(
    trained: TrainedRun,
    settings: Settings,
    config: dict[str, Any],
    progress: Callable[[int, int], None],
) -> Drawn:
    """Each option leads to what the run must then be able to do; what it is not raises UserError."""
    model = trained.model
    if settings.codes is not None:
        codes_ND = read_codes("sample.codes", settings.codes)
        return Drawn(trained.decode(codes_ND), f"codes from {settings.codes}")
    draw = Draw(settings.temperature, settings.mode)
    asked = settings.chain_steps is not None or settings.chain_from is not None
    if asked and draw != Draw():
        raise UserError("sample.temperature and sample.mode have no meaning beside sample.chain_...")
    if not asked and not (isinstance(model, RunsChain) and draw == Draw()):
        levels_NCHW = trained.sample(settings.count, settings.seed, draw, progress)
        return Drawn(levels_NCHW, model.samples_in_words() if isinstance(model, SaysHowItSamples) else "")
    start_NCHW = starts(trained, config, settings.count, progress)
    levels_NCHW, frames_RTCHW = trained.chain(
        settings.count, settings.seed, settings.chain_steps, start_NCHW, WATCHED, progress
    )
    steps = frames_RTCHW.shape[1] - 1
    how = f"{steps} steps of the chain from {settings.chain_from or 'noise'}"
    return Drawn(levels_NCHW, how, frames_RTCHW)


def _write_chain(frames_RTCHW: Tensor, trained: TrainedRun, file: Path) -> None:
    """One chain a row, from where it started."""
    shown = steps_shown(frames_RTCHW.shape[1])
    images_NCHW = to_picture(frames_RTCHW[:, shown].flatten(0, 1), trained.shape.levels)
    grid_CHW = make_grid(images_NCHW, nrow=len(shown), padding=2, pad_value=255)
    write_atomically(file, png_bytes(grid_CHW))
