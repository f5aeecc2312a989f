"""What `device=` and its settings mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Command
from families import FAMILIES, curves

from gentrain.errors import UserError
from gentrain.runtime.device import set_up

SECTION = {
    "name": "cpu", "precision": "auto", "channels_last": "auto", "compile": False, "deterministic": False, "threads": None,
}  # fmt: skip


def test_defaults_on_a_cpu() -> None:
    compute = set_up(SECTION)
    assert compute.device.type == "cpu"
    assert compute.autocast is None


def test_bf16_and_determinism() -> None:
    compute = set_up(SECTION | {"precision": "bf16", "deterministic": True})
    assert compute.autocast == torch.bfloat16
    with compute.autocasting():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert torch.are_deterministic_algorithms_enabled()
    set_up(SECTION)
    assert not torch.are_deterministic_algorithms_enabled()


def test_tf32_needs_cuda() -> None:
    with pytest.raises(UserError, match="tf32"):
        set_up(SECTION | {"precision": "tf32"})


@pytest.mark.parametrize(
    "option", ["precision=bf16", "channels_last=true", "channels_last=false", "threads=1"]
)
def test_a_run_with_each_option(option: str, gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain(*tiny, *FAMILIES["vae"], f"device.{option}", "run_dir=run")
    assert outcome.status == 0, outcome.err
    assert len([line for line in curves(Path("run")) if "train/loss" in line]) == 6
