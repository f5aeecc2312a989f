"""Kill a training run again and again at random moments, and compare its end with an uninterrupted run's.

    python scripts/soak.py --kills 50

Each child process is `gentrain ... run_dir=<same>`, killed with SIGKILL after a random time; now and then a
checkpoint's bytes are damaged between two processes. At the end every tensor under `parts`, best.pt's
included, must equal that of a run that nobody disturbed, and so must the curves. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def command(run: Path, steps: int) -> list[str]:
    settings = {
        "run_dir": run,
        "data.count": 500,
        "model.width": 8,
        "train.max_steps": steps,
        "train.batch_size": 16,
        "train.sample_count": 16,
        "train.log_every_steps": 1,
        "train.eval_every_steps": 100,
        "train.sample_every_steps": 50,
        "train.save_every_steps": 7,
        "device.threads": 1,
    }
    return [sys.executable, "-m", "gentrain", *(f"{key}={value}" for key, value in settings.items())]


def newest_step(run: Path) -> int:
    names = sorted(path.name for path in (run / "checkpoints").glob("step_*.pt"))
    return int(names[-1][5:13]) if names else 0


def same(left: Any, right: Any) -> bool:
    """Nested state, equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def curves(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in lines]


def damage(run: Path, rng: random.Random) -> None:
    """Cut the newest checkpoint short: the one before it must be used."""
    path = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def kill_at_random(run: Path, steps: int, rng: random.Random) -> int | None:
    """Start the command and kill it; the exit status if it ended before. Waits for it to have begun."""
    child = subprocess.Popen(command(run, steps), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(("run directory", "going on", "run is", str(run))):
            break
    try:
        output, _ = child.communicate(timeout=rng.uniform(0, 3))
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        return None
    if child.returncode:
        print(output)
    return child.returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, begun = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        subprocess.run(command(whole, args.steps), check=True, capture_output=True)
        kills = damages = 0
        while kills < args.kills:
            status = kill_at_random(cut, args.steps, rng)
            if status is not None:
                print(f"the run ended by itself (status {status}) after {kills} kills; use more --steps")
                break
            kills += 1
            print(f"kill {kills}: newest checkpoint is step {newest_step(cut)} of {args.steps}", flush=True)
            if rng.random() < 0.1 and len(list((cut / "checkpoints").glob("step_*.pt"))) > 1:
                damage(cut, rng)
                damages += 1
        subprocess.run(command(cut, args.steps), check=True, capture_output=True)
        files = ("checkpoints/best.pt", f"checkpoints/step_{args.steps:08d}.pt")
        ends = [[torch.load(run / file, weights_only=True) for file in files] for run in (whole, cut)]
        equal = same([end["parts"] for end in ends[0]], [end["parts"] for end in ends[1]])
        equal_curves = curves(whole) == curves(cut)
    print(
        f"{kills} kills, {damages} damaged checkpoints, {time.monotonic() - begun:.0f} s: "
        f"state {'equal bit for bit' if equal else 'DIFFERS'}, curves {'equal' if equal_curves else 'DIFFER'}"
    )
    return 0 if equal and equal_curves else 1


if __name__ == "__main__":
    sys.exit(main())
