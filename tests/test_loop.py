"""What stops a run, and how it says so."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same, newest
from PIL import Image

from gentrain.runs import checkpoint
from gentrain.runs.tracking import read_metrics
from gentrain.runtime.seeding import derive, generator
from gentrain.training.minimize import Minimize

VAE = FAMILIES["vae"]


def break_step(
    monkeypatch: pytest.MonkeyPatch, at_step: int, error: Exception | None, **metrics: float
) -> None:
    original = Minimize.train_step

    def broken(self: Minimize, next_batch, step: int):  # type: ignore[no-untyped-def]
        if step + 1 == at_step:
            if error is not None:
                raise error
            return original(self, next_batch, step) | metrics
        return original(self, next_batch, step)

    monkeypatch.setattr(Minimize, "train_step", broken)


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"loss": math.inf}, {"grad_norm": math.nan}])
def test_a_diverged_run_stops_before_it_is_saved(
    bad: dict[str, float], gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_step(monkeypatch, 4, None, **bad)
    outcome = gentrain(*tiny, *VAE, "run_dir=run")
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    for words in ("diverged at step 4", "learning rate 0.00", "gradient norm", "optimizer.lr"):
        assert words in outcome.err
    assert newest(Path("run"))["step"] == 2
    assert json.loads(Path("run/result.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_which_batch_size_to_try(
    error: Exception, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_step(monkeypatch, 2, error)
    outcome = gentrain(*tiny, *VAE, "run_dir=run")
    assert outcome.status == 1
    assert (
        "out of memory with train.batch_size=8: try train.batch_size=4, or train.accumulate_steps=2"
        in outcome.err
    )


def test_a_full_disk(gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = checkpoint.write_atomically

    def full(path: Path, *content: bytes) -> None:
        if path.name == "step_00000004.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, *content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomically", full)
        outcome = gentrain(*tiny, *VAE, "run_dir=run")
    assert outcome.status == 1
    assert "no space left to write run/checkpoints/step_00000004.pt" in outcome.err
    assert "the last good checkpoint is run/checkpoints/step_00000002.pt" in outcome.err
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    assert gentrain("resume=run").status == 0


def test_a_disk_that_stays_full(gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more can be written, result.json neither: still one sentence."""
    from gentrain.runs import rundir

    original = checkpoint.write_atomically
    full = False

    def write(path: Path, *content: bytes) -> None:
        nonlocal full
        full = full or path.name == "step_00000004.pt"
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, *content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomically", write)
        patched.setattr(rundir, "write_atomically", write)
        outcome = gentrain(*tiny, *VAE, "run_dir=run")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "no space left to write run/checkpoints/step_00000004.pt" in outcome.err
    assert gentrain("resume=run").status == 0


