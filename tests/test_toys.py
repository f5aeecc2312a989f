"""What CONTRIBUTING says a family, a data set, an optimizer and a task cost, made and run: tests/toys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import test_contract as contract
from conftest import Command
from families import FAMILIES, assert_same_run

from gentrain.config import registry

TOYS = Path(__file__).parent / "toys"
CONTRACT = [
    contract.test_a_run_leaves_what_the_interface_names,
    contract.test_loss_falls,
    contract.test_samples_are_images_and_repeat,
    contract.test_looking_more_often_changes_no_weight,
    contract.test_a_branch_from_a_checkpoint_file_is_the_same_run,
    contract.test_accumulation_and_no_average_and_no_clipping,
]


@pytest.fixture
def toys(gentrain: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, with the toys' YAML files and their lines in the registry."""
    monkeypatch.syspath_prepend(str(TOYS))
    family = registry.Family("toy_family:ToyFamily", "gentrain.training.minimize:Minimize", headline="mse")
    monkeypatch.setitem(registry.MODELS, "toy", family)
    monkeypatch.setitem(registry.DATA, "toy", "toy_data:ToyData")
    monkeypatch.setitem(registry.OPTIMIZERS, "toy", "toy_optimizer:toy")
    monkeypatch.setitem(registry.TASKS, "toy", "toy_task")
    monkeypatch.setitem(FAMILIES, "toy", ["model=toy"])
    return lambda *arguments: gentrain(f"--config-dir={TOYS / 'configs'}", *arguments)


@pytest.mark.parametrize("test", CONTRACT, ids=lambda test: test.__name__)
def test_a_family_of_one_file_keeps_the_contract(
    test: Callable[..., None], toys: Command, tiny: list[str]
) -> None:
    test("toy", toys, tiny)


@pytest.mark.parametrize("at_step", [1, 3])
def test_a_family_of_one_file_resumes_bit_for_bit(
    at_step: int, toys: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.test_resume_after_sigterm_is_exact("toy", at_step, toys, tiny, monkeypatch)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "toy"])
def test_a_family_of_one_file_takes_every_optimizer(optimizer: str, toys: Command, tiny: list[str]) -> None:
    contract.test_every_optimizer_and_schedule("toy", optimizer, toys, tiny)


@pytest.mark.parametrize("method", ["eval_step", "sample"])
def test_a_family_of_one_file_is_stopped_between_the_steps(
    method: str, toys: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.test_resume_after_sigterm_between_the_steps_is_exact("toy", method, toys, tiny, monkeypatch)


def test_a_data_source_and_an_optimizer_of_one_file_each(toys: Command, tiny: list[str]) -> None:
    own = [setting for setting in tiny if not setting.startswith("data")]
    command = [*own, "model=toy", "data=toy", "optimizer=toy"]
    assert toys(*command, "run_dir=one").status == 0
    assert toys(*command, "run_dir=two").status == 0
    assert_same_run(Path("one"), Path("two"))


def test_a_task_of_one_file(toys: Command) -> None:
    outcome = toys("task=toy", "toy.text=seven77")
    assert outcome.status == 0, outcome.err
    assert outcome.out.split()[-1] == "7"
