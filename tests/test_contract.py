"""What every family must keep: it composes, learns, samples, and resumes bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same_run, curves, newest
from PIL import Image

import gentrain as library
from gentrain.config.registry import MODELS, target
from gentrain.errors import UserError

families = pytest.mark.parametrize("family", FAMILIES)
# Generator and discriminator each move the loss of the other: what it learns is tested in test_gan.py.
MINIMIZING = [family for family in FAMILIES if MODELS[family].learner.endswith(":Minimize")]


def learner_of(family: str) -> Any:
    return target(MODELS[family].learner)


def test_every_family_is_under_contract() -> None:
    assert FAMILIES.keys() == MODELS.keys()


@families
def test_a_run_leaves_what_the_interface_names(family: str, gentrain: Command, tiny: list[str]) -> None:
    assert gentrain(*tiny, *FAMILIES[family], "run_dir=run").status == 0
    run = Path("run")
    for name in ("config.yaml", "meta.json", "metrics.jsonl", "result.json"):
        assert (run / name).is_file(), name
    has_best = family != "gan"  # whose figure needs more pictures than there are here: tests/test_evaluate.py
    assert (run / "checkpoints/best.pt").is_file() == has_best
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert [p.name for p in sorted((run / "checkpoints").glob("step_*"))] == [
        f"step_{step:08d}.pt" for step in (2, 4, 6)
    ]
    for step in (3, 6):
        assert Image.open(run / f"samples/step_{step:08d}.png").size == (22, 22)
    stored = newest(run)
    assert stored["format"] == 1
    assert stored["step"] == 6
    assert {"model", "ema", "optimizer"} <= stored["parts"].keys()
    tags = {tag for line in curves(run) for tag in line}
    assert {"train/loss", "train/grad_norm", "train/lr"} <= tags
    if has_best:
        assert stored["best"]["metric"] == f"valid/{MODELS[family].headline}" in tags
    else:
        assert stored["best"] is None
        with pytest.raises(UserError, match=r"has no best checkpoint.*checkpoint=last"):
            library.load("run", checkpoint="best")


@pytest.mark.parametrize("family", MINIMIZING)
def test_loss_falls(family: str, gentrain: Command, tiny: list[str]) -> None:
    more = [
        "train.max_steps=60",
        "optimizer.lr=0.02",
        "train.eval_every_steps=null",
        "train.sample_every_steps=null",
    ]
    assert gentrain(*tiny, *FAMILIES[family], *more, "run_dir=run").status == 0
    losses = [line["train/loss"] for line in curves(Path("run")) if "train/loss" in line]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@families
def test_samples_are_images_and_repeat(family: str, gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES[family], "run_dir=run", "data.channels=1")
    run = library.load("run")
    samples = run.sample(5, seed=1)
    assert samples.shape == (5, 1, 8, 8)
    assert samples.dtype == torch.uint8
    assert torch.equal(samples, run.sample(5, seed=1))
    assert not torch.equal(samples, run.sample(5, seed=2))
    assert run.sample(0).shape == (0, 1, 8, 8)


@families
@pytest.mark.parametrize("at_step", [1, 3, 4])
def test_resume_after_sigterm_is_exact(
    family: str, at_step: int, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in step 1 (before the first save), 3 (evaluation is due and is left pending), 4 (a save is due)."""
    command = [*tiny, *FAMILIES[family]]
    gentrain(*command, "run_dir=whole")
    learner = learner_of(family)
    original = learner.train_step

    def interrupted(self: Any, next_batch, step: int):  # type: ignore[no-untyped-def]
        if step + 1 == at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, next_batch, step)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "train_step", interrupted)
        outcome = gentrain(*command, "run_dir=cut")
    assert outcome.status == 143
    assert "gentrain resume=cut" in outcome.out
    stopped = newest(Path("cut"))
    assert stopped["step"] == at_step
    assert stopped["pending"] == (["evaluate", "sample"] if at_step == 3 else [])
    assert json.loads(Path("cut/result.json").read_text())["status"] == "interrupted"
    assert gentrain("resume=cut").status == 0
    assert_same_run(Path("whole"), Path("cut"))


@families
@pytest.mark.parametrize("method", ["eval_step", "sample"])
def test_resume_after_sigterm_between_the_steps_is_exact(
    family: str, method: str, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the first batch of an evaluation, or of a grid: the rest of it is left out, and made up for."""
    command = [*tiny, *FAMILIES[family], "train.batch_size=3"]
    gentrain(*command, "run_dir=whole")
    calls = []
    learner = learner_of(family)
    original = vars(learner)[method]

    def interrupted(self: Any, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(learner, method, interrupted)
        outcome = gentrain(*command, "run_dir=cut")
    assert outcome.status == 143
    assert len(calls) == 1
    stopped = newest(Path("cut"))
    assert stopped["step"] == 3
    assert stopped["pending"] == (["evaluate", "sample"] if method == "eval_step" else ["sample"])
    assert gentrain("resume=cut").status == 0
    assert_same_run(Path("whole"), Path("cut"))


@families
def test_looking_more_often_changes_no_weight(family: str, gentrain: Command, tiny: list[str]) -> None:
    often = [f"train.{what}_every_steps=1" for what in ("log", "eval", "sample", "save")]
    never = [f"train.{what}_every_steps=null" for what in ("log", "eval", "sample", "save")]
    gentrain(*tiny, *FAMILIES[family], *often, "run_dir=often")
    gentrain(*tiny, *FAMILIES[family], *never, "run_dir=never")
    from families import assert_same

    assert_same(newest(Path("often"))["parts"], newest(Path("never"))["parts"])
    assert len(curves(Path("never"))) == 2  # one line of training figures, one of validation figures


@families
def test_a_branch_from_a_checkpoint_file_is_the_same_run(
    family: str, gentrain: Command, tiny: list[str]
) -> None:
    gentrain(*tiny, *FAMILIES[family], "run_dir=whole")
    outcome = gentrain("resume=whole/checkpoints/step_00000002.pt", "run_dir=branch")
    assert outcome.status == 0, outcome.err
    from families import assert_same

    assert_same(newest(Path("whole"))["parts"], newest(Path("branch"))["parts"])
    assert curves(Path("branch")) == curves(Path("whole"))


@families
def test_accumulation_and_no_average_and_no_clipping(family: str, gentrain: Command, tiny: list[str]) -> None:
    options = ["train.accumulate_steps=3", "train.ema_halflife_images=null", "train.grad_clip=null"]
    assert gentrain(*tiny, *FAMILIES[family], *options, "run_dir=run").status == 0
    assert "ema" not in newest(Path("run"))["parts"]
    assert library.load("run").averaged is False


@families
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_and_schedule(
    family: str, optimizer: str, gentrain: Command, tiny: list[str]
) -> None:
    outcome = gentrain(
        *tiny, *FAMILIES[family], f"optimizer={optimizer}", "optimizer.schedule=constant", "run_dir=run"
    )
    assert outcome.status == 0, outcome.err
    assert [line["train/lr"] for line in curves(Path("run")) if "train/lr" in line][-1] > 0
