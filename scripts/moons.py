"""The table and the picture of docs/moons.md: AE, VAE and cross-fade halfway between two moons, over seeds.

    python scripts/moons.py OUT [SEEDS]

Trains experiment=moons_ae and moons_vae for each seed, with four phases and with twelve in training, lets
task=interpolate measure each, and prints means with standard deviations over seeds. About a minute a run on
one core. Runs that are already in OUT are not trained again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import gentrain
from gentrain.analysis.latents import linear
from gentrain.analysis.moon_midpoints import around, drawn_as_in
from gentrain.images import to_picture
from gentrain.viz.grids import labelled_grid

TRAINED_ON = {"four phases": "[0,90,180,270]", "twelve phases": str(list(range(0, 360, 30))).replace(" ", "")}
COLUMNS = ("mse", "fitting_phase_off_degrees", "fitting_mse")


def measured(out: Path, family: str, phases: str, seed: int) -> dict[str, Any]:
    run = out / f"{family}-{phases.split()[0]}-{seed}"
    if not (run / "interpolate/midpoints.json").exists():
        chosen = [f"experiment=moons_{family}", f"data.phases={TRAINED_ON[phases]}", f"seed={seed}"]
        command(*chosen, f"run_dir={run}")
        command("task=interpolate", f"run={run}")
    return json.loads((run / "interpolate/midpoints.json").read_text())["figures"]


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "gentrain", *arguments], check=True, stdout=subprocess.DEVNULL)


def say(name: str, figures: list[dict[str, Any]]) -> None:
    cells = []
    for column in COLUMNS:
        values = [figure[column] for figure in figures]
        cells.append(f"{statistics.fmean(values):8.4f} ± {statistics.stdev(values):.4f}")
    print(f"{name:32s}" + "  ".join(cells), flush=True)


def main() -> None:
    out, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"{'':32s}" + "  ".join(f"{column:>17s}" for column in COLUMNS))
    for phases in TRAINED_ON:
        print(phases)
        for family in ("ae", "vae"):
            found = [measured(out, family, phases, seed) for seed in range(seeds)]
            for what in ("decoded midpoint", "reconstruction"):
                say(f"  {family}, {what}", [figures[what] for figures in found])
        say("  cross-fade", [figures["cross-fade"] for figures in found])
    stacked({f"trained on {phases}": picture(out, phases) for phases in TRAINED_ON}).save(out / "moons.png")


def stacked(images: dict[str, Image.Image]) -> Image.Image:
    """One below the other, each under its words."""
    line = 24
    width = max(image.width for image in images.values())
    canvas = Image.new("RGB", (width, sum(image.height + line for image in images.values())), "white")
    top = 0
    for words, image in images.items():
        ImageDraw.Draw(canvas).text((4, top + line / 2), words, "black", ImageFont.load_default(14), "lm")
        canvas.paste(image, (0, top + line))
        top += image.height + line
    return canvas


def picture(out: Path, phases: str) -> Image.Image:
    """The truth, both families and the cross-fade, from half moon over full moon to half moon, for seed 0."""
    rows: dict[str, Tensor] = {}
    for family in ("ae", "vae"):
        run = gentrain.load(out / f"{family}-{phases.split()[0]}-0")
        source, moons = drawn_as_in(run)
        found = around(run, linear, moons, source.places("test", 1))
        rows = {"truth": found["truth"], **rows, family.upper(): found["decoded"]}
        rows |= {"cross-fade": found["cross-fade"]}
    order = ("truth", "VAE", "AE", "cross-fade")
    return labelled_grid(to_picture(torch.stack([rows[name] for name in order]), 256), order)


if __name__ == "__main__":
    main()
