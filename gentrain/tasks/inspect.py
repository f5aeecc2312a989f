"""task=inspect: what is in a data set, before anything is trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gentrain.config.ranges import Between
from gentrain.config.settings import Preprocessing
from gentrain.data.build import Packed, check_data, open_data, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.portrait import portrait
from gentrain.data.reading.entries import SPLITS
from gentrain.data.summary import Summary, summarize
from gentrain.errors import UserError, few
from gentrain.images import to_picture
from gentrain.runs.rundir import RunDir, write_json
from gentrain.runtime.console import preparing, say
from gentrain.runtime.files import expanded, remove_half_written, write_atomically

SECTIONS = ("data",)
UNUSED = ("model", "optimizer", "train", "device", "seed", "resume", "init_from", "run", "checkpoint")
UNUSED_OF_DATA = ("data.flip", "data.shift", "data.on_bad", "data.allow_changed")  # training's
OWN_FILES = ("inspect.png", "inspect.json", ".lock", ".inspect.*.tmp")
SHOWN = 20  # bad pictures, and choices of a label, in the table; inspect.json has all


@dataclass(frozen=True)
class Settings:
    """configs/task/inspect.yaml."""

    count: Annotated[int, Between(1, 1024)]
    png_count: Annotated[int, Between(1, 100_000)]


def check(config: dict[str, Any], overrides: list[str]) -> None:
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in UNUSED or key in UNUSED_OF_DATA:
            raise UserError(f"{override} has no meaning for task=inspect, which looks at data=... alone")
    run_dir = expanded(config["run_dir"]) if config["run_dir"] else None
    if run_dir is not None and run_dir.exists() and not _may_be_written(run_dir):
        raise UserError(f"run_dir={run_dir} is taken; choose a new or an empty folder for task=inspect")
    check_data(config["data"])


def _may_be_written(directory: Path) -> bool:
    return directory.is_dir() and all(
        any(fnmatchcase(file.name, own) for own in OWN_FILES) for file in directory.iterdir()
    )


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Writes inspect.png and inspect.json, and prints a table."""
    check(config, overrides)
    settings, console = Settings(**config["inspect"]), Console()
    section = config["data"] | {"on_bad": "skip"}  # bad pictures are what one wants to see here
    view = preprocessing_of(section)
    with preparing(console) as progress:
        packed = open_data(section, progress)
    with preparing(console, "measuring") as progress:
        summary = summarize(packed, settings.png_count, progress)
    grid = ImageSplit(packed.split("train"), view, torch.device("cpu")).first(settings.count)
    wanted = expanded(config["run_dir"]) if config["run_dir"] else None
    directory = RunDir.create(wanted, f"inspect-{section['name']}")
    title = f"{section['name']}: {packed.counts['train']} training pictures at {view.description}"
    file = BytesIO()
    portrait(to_picture(grid, view.levels).numpy(), summary, title).save(file, "png")
    remove_half_written(directory.path)
    write_atomically(directory.path / "inspect.png", file.getvalue())
    write_json(directory.path / "inspect.json", as_json(packed, summary, view, section))
    console.print(table(packed, summary, view, section))
    for words in complaints(packed):
        say(console, words)
    say(console, f"written to {directory.path / 'inspect.png'} and inspect.json")
    directory.unlock()


def duplicates(packed: Packed) -> int:
    """How many images have the pixels of an earlier one."""
    return len(packed.images) - len(np.unique(packed.identities[:, 1]))


def as_json(packed: Packed, summary: Summary, view: Preprocessing, section: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": section,
        "fingerprint": packed.fingerprint,
        "shape": list(packed.images.shape[1:]),
        "pictures": view.description,
        "counts": packed.counts,
        "duplicates": duplicates(packed),
        "facts": packed.facts,
        "bad": [asdict(bad) for bad in packed.bad],
        "labels": summary.labels,
        "mean": summary.mean_C.tolist(),
        "standard_deviation": summary.deviation_C.tolist(),
        "png_bits_per_dim": summary.png_bits_per_dim,
        "histogram": summary.histogram_C256.tolist(),
    }


def table(packed: Packed, summary: Summary, view: Preprocessing, section: dict[str, Any]) -> Table:
    channels, height, width = packed.images.shape[1:]
    made = Table(title=f"data={section['name']}", show_header=False)
    counts = ", ".join(f"{packed.counts[split]} {split}" for split in SPLITS)
    made.add_row("pictures", counts)
    made.add_row("shape", f"{width}x{height}, {'grey' if channels == 1 else 'colour'}, {view.description}")
    originals = packed.facts.get("originals")
    if originals:
        sizes = ", ".join(f"{name} {w}x{h}" for name, (w, h) in list(originals.items())[:3])
        made.add_row("originals", f"{sizes}; {originals['colored']} in colour formats")
    made.add_row("packed", f"{packed.images.nbytes / 2**20:.1f} MiB")
    made.add_row("equal to another one", str(duplicates(packed)))
    if packed.facts.get("left_out"):
        made.add_row("left out: held out too", str(packed.facts["left_out"]))
    made.add_row("bad", str(len(packed.bad)))
    ignored = packed.facts.get("ignored")
    if ignored:
        made.add_row("not looked at", escape(few([f"{n} {suffix}" for suffix, n in ignored.items()])))
    made.add_row("values, mean", "  ".join(f"{value:.1f}" for value in summary.mean_C))
    made.add_row("standard deviation", "  ".join(f"{value:.1f}" for value in summary.deviation_C))
    bits = summary.png_bits_per_dim
    made.add_row(
        "PNG, each picture alone", f"{bits:.2f} bits/dim, {bits * channels:.2f} bits/pixel (at 256 levels)"
    )
    if "entropy_bits" in packed.facts:
        entropy = packed.facts["entropy_bits"]
        made.add_row(
            "true entropy", f"{entropy:.2f} bits/image, {entropy / packed.images[0].size:.4f} bits/dim"
        )
    for name, choices in summary.labels.items():
        made.add_row(f"label {escape(name)}", escape(_choices(choices)))
    return made


def _choices(choices: dict[str, list[int]]) -> str:
    """The choices with their training pictures, the most frequent first."""
    ordered = sorted(choices.items(), key=lambda item: -item[1][0])
    return few([f"{choice} {counts[0]}" for choice, counts in ordered], SHOWN)


def complaints(packed: Packed) -> list[str]:
    said = [f"bad: {bad.name} ({bad.reason})" for bad in packed.bad[:SHOWN]]
    if len(packed.bad) > SHOWN:
        said.append(f"and {len(packed.bad) - SHOWN} more: see inspect.json")
    if packed.facts.get("remarks"):
        said.append(few(packed.facts["remarks"], SHOWN, between="; "))
    return said
