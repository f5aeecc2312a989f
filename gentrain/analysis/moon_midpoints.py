"""The code halfway between two moons: is its picture the moon halfway between them? Part of task=interpolate.

Legend: Q quarters (pairs of phases), N places of moons, B = Q*N pairs, P phases tried, C channels, H height,
W width. Errors are mean squared errors per dimension with pixels in [-1, 1], as valid/mse is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gentrain.analysis.latents import cross_fade
from gentrain.data.build import make_source, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.sources.moons import Moons, Places
from gentrain.images import to_picture, to_unit
from gentrain.runs.rundir import write_json
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.console import say
from gentrain.runtime.files import alone_in, write_atomically
from gentrain.viz.grids import labelled_grid, png

QUARTERS = ((0, 90), (90, 180), (180, 270), (270, 360))
COUNT = 32  # places, those of the first test moons: in each, all quarters
TRIED = np.arange(0, 360, 3)
SHOWN = 9  # pictures on a path in the grid

CodePath = Callable[[Tensor, Tensor, Tensor], Tensor]  # as in latents.py
Draw = Callable[[np.ndarray, Places], Tensor]


@dataclass(frozen=True)
class Match:
    """How pictures compare with moons at the places where they should be."""

    mse_B: Tensor  # to the true moon
    fitting_B: Tensor  # the phase of the most similar moon, degrees
    fitting_mse_B: Tensor  # to that one: how much of a moon it is at all

    def off_by_degrees(self, phases_B: Tensor) -> Tensor:
        """From the true phase to the fitting one, -180 .. 180."""
        return (self.fitting_B - phases_B + 180) % 360 - 180


def report_midpoints(
    trained: TrainedRun, path: CodePath, protocol: dict[str, Any], directory: Path, console: Console
) -> None:
    """Writes midpoints.json and midpoints.png, and prints a table."""
    source, moons = drawn_as_in(trained)
    figures = measure(trained, path, moons, source.places("test", COUNT))
    how = protocol | PROTOCOL | {"trained_on_degrees": sorted(source.phases)}
    picture = show(trained, path, moons, source.places("test", COUNT).take(slice(0, 1)))
    with alone_in(directory):
        write_json(directory / "midpoints.json", {"protocol": how, "figures": figures})
        write_atomically(directory / "midpoints.png", png(picture))
    console.print(table(figures))
    say(console, f"written to {directory / 'midpoints.json'} and midpoints.png")


def drawn_as_in(trained: TrainedRun) -> tuple[Moons, Draw]:
    """The run's source, and what draws levels (N, C, H, W) from phases and places."""
    source = make_source(trained.config["data"])
    assert isinstance(source, Moons)
    view = preprocessing_of(trained.config["data"])

    def moons(phases_N: np.ndarray, places: Places) -> Tensor:
        drawn = ImageSplit(source.draw(phases_N, places), view, torch.device("cpu"))
        return drawn.take(torch.arange(len(drawn)))

    return source, moons


PROTOCOL = {
    "quarters_degrees": QUARTERS,
    "places": COUNT,
    "phases_tried_degrees": int(TRIED[1]),
    "unit_of_mse": "per dimension, pixels in [-1, 1]",
}
MEANINGS = {
    "decoded midpoint": "the code halfway between those of two moons, decoded",
    "cross-fade": "the mean of the two pictures",
    "reconstruction": "the true moon itself, encoded and decoded: no midpoint can be asked to be better",
}


