"""In a cluster's queue: torchrun's variables, and a run that is preempted, queued again and ends as it would have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Command
from families import FAMILIES, assert_same_run
from submitit.slurm.slurm import SlurmJobEnvironment

from gentrain.sweeps import slurm
from gentrain.sweeps.slurm import Preemption, torchrun_environment

# SLURM's variables of every task of a job array's element: 2 nodes with 3 tasks each.
NODES = 2
TASKS = 3
COMMON = {
    "SLURM_JOB_ID": "4217003",
    "SLURM_ARRAY_JOB_ID": "4217000",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_NTASKS": str(NODES * TASKS),
    "SLURM_JOB_NUM_NODES": str(NODES),
    "SLURM_JOB_NODELIST": "gpu[07-08],login1",
}


def test_tasks_of_slurm_see_what_torchrun_would_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    seen = []
    for rank in range(NODES * TASKS):
        own = {"SLURM_PROCID": rank, "SLURM_NODEID": rank // TASKS, "SLURM_LOCALID": rank % TASKS}
        for name, value in (COMMON | {key: str(number) for key, number in own.items()}).items():
            monkeypatch.setenv(name, value)
        seen.append(torchrun_environment(SlurmJobEnvironment()))
    assert [(v["RANK"], v["LOCAL_RANK"]) for v in seen] == [
        ("0", "0"), ("1", "1"), ("2", "2"), ("3", "0"), ("4", "1"), ("5", "2")
    ]  # fmt: skip
    shared = {(v["WORLD_SIZE"], v["LOCAL_WORLD_SIZE"], v["MASTER_ADDR"], v["MASTER_PORT"]) for v in seen}
    assert shared == {("6", "3", "gpu07", "27003")}
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert torchrun_environment(SlurmJobEnvironment())["MASTER_ADDR"] == "10.0.0.1"


@dataclass
class One:
    """A task of a job on a single node."""

    num_tasks: int = 2
    num_nodes: int = 1
    global_rank: int = 1
    local_rank: int = 1
    hostnames: list[str] = field(default_factory=lambda: ["a-name-that-may-not-resolve"])
    raw_job_id: str = "29999"


def test_one_node_needs_no_name_and_ports_stay_in_their_range() -> None:
    assert torchrun_environment(One())["MASTER_ADDR"] == "127.0.0.1"
    for job in ("0", "19999", "20000", "999999999"):
        assert 10_000 <= int(torchrun_environment(One(raw_job_id=job))["MASTER_PORT"]) < 30_000


@pytest.mark.parametrize(
    ("number", "queue", "again"),
    [
        (signal.SIGUSR1, "RUNNING", True),
        (signal.SIGUSR2, "RUNNING", True),
        (signal.SIGTERM, "RUNNING", True),  # the grace time before preemption
        (signal.SIGTERM, "PREEMPTED", True),
        (signal.SIGTERM, "COMPLETING", False),  # scancel
        (signal.SIGTERM, "", False),
        (None, "RUNNING", False),
    ],
)
def test_what_is_queued_again(
    number: signal.Signals | None, queue: str, again: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for squeue says what SLURM would; the handler that submitit installs is one that takes notes."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {queue}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: calls.append(number))
    try:
        with Preemption() as preemption:
            if number is not None:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)  # it may come twice
            assert calls == []  # not before the run has saved
            assert preemption.warned == (number is not None)
            preemption.requeue()
        assert bool(calls) == again
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_without_squeue_a_job_told_to_end_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm._cancelled()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not slurm._cancelled()


# Read at the start of each Python process. In the run's own it patches a step: the first time that step 3 comes, the
# process of submitit's job is warned, as SLURM does it, and the step waits for what comes of it.
PREEMPTED = """
import os, signal, sys, time
from pathlib import Path
if any(argument.startswith("run_dir=") for argument in sys.orig_argv):
    from gentrain.training.minimize import Minimize
    original = Minimize.train_step
    def train_step(self, next_batch, step):
        warned = Path(os.environ["WARNED"])
        if step == 3 and not warned.exists():
            warned.touch()
            os.kill(os.getppid(), signal.SIG)
            time.sleep(1)
        return original(self, next_batch, step)
    Minimize.train_step = train_step
"""


def test_a_preempted_job_is_queued_again_and_ends_as_an_uninterrupted_one(
    gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    """submitit's local executor: it runs the job, is asked to run it again, and does."""
    (tmp_path / "sitecustomize.py").write_text(PREEMPTED.replace("signal.SIG)", "signal.SIGUSR2)"))
    command = [*tiny, *FAMILIES["vae"], "train.save_every_steps=null"]
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "gentrain",
            "-m",
            "hydra/launcher=submitit_local",
            *command,
            "sweep_dir=sweep",
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "WARNED": str(tmp_path / "warned"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr + child.stdout
    (row,) = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert (row["status"], row["step"]) == ("finished", 6)
    sessions = json.loads((Path(row["run"]) / "meta.json").read_text())["sessions"]
    assert [session["start_step"] for session in sessions] == [0, 4], "saved in step 4, then gone on"
    logs = "".join(path.read_text() for path in Path("sweep/.submitit").rglob("*_log.*"))
    assert "Requeued job" in logs
    assert gentrain(*command, "run_dir=alone").status == 0
    assert_same_run(Path("alone"), Path(row["run"]))


def test_the_tasks_of_a_job_train_one_run_together(tiny: list[str], tmp_path: Path) -> None:
    """Two of submitit's, as SLURM would start them: the variables that they are given connect them."""
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    command = [*launcher, *tiny, *FAMILIES["vae"], "train.max_steps=2", "sweep_dir=sweep"]
    done = subprocess.run(
        [sys.executable, "-m", "gentrain", "-m", *command],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = json.loads((tmp_path / "sweep/sweep.json").read_text())["jobs"]
    assert (row["status"], row["step"]) == ("finished", 2)
    sessions = json.loads((tmp_path / row["run"] / "meta.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [2]
