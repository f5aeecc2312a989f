"""All families on one data set at one budget of training time, and the page that compares them.

    python scripts/reproduce.py            # data=anime, 2.5 minutes a family: half an hour on two cores
    python scripts/reproduce.py --data fashion_mnist --minutes 10

For each family a pilot of a few seconds measures how fast it trains here, and its number of steps is what
then fits the budget: a schedule has to know its end. Then `gentrain` is run as a user would run it: train,
evaluate, interpolate, complete; and `task=compare` over all. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PILOT_SECONDS = 5.0
FIRST_PILOT_STEPS, MOST_PILOT_STEPS = 4, 400
CHECKS = 4  # evaluations and grids while a family trains
# What is shown beside samples, where a family has it.
BETWEEN_PICTURES = ["task=interpolate"]
COMPLETED = ["task=complete"]
EXTRAS: dict[str, tuple[list[str], ...]] = {
    "gmm": (),
    "ae": (BETWEEN_PICTURES,),
    "vae": (BETWEEN_PICTURES, COMPLETED),
    "gsn": (COMPLETED,),
    "gan": (["task=interpolate", "interpolate.between=seeds"], COMPLETED),
    "pixelcnn": (COMPLETED,),
    "pixelrnn": (COMPLETED,),
}
COLUMNS = {  # of the table at the end: a figure's name before its extractor, and a heading
    "bits_per_dim": "bits/dim",
    "distance_to_truth": "distance to the truth, bits/image",
    "frechet_distance": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "seconds_for_64_samples": "64 samples, s",
}


@dataclass(frozen=True)
class Job:
    """One family: what is added to every command, and where its run is."""

    family: str
    settings: list[str]
    run: Path


def main() -> None:
    arguments = _arguments()
    out = Path(arguments.out or f"outputs/reproduce/{arguments.data}")
    begun = time.monotonic()
    shared = [f"data={arguments.data}", *arguments.settings]
    for family in arguments.families:
        job = Job(family, [f"model={family}", *shared], out / "runs" / family)
        steps = _steps(job, out / "pilots" / family, arguments.minutes)
        checks = (
            f"train.eval_every_steps={-(-steps // CHECKS)}",
            f"train.sample_every_steps={-(-steps // CHECKS)}",
        )
        _gentrain(
            *job.settings,
            f"train.max_steps={steps}",
            *checks,
            "train.save_every_steps=null",
            f"run_dir={job.run}",
        )
        if not (job.run / "evaluation.json").is_file():
            _gentrain("task=evaluate", f"run={job.run}", f"evaluate.samples={arguments.samples}")
        for extra in EXTRAS[family]:
            if not (job.run / extra[0].removeprefix("task=")).is_dir():
                _gentrain(*extra, f"run={job.run}")
        print(f"[{(time.monotonic() - begun) / 60:.1f} min] {family} is done", flush=True)
    _gentrain("task=compare", f"runs={out / 'runs'}", f"compare.out={out / 'compare'}")
    runs = [out / "runs" / family for family in arguments.families]
    table = f"{markdown([read_row(run) for run in runs])}\n{protocol(runs[0], arguments.data)}\n"
    (out / "table.md").write_text(table)
    print(f"\n{table}\n{(time.monotonic() - begun) / 60:.1f} minutes; {out / 'compare' / 'compare.html'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default="anime", help="as in data=..., with its defaults (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=2.5, help="of training, a family (default: %(default)s)"
    )
    parser.add_argument("--families", nargs="+", choices=EXTRAS, default=list(EXTRAS), metavar="FAMILY")
    parser.add_argument("--samples", type=int, default=1000, help="evaluate.samples (default: %(default)s)")
    parser.add_argument("--out", help="a folder (default: outputs/reproduce/DATA)")
    parser.add_argument("settings", nargs="*", help="more settings for all families, as for gentrain")
    return parser.parse_args()


def _steps(job: Job, pilots: Path, minutes: float) -> int:
    """How many steps fit the budget here: as the run says if it was begun before, else by pilots."""
    begun = job.run / "config.yaml"
    if begun.is_file():
        from omegaconf import OmegaConf

        steps = int(OmegaConf.load(begun).train.max_steps)
        print(f"{job.run} was begun with {steps} steps, and keeps them", flush=True)
        return steps
    steps = FIRST_PILOT_STEPS
    while True:
        pilot = pilots / str(steps)
        quiet = [f"train.{what}_every_steps=null" for what in ("eval", "sample", "save")]
        quiet += ["train.frechet_samples=null", "train.sample_count=1"]
        if not (pilot / "result.json").is_file():
            # The rate of the second half: the first one still sets things up.
            halves = f"train.log_every_steps={steps // 2}"
            _gentrain(*job.settings, f"train.max_steps={steps}", halves, *quiet, f"run_dir={pilot}")
        rates = [
            line["perf/images_per_second"] for line in _metrics(pilot) if "perf/images_per_second" in line
        ]
        seconds_a_step = _batch_size(pilot) / rates[-1]
        if steps >= MOST_PILOT_STEPS or steps * seconds_a_step >= PILOT_SECONDS:
            return max(1, round(60 * minutes / seconds_a_step))
        wanted = round(1.2 * PILOT_SECONDS / seconds_a_step)
        steps = min(MOST_PILOT_STEPS, max(2 * steps, wanted + wanted % 2))


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _batch_size(run: Path) -> int:
    from omegaconf import OmegaConf

    return int(OmegaConf.load(run / "config.yaml").train.batch_size)


def _gentrain(*settings: str) -> None:
    """The command, which says itself what is wrong if anything is; then there is no going on."""
    print("+ gentrain", *settings, flush=True)
    command = subprocess.Popen([sys.executable, "-m", "gentrain", *settings])
    while command.poll() is None:
        try:
            command.wait()
        except KeyboardInterrupt:
            continue  # the command has it too, and ends once it has saved; subprocess.run would kill it
    if command.returncode:
        sys.exit(command.returncode)


def read_row(run: Path) -> list[str]:
    """Of evaluation.json: the family, what COLUMNS name, and the parameters of all its networks."""
    content = json.loads((run / "evaluation.json").read_text())
    cells = [run.name]
    figures = {name.partition("[")[0]: figure for name, figure in reversed(content["figures"].items())}
    cells += [_cell(figures[name]) if name in figures else "" for name in COLUMNS]
    return [*cells, f"{content['cost']['parameters'] / 1e6:.2f} M"]


def protocol(run: Path, data: str) -> str:
    """How the figures of all rows were measured, in words: all runs are evaluated alike."""
    from gentrain.comparison.figures import WHOSE, describe_protocol

    content = json.loads((run / "evaluation.json").read_text())
    common = {key: value for key, value in content["protocol"].items() if key not in WHOSE} | {"data": data}
    for name, figure in content["figures"].items():
        if name.startswith("frechet_distance["):
            common |= figure["protocol"]
    return f"{'; '.join(describe_protocol(common))}. In brackets: training pictures in the samples' place."


def _cell(figure: dict[str, Any]) -> str:
    bound = "≤ " if figure["meaning"].startswith("upper bound") else ""
    floor = figure.get("floor", {}).get("train")
    beside = "" if floor is None else f" ({floor:.2g})"
    mean = figure["mean"]
    return f"{bound}{mean:,.0f}{beside}" if abs(mean) >= 1000 else f"{bound}{mean:.3g}{beside}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    headings = ["", *COLUMNS.values(), "parameters"]
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
