"""What must not change when the code is only rearranged: hashes of runs of every family, small.

    python scripts/golden.py > before.txt
    python scripts/golden.py --against before.txt      # exit status 1, and which hash differs

Each family trains six steps on 200 drawn pictures, goes on once from step 3 as if it had been killed there
(the end must be the same), trains in two processes, and is sampled and evaluated. Printed is the beginning of
the SHA-256 of the curves (without perf/), of every tensor and number under a checkpoint's `parts`, of the
samples' pixels and of the figures of evaluation.json (without times and paths).

Hashes belong to one machine, one torch and one number of threads (one, here): compare builds side by side.
Only commands and files of DESIGN.md's interface are used, so it runs on builds of any layout.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

from gentrain.cli import main as command

FAMILIES: dict[str, list[str]] = {
    "vae": ["model.latent_dim=3", "model.width=4", "model.hidden=8", "model.mixtures=2"],
    "pixelcnn": ["model.width=4", "model.layers=2", "model.first_kernel=3", "model.head_width=8"],
    "pixelrnn": ["model.width=3", "model.layers=2", "model.first_kernel=3", "model.head_width=8"],
    "ae": ["model.latent_dim=3", "model.width=4", "model.hidden=8"],
    "gsn": ["model.latent_dim=3", "model.width=4", "model.hidden=8", "model.sample_steps=3"],
    "gmm": ["model.components=2", "model.factors=1"],
    "gan": [
        "model.latent_dim=4",
        "model.widths=[8,4]",
        "model.group_width=4",
        "model.alarm_every_steps=2",
        "model.alarm_after_steps=0",
        "train.frechet_samples=70",
    ],
}
COMMON = [
    "data=folder",
    "data.size=8",
    "data.held_out=0.4",
    "data.flip=true",
    "device=cpu",
    "device.threads=1",
    "train.max_steps=6",
    "train.batch_size=8",
    "train.log_every_steps=1",
    "train.eval_every_steps=2",
    "train.sample_every_steps=3",
    "train.save_every_steps=3",
    "train.sample_count=5",
    "optimizer.warmup_steps=2",
]
COLUMNS = ("curves", "parts", "two processes: curves", "parts", "samples", "evaluation")
NOT_OF_THE_RUN = ("seconds", "run", "cost", "parameters", "written")  # of evaluation.json: times and paths


def digest(value: Any) -> str:
    """The beginning of the SHA-256 of nested dicts, lists, tensors, arrays and plain values."""
    sha = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            add([str(item.dtype), list(item.shape)])
            sha.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(item, np.ndarray):
            add([str(item.dtype), list(item.shape)])
            sha.update(item.tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                add(str(key))
                add(item[key])
        elif isinstance(item, list | tuple):
            sha.update(f"[{len(item)}".encode())
            for part in item:
                add(part)
        else:
            sha.update(repr(item).encode())

    add(value)
    return sha.hexdigest()[:12]


def draw_pictures(folder: Path) -> None:
    """200 ramps with noise, as PNG files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(200):
        ends = rng.integers(40, 200, (2, 1, 1, 3))
        ramp = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 12)[:, None, None]
        pixels = (ramp + rng.integers(0, 20, (12, 12, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def gentrain(*arguments: str) -> None:
    """The command, in this process. RuntimeError with what it said if it fails."""
    said = io.StringIO()
    sys.argv = ["gentrain", *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{' '.join(arguments)}: {said.getvalue()}") from ended


def in_two_processes(*arguments: str) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, "-m", "gentrain", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}, in two processes: {done.stdout}{done.stderr}")


def curves(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in lines]


def parts(run: Path) -> Any:
    """Of the newest checkpoint and of the best one."""
    files = [max((run / "checkpoints").glob("step_*.pt")), run / "checkpoints/best.pt"]
    return [torch.load(file, weights_only=True)["parts"] for file in files if file.is_file()]


def killed_after(step: int, run: Path, copy: Path) -> Path:
    """A copy of a run as it was after a step: killed there, before anything else was written."""
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints").glob("step_*.pt"):
        if int(file.stem.removeprefix("step_")) > step:
            file.unlink()
    (copy / "result.json").unlink()
    return copy


def evaluation(run: Path) -> Any:
    def kept(item: Any) -> Any:
        if isinstance(item, dict):
            return {
                key: kept(value)
                for key, value in item.items()
                if not any(part in str(key) for part in NOT_OF_THE_RUN)
            }
        return [kept(part) for part in item] if isinstance(item, list) else item

    return kept(json.loads((run / "evaluation.json").read_text()))


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


def golden(family: str) -> list[str]:
    """One row of the table. RuntimeError if a run that went on does not end as the whole one."""
    whole, cut, two = (Path(family) / name for name in ("whole", "cut", "two"))
    typed = [f"model={family}", f"data.root={Path('pictures').resolve()}", *COMMON, *FAMILIES[family]]
    gentrain(*typed, f"run_dir={whole}")
    gentrain(f"resume={killed_after(3, whole, cut)}")
    row = [digest(curves(whole)), digest(parts(whole))]
    if row != [digest(curves(cut)), digest(parts(cut))]:
        raise RuntimeError(f"{family}: gone on with from step 3, it does not end as the whole run")
    in_two_processes(*typed, f"run_dir={two}")
    row += [digest(curves(two)), digest(parts(two))]
    gentrain(
        "task=sample", f"run={whole}", "sample.count=5", "sample.seed=1", "device=cpu", "device.threads=1"
    )
    gentrain("task=evaluate", f"run={whole}", "evaluate.samples=70", "device=cpu", "device.threads=1")
    return [*row, digest(pixels(whole / "sample")), digest(evaluation(whole))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="a table that this command printed before")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only these; may be repeated")
    args = parser.parse_args()
    before = args.against.read_text().splitlines() if args.against else None
    lines = [f"| family | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    print("\n".join(lines), flush=True)
    differ = []
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        os.environ["GENTRAIN_CACHE"] = str(Path(made) / "cache")
        draw_pictures(Path("pictures"))
        for family in args.family or FAMILIES:
            line = f"| {family} | {' | '.join(golden(family))} |"
            print(line, flush=True)
            if before is not None and line not in before:
                old = next((row for row in before if row.startswith(f"| {family} |")), "it was not there")
                differ.append(f"{family} differs:\n  before {old}\n  now    {line}")
    print("\n".join(differ) if differ else "all equal" if before is not None else "", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