def measure(trained: TrainedRun, path: CodePath, moons: Draw, places: Places) -> dict[str, Any]:
    """For midpoints, cross-fades and reconstructions: means over all pairs, and by quarter."""
    phases_BP = np.repeat(np.array(QUARTERS), len(places), 0)
    everywhere = places.take(np.tile(np.arange(len(places)), len(QUARTERS)))
    first, last = (moons(phases_BP[:, end], everywhere) for end in (0, 1))
    middle_B = phases_BP.mean(1)
    truth = moons(middle_B, everywhere)
    half = torch.tensor([0.5])
    codes_B1D = path(trained.encode(first).float(), trained.encode(last).float(), half)
    made = {
        "decoded midpoint": trained.decode(codes_B1D[:, 0]),
        "cross-fade": cross_fade(first, last, half)[:, 0],
        "reconstruction": trained.reconstruct(truth),
    }
    candidates = [moons(np.repeat(phase, len(everywhere)), everywhere) for phase in TRIED]
    levels, true_phases_B = trained.shape.levels, torch.from_numpy(middle_B)
    return {
        name: {"meaning": MEANINGS[name]}
        | summary(compare(made_BCHW, truth, candidates, levels), true_phases_B)
        for name, made_BCHW in made.items()
    }


def compare(made_BCHW: Tensor, truth_BCHW: Tensor, candidates: list[Tensor], levels: int) -> Match:
    """`candidates`: moons at the same places, (B, C, H, W), at each of the phases TRIED."""
    made = to_unit(made_BCHW, levels)

    def mse_B(others_BCHW: Tensor) -> Tensor:
        return (made - to_unit(others_BCHW, levels)).square().mean((1, 2, 3)).double()

    errors_PB = torch.stack([mse_B(others) for others in candidates])
    best_B = errors_PB.min(0)
    return Match(mse_B(truth_BCHW), torch.from_numpy(TRIED)[best_B.indices], best_B.values)


def summary(match: Match, phases_B: Tensor) -> dict[str, Any]:
    off_B = match.off_by_degrees(phases_B)
    columns = (match.mse_B, off_B, match.fitting_mse_B)
    quarters = {
        f"{low} to {high}": {
            "mse": mse_N.mean().item(),
            "median_fitting_phase_degrees": (low + high) / 2 + off_N.median().item(),
            "fitting_mse": fitting_mse_N.mean().item(),
        }
        for (low, high), mse_N, off_N, fitting_mse_N in zip(
            QUARTERS, *(values_B.view(len(QUARTERS), -1) for values_B in columns), strict=True
        )
    }
    return {
        "mse": match.mse_B.mean().item(),
        "fitting_phase_off_degrees": off_B.abs().mean().item(),
        "fitting_mse": match.fitting_mse_B.mean().item(),
        "quarters": quarters,
    }


def table(figures: dict[str, Any]) -> Table:
    made = Table(title="halfway between two moons, beside the true moon")
    for heading in ("", "mse", "best-fitting phase is off by", "mse to that"):
        made.add_column(heading)
    for name, figure in figures.items():
        off = f"{figure['fitting_phase_off_degrees']:.1f} degrees"
        made.add_row(name, f"{figure['mse']:.4f}", off, f"{figure['fitting_mse']:.4f}")
    return made


def show(trained: TrainedRun, path: CodePath, moons: Draw, place: Places) -> Any:
    """Around from half moon to half moon: the truth, the decoded path and the cross-fade."""
    rows = around(trained, path, moons, place)
    return labelled_grid(to_picture(torch.stack(list(rows.values())), trained.shape.levels), list(rows))


def around(trained: TrainedRun, path: CodePath, moons: Draw, place: Places) -> dict[str, Tensor]:
    """Rows (K, C, H, W) by name: from the half moon through the full one to the other half."""
    t_T = torch.linspace(0, 1, SHOWN)
    rows: dict[str, list[Tensor]] = {"truth": [], "decoded": [], "cross-fade": []}
    for low, high in ((90, 180), (180, 270)):
        phases_T = low + (high - low) * t_T.numpy()
        everywhere = place.take(np.zeros(SHOWN, np.int64))
        truth = moons(phases_T, everywhere)
        first, last = truth[:1], truth[-1:]
        codes_1TD = path(trained.encode(first).float(), trained.encode(last).float(), t_T)
        keep = slice(0 if low == 90 else 1, None)  # the full moon once
        rows["truth"].append(truth[keep])
        rows["decoded"].append(trained.decode(codes_1TD[0])[keep])
        rows["cross-fade"].append(cross_fade(first, last, t_T)[0][keep])
    return {name: torch.cat(parts) for name, parts in rows.items()}
