"""What jobs side by side bring: four equal jobs, one at a time and two at a time, on two cores.

    python scripts/benchmark_parallel.py          (an otherwise idle machine; about five minutes on two cores)

One at a time with one thread and with two, then two at a time with one thread each, which is what
hydra/launcher=parallel does on two processors. Prints wall time of the whole command (with starting Python),
images per second over all jobs, and each job's own rate as it has logged it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, BATCH, JOBS = 120, 64, 4
SETTINGS = [
    "model=vae", "data=anime", "data.count=2000", f"train.max_steps={STEPS}", f"train.batch_size={BATCH}",
    "train.log_every_steps=50", "train.eval_every_steps=null", "train.sample_every_steps=null",
    "train.save_every_steps=null", "train.sample_count=4", "seed=1,2,3,4",
]  # fmt: skip
WAYS = {  # n_jobs, threads of each
    "one at a time, 1 thread": (1, 1),
    "one at a time, 2 threads": (1, 2),
    "two at a time, 1 thread each": (2, 1),
    "two at a time, 2 threads each": (2, 2),
}


def main() -> None:
    print(f"{JOBS} jobs of {STEPS} steps of {BATCH} faces of 32 px, model=vae; {os.cpu_count()} processors")
    prepare = [text for text in SETTINGS if not text.startswith(("seed", "train.max_steps"))]
    with tempfile.TemporaryDirectory() as folder:
        run(
            ["gentrain", *prepare, "train.max_steps=1", "run_dir=warm"], folder, 1
        )  # faces are drawn and cached
        for number, (words, (at_once, threads)) in enumerate(WAYS.items()):
            launcher = ["hydra/launcher=parallel", f"hydra.launcher.n_jobs={at_once}"]
            sweep = f"sweep{number}"
            seconds = run(["gentrain", "-m", *launcher, *SETTINGS, f"sweep_dir={sweep}"], folder, threads)
            rates = [rate(path) for path in sorted(Path(folder, sweep).glob("*/metrics.jsonl"))]
            assert len(rates) == JOBS
            images = JOBS * STEPS * BATCH
            own = statistics.mean(rates)
            print(
                f"{words:44} {seconds:6.1f} s  {images / seconds:6.0f} images/s over all, "
                f"{own:6.0f} in the steps of a job"
            )


def run(command: list[str], folder: str, threads: int) -> float:
    """Wall time in seconds."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun


def rate(metrics: Path) -> float:
    """Images per second of a job, the median of what it has logged."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return statistics.median(
        line["perf/images_per_second"] for line in lines if "perf/images_per_second" in line
    )


if __name__ == "__main__":
    main()
