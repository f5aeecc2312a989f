"""One study, two processes, both killed: does the search come out whole?

    python scripts/soak_tune.py                 # 20 trials; about three minutes on one core

Two processes run the same `gentrain task=tune`. Each is killed with SIGKILL once, in the middle of a trial,
and started again. At the end there must be exactly as many trials as asked for, at least one of them pruned,
none trained from its beginning twice, and each that was killed, like the best one, equal bit for bit (every
tensor of the last checkpoint, and the curves) to its settings trained by hand. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from soak import curves, same

SETTINGS = {
    "data.count": 500,
    "model.latent_dim": 4,
    "model.width": 4,
    "model.hidden": 16,
    "model.mixtures": 2,
    "train.max_steps": 40,
    "train.batch_size": 16,
    "train.log_every_steps": 10,
    "train.eval_every_steps": 10,
    "train.sample_every_steps": "null",
    "train.save_every_steps": 5,
    "train.sample_count": 4,
    "device.threads": 1,
}
SEARCH = {"tune.startup_trials": 5, "tune.prune_after_trials": 3}
SPACE = [
    "tune.space.optimizer.lr={low: 1.0e-4, high: 5.0e-2, log: true}",
    "tune.space.model.dropout={low: 0.0, high: 0.5}",
]


def words(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def start(study: Path, trials: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gentrain", "task=tune", f"tune.dir={study}", f"tune.trials={trials}"]
    with log.open("ab") as out:
        return subprocess.Popen([*command, *words(SETTINGS), *words(SEARCH), *SPACE], stdout=out, stderr=out)


def state(study: Path) -> dict[str, Any]:
    file = study / "study.json"
    return json.loads(file.read_text()) if file.is_file() else {"rows": []}


def kill_in_mid_trial(process: subprocess.Popen[bytes], log: Path, after: int, study: Path) -> bool:
    """Once `after` trials have ended, and this process has saved a checkpoint of another."""
    while process.poll() is None:
        text = log.read_text() if log.is_file() else ""
        last = text.rfind("\nrun directory: ")
        if last >= 0 and sum(row["state"] != "running" for row in state(study)["rows"]) >= after:
            run = Path(text[last:].splitlines()[1].removeprefix("run directory: "))
            saved = list((run / "checkpoints").glob("step_*.pt"))
            if saved and not (run / "result.json").exists():
                process.kill()
                process.wait()
                return True
        time.sleep(0.05)
    return False


def parts(run: Path, step: int) -> Any:
    return torch.load(run / "checkpoints" / f"step_{step:08d}.pt", weights_only=True)["parts"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    folder = Path(tempfile.mkdtemp(prefix="soak-tune-"))
    study, logs = folder / "study", [folder / f"{name}.log" for name in ("one", "other")]
    print(f"in {folder}", flush=True)
    began = time.monotonic()
    processes = [start(study, trials, log) for log in logs]
    killed = []
    for number, after in ((0, trials // 4), (1, trials // 2)):
        if kill_in_mid_trial(processes[number], logs[number], after, study):
            killed.append(number)
            print(f"{time.monotonic() - began:.0f} s: killed process {number}", flush=True)
        processes[number] = start(study, trials, logs[number])
    statuses = [process.wait() for process in processes]
    print(f"{time.monotonic() - began:.0f} s: both ended, with {statuses}", flush=True)
    last = folder / "again.log"
    statuses.append(start(study, trials, last).wait())  # the same command again: nothing is left to do
    print(last.read_text())

    found = state(study)
    resumed = []
    for row in found["rows"]:
        meta = json.loads((study / row["run"] / "meta.json").read_text())
        if len(meta["sessions"]) > 1:
            resumed.append((row, [session["start_step"] for session in meta["sessions"]]))
    for row, steps in resumed:
        print(
            f"trial {row['number']} was begun at steps {steps}, and ended as {row['state']} at {row['step']}"
        )
    by_hand = [*resumed, (found["rows"][found["best"]["number"]], [])]
    equal = []
    for row, _ in by_hand:
        run, step = folder / f"by_hand_{row['number']}", row["step"]
        command = shlex.split(found["best"]["command"])[1:]
        command = [word for word in command if word.partition("=")[0] not in found["space"]]
        command += [f"{key}={row[key]!r}" for key in found["space"]]
        command += [f"run_dir={run}", "train.keep_last=100"]
        subprocess.run([sys.executable, "-m", "gentrain", *command], check=True, stdout=subprocess.DEVNULL)
        trained = study / row["run"]
        both = same(parts(trained, step), parts(run, step))
        equal.append(both and curves(trained) == [line for line in curves(run) if line["step"] <= step])
        print(
            f"trial {row['number']} equals its settings trained by hand, at step {step}: {equal[-1]}",
            flush=True,
        )
    checks = {
        f"{trials} trials": [row["number"] for row in found["rows"]] == list(range(trials)),
        "one run directory each": len(list(study.glob("trial_*"))) == trials,
        "all ended": all(row["state"] in ("finished", "pruned") for row in found["rows"]),
        "at least one pruned": found["states"].get("pruned", 0) >= 1,
        "both processes killed": len(killed) == 2,
        "what was killed was gone on with, nothing begun anew": len(resumed) == 2
        and all(steps[1] > 0 for _, steps in resumed),
        "equal bits": bool(equal) and all(equal),
        "exit status 0": statuses == [0, 0, 0],
    }
    for name, ok in checks.items():
        print(f"{'ok  ' if ok else 'FAIL'} {name}")
    print(f"{time.monotonic() - began:.0f} s in all, {os.cpu_count()} cores")
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()
