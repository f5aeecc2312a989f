"""A sweep of eight short jobs, side by side: two are killed (SIGKILL), one diverges; the same command again.

    python scripts/sweep_survives.py [FOLDER]      (Linux; about two minutes on two cores)

Says how often each job was begun and from which step, which steps it has logged, and whether the killed ones
have ended equal bit for bit to the same jobs alone and uninterrupted. Exit status 1 if anything is not so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

STEPS, SAVES, LOGS = 120, 20, 1
SETTINGS = [
    "model=vae", "model.width=8", "model.hidden=32", "model.latent_dim=8", "data=anime", "data.count=512",
    f"train.max_steps={STEPS}", "train.batch_size=16", f"train.log_every_steps={LOGS}",
    f"train.save_every_steps={SAVES}", "train.eval_every_steps=null", "train.sample_every_steps=null",
    "train.sample_count=4", "train.grad_clip=null", "optimizer=sgd",
]  # fmt: skip
RATES = ["1e-5", "1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e30"]
TO_KILL = (1, 4)
SWEEP = ["-m", "hydra/launcher=parallel", *SETTINGS, f"optimizer.lr={','.join(RATES)}", "sweep_dir=sweep"]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="sweep-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"in {folder}; first command, in which jobs {TO_KILL} of 0 .. 7 are killed")
    first = subprocess.Popen([sys.executable, "-m", "gentrain", *SWEEP])
    for number in TO_KILL:
        kill(number, first)
    status_1 = first.wait()
    table_1 = [row["status"] for row in rows()]
    print("\nthe same command again")
    status_2 = subprocess.run([sys.executable, "-m", "gentrain", *SWEEP], check=False).returncode
    healthy = report(table_1, (status_1, status_2))
    for number in TO_KILL:
        alone = [*SETTINGS, f"optimizer.lr={RATES[number]}", f"run_dir=alone-{number}"]
        subprocess.run([sys.executable, "-m", "gentrain", *alone], check=True, capture_output=True)
        same = equal(weights(Path(rows()[number]["run"])), weights(Path(f"alone-{number}")))
        print(f"job {number}, killed and gone on with, equals the job alone bit for bit: {same}")
        healthy = healthy and same
    sys.exit(0 if healthy else 1)


def rows() -> list[dict[str, Any]]:
    return json.loads(Path("sweep/sweep.json").read_text())["jobs"]


def kill(number: int, sweep: subprocess.Popen[bytes]) -> None:
    """With SIGKILL, once it has saved. Only processes below the sweep's own, by their id."""
    while sweep.poll() is None:
        time.sleep(0.05)
        if not Path("sweep/sweep.json").is_file():
            continue
        run = Path(rows()[number]["run"])
        if not list(run.glob("checkpoints/step_*.pt")):
            continue
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"run_dir='{run}'".encode() in command and (entry / "cwd").resolve() == Path.cwd():
                os.kill(int(entry.name), signal.SIGKILL)
                print(f"killed job {number}, {run.name}", flush=True)
                return


def report(before: list[str], statuses: tuple[int, int]) -> bool:
    """A line a job; whether all is as it must be."""
    healthy = statuses == (1, 1)
    print(f"\nexit statuses {statuses}\njob  first command  second command  begun at steps  logged steps")
    for number, (row, was) in enumerate(zip(rows(), before, strict=True)):
        run = Path(row["run"])
        begun = [session["start_step"] for session in json.loads((run / "meta.json").read_text())["sessions"]]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        logged = [line["step"] for line in lines if "train/loss" in line]
        steps = f"{len(logged)}: {logged[0]} .. {logged[-1]}" if logged else "none"
        print(f"{number:3}  {was:13}  {row['status']:14}  {begun!s:14}  {steps}")
        if number == len(RATES) - 1:
            healthy &= (was, row["status"]) == ("failed", "failed") and len(row["earlier_attempts"]) == 1
            continue
        healthy &= row["status"] == "finished" and logged == list(range(LOGS, STEPS + 1, LOGS))
        if number in TO_KILL:
            healthy &= was == "killed" and len(begun) == 2 and begun[0] == 0 < begun[1]
        else:
            healthy &= was == "finished" and begun == [0]
    return healthy


def weights(run: Path) -> dict[str, Any]:
    return torch.load(run / f"checkpoints/step_{STEPS:08d}.pt", weights_only=True)["parts"]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


if __name__ == "__main__":
    main()