def test_a_stop_between_two_looks_is_still_saved(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes right after the last save of a step was decided upon: the next step saves."""
    from gentrain.training import trainer

    original = trainer._due

    def due(settings, step: int):  # type: ignore[no-untyped-def]
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(settings, step)

    monkeypatch.setattr(trainer, "_due", due)
    outcome = gentrain(*tiny, *VAE, "run_dir=run", "train.save_every_steps=null")
    assert outcome.status == 143
    assert newest(Path("run"))["step"] == 4


def test_a_finished_run_says_so(gentrain: Command, tiny: list[str]) -> None:
    command = [*tiny, *VAE, "run_dir=run"]
    gentrain(*command)
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    for again in (command, ["resume=run"]):
        outcome = gentrain(*again)
        assert outcome.status == 0
        assert "already finished, at step 6" in outcome.out
    after = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert {path for path in after if after[path] != before[path]} <= {Path("run"), Path("run/.lock")}


def test_more_steps_say_what_happens_to_the_schedule(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *VAE, "run_dir=run")
    outcome = gentrain("resume=run", "train.max_steps=12")
    assert outcome.status == 0, outcome.err
    assert "changed: train.max_steps: 6 -> 12" in outcome.out
    assert "the cosine schedule now ends at step 12: the learning rate at step 6 is" in outcome.out
    assert newest(Path("run"))["step"] == 12


def test_what_a_resumed_run_may_not_change(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *VAE, "run_dir=run")
    for change, key in (
        ("model.latent_dim=5", "model.latent_dim (3 -> 5)"),
        ("train.batch_size=4", "train.batch_size (8 -> 4)"),
        ("data.size=16", "data.size (8 -> 16)"),
        ("seed=1", "seed (0 -> 1)"),
        ("optimizer=sgd", "optimizer.name (adamw -> sgd)"),
    ):
        outcome = gentrain("resume=run", change)
        assert outcome.status == 2, change
        assert key in outcome.err
        outcome = gentrain(*tiny, *VAE, change, "run_dir=run")
        assert outcome.status == 2, change
        assert key in outcome.err
    assert gentrain("resume=run", "experiment=none").status == 2
    fine = ["train.max_steps=7", "optimizer.lr=0.1", "train.log_every_steps=2", "device=cpu", "model=vae"]
    outcome = gentrain("resume=run", *fine)
    assert outcome.status == 0, outcome.err


def test_a_directory_that_is_something_else_is_left_alone(gentrain: Command, tiny: list[str]) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    outcome = gentrain(*tiny, *VAE, "run_dir=mine")
    assert outcome.status == 2
    assert "run_dir=mine exists and is no run directory" in outcome.err
    Path("empty").mkdir()
    assert gentrain(*tiny, *VAE, "run_dir=empty").status == 0


def test_two_runs_never_share_a_directory(gentrain: Command, tiny: list[str]) -> None:
    import filelock

    gentrain(*tiny, *VAE, "run_dir=run", "train.max_steps=2")
    with filelock.FileLock("run/.lock"):
        outcome = gentrain("resume=run", "train.max_steps=4")
    assert outcome.status == 2
    assert "another process is running in run" in outcome.err
    for _ in range(3):  # within one second: suffixes
        assert gentrain(*tiny, *VAE, "train.max_steps=1").status == 0
    assert len(list(Path("outputs").glob("*/*-vae-folder*"))) == 3


def test_changed_pictures_stop_a_resume_unless_allowed(
    gentrain: Command, tiny: list[str], tmp_path: Path, pictures: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(pictures, copied)
    mine = [setting for setting in tiny if "data.root" not in setting] + [f"data.root={copied}"]
    gentrain(*mine, *VAE, "run_dir=run", "train.max_steps=2")
    (copied / "below").rename(copied / "renamed")  # names alone are no change
    assert gentrain("resume=run", "train.max_steps=3").status == 0
    first, second, third = sorted(copied.glob("*.png"))[:3]
    first.unlink()
    for number in range(2):
        Image.new("RGB", (12, 12), (number, 7, 9)).save(copied / f"new{number}.png")
    Image.new("RGB", (12, 12), "red").save(second)
    Image.new("RGB", (12, 12), "blue").save(third)
    outcome = gentrain("resume=run", "train.max_steps=4")
    assert outcome.status == 2
    assert "have changed: +2, -1, ~2 images since step 3" in outcome.err
    assert "data.allow_changed=true" in outcome.err
    assert "+2, -1, ~2 images" in gentrain("task=evaluate", "run=run").err
    branch = gentrain("resume=run/checkpoints/step_00000003.pt", "run_dir=branch")
    assert "+2, -1, ~2 images since step 3" in branch.err
    assert not Path("branch").exists()
    allowed = gentrain("resume=run", "train.max_steps=4", "data.allow_changed=true")
    assert allowed.status == 0, allowed.err
    assert "going on with them" in allowed.out
    assert gentrain("resume=run", "train.max_steps=5").status == 0  # these are its pictures now
    (copied / "new0.png").unlink()
    assert "+0, -1, ~0 images since step 5" in gentrain("resume=run", "train.max_steps=6").err


def test_a_moved_folder_of_the_same_pictures_goes_on(
    gentrain: Command, tiny: list[str], tmp_path: Path, pictures: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "copied")
    gentrain(*tiny, *VAE, "run_dir=run", "train.max_steps=2")
    outcome = gentrain("resume=run", f"data.root={tmp_path / 'copied'}", "train.max_steps=3")
    assert outcome.status == 0, outcome.err
    assert "gentrain resume=run data.root=" in Path("run/meta.json").read_text()
    (tmp_path / "copied").rename(tmp_path / "moved")
    assert gentrain("task=evaluate", "run=run").status == 2
    assert gentrain("task=evaluate", "run=run", f"data.root={tmp_path / 'moved'}").status == 0
    assert gentrain(*tiny, *VAE, "data.allow_changed=true").status == 2  # a new run has none to differ from


def test_moved_and_binarized_pictures_resume_exactly(gentrain: Command, tiny: list[str]) -> None:
    options = ["data.levels=2", "data.binarize=dynamic", "data.flip=true", "data.shift=2", *VAE]
    outcome = gentrain(*tiny, *options, "run_dir=whole")
    assert "at 2 levels (dynamic binarization)" in outcome.out
    assert "mirrored and moved by up to 2 pixels at random" in outcome.out
    gentrain(*tiny, *options, "run_dir=cut", "train.max_steps=3", "optimizer.schedule=constant")
    gentrain(*tiny, *options, "run_dir=long", "optimizer.schedule=constant")
    gentrain("resume=cut", "train.max_steps=6")
    assert_same(newest(Path("cut"))["parts"], newest(Path("long"))["parts"])
    assert "at 2 levels (dynamic binarization)" in gentrain("task=evaluate", "run=whole").out


def test_init_from_starts_a_new_run_with_the_weights_of_another(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *VAE, "run_dir=first", "train.max_steps=60", "optimizer.lr=0.02")
    gentrain(*tiny, *VAE, "run_dir=second", "init_from=first", "optimizer.lr=1e-9", "train.max_steps=1")
    loss = [
        line["train/loss"] for line in read_metrics(Path("second/metrics.jsonl"), 1) if "train/loss" in line
    ]
    start = [
        line["train/loss"] for line in read_metrics(Path("first/metrics.jsonl"), 1) if "train/loss" in line
    ]
    assert loss[0] < 0.9 * start[0]
    outcome = gentrain(*tiny, *VAE, "model.latent_dim=5", "run_dir=third", "init_from=first")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert not Path("third").exists()
    assert "has the weights of another model" in outcome.err


def test_seeds_are_told_apart_by_purpose() -> None:
    seeds = {
        derive(seed, *purpose) for seed in range(20) for purpose in (("train", 1), ("train", 11), ("sample",))
    }
    assert len(seeds) == 60
    assert torch.equal(torch.rand(3, generator=generator(0, "a")), torch.rand(3, generator=generator(0, "a")))
    assert derive(0, "train", 17) == 697558664447306427
