"""A run that starts from other weights than it was built with: nothing is left of those before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same, checkpoint, newest

import gentrain as library
from gentrain.errors import RunFailed
from gentrain.training import run
from gentrain.training.adversarial import Adversarial
from gentrain.training.minimize import Minimize

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def killed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run ends in its first step, before anything but its beginning is saved."""

    def die(self: object, next_batch: object, step: int) -> None:
        raise RunFailed("killed")

    for learner in (Minimize, Adversarial):
        monkeypatch.setattr(learner, "train_step", die)


def averages(parts: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each averaged weight or buffer of a checkpoint, and that of the model itself."""
    pairs = {key.removeprefix("module."): value for key, value in parts["ema"].items() if key != "n_averaged"}
    return {key: (value, parts["model"][key]) for key, value in pairs.items()}


@families
def test_killed_before_its_first_save_it_is_the_run_it_came_from(
    family: str, gentrain: Command, tiny: list[str], request: pytest.FixtureRequest
) -> None:
    assert gentrain(*tiny, *FAMILIES[family], "run_dir=first").status == 0
    request.getfixturevalue("killed_at_once")
    outcome = gentrain(*tiny, *FAMILIES[family], "run_dir=second", "init_from=first")
    assert outcome.status == 1
    assert "killed" in outcome.err
    parts = newest(Path("second"))["parts"]
    for name, (average, weights) in averages(parts).items():
        assert torch.equal(average, weights), name
    assert parts["ema"]["n_averaged"] == 0
    first, second = (library.load(run).sample(4, seed=1) for run in ("first", "second"))
    assert torch.equal(first, second)


def test_what_samples_need_of_the_pictures_is_of_this_runs_pictures(
    gentrain: Command, tiny: list[str], request: pytest.FixtureRequest
) -> None:
    assert gentrain(*tiny, *FAMILIES["ae"], "run_dir=first").status == 0
    request.getfixturevalue("killed_at_once")
    gentrain(*tiny, *FAMILIES["ae"], "data.count=20", "run_dir=second", "init_from=first")
    first = checkpoint(sorted(Path("first/checkpoints").glob("step_*.pt"))[-1])["parts"]["ema"]
    for part in ("model", "ema"):
        state = newest(Path("second"))["parts"][part]
        count = state["module.code_count" if part == "ema" else "code_count"]
        assert count == 20 != first["module.code_count"], part


@families
def test_a_new_run_begins_with_the_average_of_its_first_weights(
    family: str, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where these come from pictures, after the learner was built."""
    begun = {}
    original = run._train

    def remember(trainer: Any, console: Any) -> None:
        begun["parts"] = {name: part.state_dict() for name, part in trainer.learner.parts.items()}
        begun["parts"] = torch.utils._pytree.tree_map(
            lambda value: value.clone() if isinstance(value, torch.Tensor) else value, begun["parts"]
        )
        original(trainer, console)

    monkeypatch.setattr(run, "_train", remember)
    more = ["model.start=kmeans"] if family == "gmm" else []
    assert gentrain(*tiny, *FAMILIES[family], *more, "train.max_steps=1", "run_dir=run").status == 0
    pairs = averages(begun["parts"])
    assert pairs
    for name, (average, weights) in pairs.items():
        assert_same(average, weights, name)
