"""Resume after a real SIGKILL, at the moments that matter, is bit for bit the uninterrupted run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command
from families import FAMILIES, assert_same_run, newest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Each patches one function of a child process, so that it dies there at step 4 (saves are due at 2, 4, 6).
DIE = "import os, signal\ndie = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
MOMENTS = {
    "before the first save": """
from gentrain.training.minimize import Minimize
original = Minimize.train_step
def train_step(self, next_batch, step):
    if step == 1: die()
    return original(self, next_batch, step)
Minimize.train_step = train_step
""",
    "in mid-step": """
from gentrain.training.minimize import Minimize
import torch
original = torch.optim.AdamW.step
steps = 0
def step(self, *arguments):
    global steps
    steps += 1
    if steps == 4:
        next(iter(self.param_groups[0]['params'])).data.fill_(0)
        die()
    return original(self, *arguments)
torch.optim.AdamW.step = step
""",
    "in mid-save": """
import gentrain.runs.checkpoint
original = gentrain.runs.checkpoint.write_atomically
def write_atomically(path, *content):
    if path.name == 'step_00000004.pt':
        path.with_name(f'.{path.name}.tmp').write_bytes(content[0][:len(content[0]) // 2])
        die()
    original(path, *content)
gentrain.runs.checkpoint.write_atomically = write_atomically
""",
    "after the last save": """
import gentrain.runs.checkpoint
original = gentrain.runs.checkpoint.prune
def prune(directory, keep_last, keep_from):
    original(directory, keep_last, keep_from)
    if (directory / 'step_00000006.pt').exists(): die()
gentrain.runs.checkpoint.prune = prune
""",
    "in an evaluation": """
from gentrain.training.minimize import Minimize
calls = 0
original = Minimize.eval_step
def eval_step(self, x, generator):
    global calls
    calls += 1
    if calls == 2: die()
    return original(self, x, generator)
Minimize.eval_step = eval_step
""",
}


def killed_and_continued(moment: str, command: list[str], gentrain: Command) -> None:
    """A child killed at `moment` in the run "cut", and the same command again, end as the run "whole" does."""
    code = DIE + MOMENTS[moment] + "\nfrom gentrain.cli import main\nmain()\n"
    child = subprocess.run(
        [sys.executable, "-c", code, *command, "run_dir=cut"], capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    again = gentrain(*command, "run_dir=cut")
    assert again.status == 0, again.err
    gentrain(*command, "run_dir=whole")
    assert_same_run(Path("whole"), Path("cut"))


@pytest.mark.parametrize("kind", ["init_from", "branch"])
def test_sigkill_before_the_first_save_of_a_run_that_took_something_over(
    kind: str, gentrain: Command, tiny: list[str]
) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=first")
    more = ["train.max_steps=9", "train.save_every_steps=null"]
    if kind == "init_from":
        command = [*tiny, *FAMILIES["vae"], *more, "init_from=first"]
    else:
        command = ["resume=first/checkpoints/step_00000004.pt", *more]
    killed_and_continued("in mid-step", command, gentrain)
    assert newest(Path("cut"))["step"] == 9


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill(moment: str, gentrain: Command, tiny: list[str]) -> None:
    command = [*tiny, *FAMILIES["vae"]]
    killed_and_continued(moment, command, gentrain)
    assert not list(Path("cut").rglob(".*.tmp")), "leftovers of the killed process"
    read = EventAccumulator("cut", size_guidance={"scalars": 0})
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_twice_stops_at_once(gentrain: Command, tiny: list[str]) -> None:
    code = """
import os, signal
from gentrain.training.minimize import Minimize
original = Minimize.train_step
def train_step(self, next_batch, step):
    if step == 3:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, next_batch, step)
Minimize.train_step = train_step
from gentrain.cli import main
main()
"""
    command = [*tiny, *FAMILIES["vae"]]
    child = subprocess.run(
        [sys.executable, "-c", code, *command, "run_dir=cut"], capture_output=True, text=True
    )
    assert child.returncode == 130, child.stderr
    assert "Traceback" not in child.stderr
    assert "gentrain resume=cut" in child.stdout
    assert sorted(p.name for p in Path("cut/checkpoints").glob("step_*")) == ["step_00000002.pt"]
    assert gentrain("resume=cut").status == 0
    gentrain(*command, "run_dir=whole")
    assert_same_run(Path("whole"), Path("cut"))
