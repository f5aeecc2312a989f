"""Runs that an older build made are still read: how they were made is in tests/older_runs/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command
from families import curves, newest

import gentrain as library

STORED = Path(__file__).parent / "older_runs"
older = pytest.mark.parametrize("family", ["vae", "gan"])


@pytest.fixture
def old_run(family: str, gentrain: Command) -> Path:
    """A copy, in the working folder of the test."""
    shutil.copytree(STORED / family, "old")
    return Path("old")


@older
def test_it_is_sampled(family: str, old_run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=sample", f"run={old_run}", "sample.count=3")
    assert outcome.status == 0, outcome.err
    assert len(list((old_run / "sample").glob("0000?.png"))) == 3
    assert library.load(old_run).sample(2).shape == (2, 1, 16, 16)


@older
def test_it_is_evaluated(family: str, old_run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=evaluate", f"run={old_run}", "evaluate.split=valid", "evaluate.samples=70")
    assert outcome.status == 0, outcome.err
    figures = json.loads((old_run / "evaluation.json").read_text())["figures"]
    assert ("bits_per_dim" in figures) == (family == "vae")
    if family == "vae":  # noise may be another one; over 1,000 pictures its mean is not
        then = json.loads((old_run / "result.json").read_text())["metrics"]["valid/bits_per_dim"]
        assert figures["bits_per_dim"]["mean"] == pytest.approx(then, rel=2e-3)


@older
def test_it_goes_on(family: str, old_run: Path, gentrain: Command) -> None:
    before = curves(old_run)
    outcome = gentrain(f"resume={old_run}", "train.max_steps=8")
    assert outcome.status == 0, outcome.err
    assert newest(old_run)["step"] == 8
    assert curves(old_run)[: len(before)] == before


@older
def test_its_weights_start_a_new_run(family: str, old_run: Path, gentrain: Command) -> None:
    config = ["data=moons", "data.size=16", "data.count=64", "train.batch_size=8", "train.max_steps=1"]
    model = {
        "vae": ["model.latent_dim=3", "model.width=4", "model.hidden=8", "model.mixtures=2"],
        "gan": [
            "model.latent_dim=4",
            "model.widths=[8,4]",
            "model.group_width=4",
            "train.frechet_samples=null",
        ],
    }
    outcome = gentrain(f"init_from={old_run}", f"model={family}", *model[family], *config, "run_dir=new")
    assert outcome.status == 0, outcome.err
    assert newest(Path("new"))["step"] == 1


def test_they_are_compared(gentrain: Command) -> None:
    for family in ("vae", "gan"):
        shutil.copytree(STORED / family, f"outputs/{family}")
    outcome = gentrain("task=compare", "runs='outputs/*'")
    assert outcome.status == 0, outcome.err
    assert "vae" in outcome.out
    assert "gan" in outcome.out
