"""A run whose weights are not finite: looked at with a word of it, and not gone on with; in every family."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import Command
from families import FAMILIES, newest

from gentrain.runs import checkpoint


def spoil(file: Path) -> None:
    stored = torch.load(file, weights_only=True)
    for part in ("model", "ema"):
        for value in stored["parts"].get(part, {}).values():
            if value.is_floating_point():
                value.fill_(math.nan)
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    file.write_bytes(b"".join(checkpoint.seal(buffer.getvalue())))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_not_finite_are_told_by_every_family(
    family: str, gentrain: Command, tiny: list[str]
) -> None:
    more = ["train.max_steps=2", "train.eval_every_steps=null", "train.sample_every_steps=null"]
    command = [*tiny, *FAMILIES[family], *more, "run_dir=run"]
    assert gentrain(*command).status == 0
    file = Path("run/checkpoints/step_00000002.pt")
    spoil(file)
    before = file.read_bytes()
    for go_on in (["resume=run", "train.max_steps=4"], [f"resume={file}", "run_dir=branch"]):
        outcome = gentrain(*go_on)
        assert outcome.status == 2, outcome.err
        assert f"weights in {file} are not finite" in outcome.err
        assert outcome.err.count("\n") == 1
    assert not Path("branch").exists()
    assert file.read_bytes() == before
    assert newest(Path("run"))["step"] == 2
    for task in ("sample", "evaluate"):
        outcome = gentrain(f"task={task}", "run=run")
        assert "Traceback" not in outcome.err
        assert "are not finite: the run has diverged" in outcome.out + outcome.err
    for made in Path("run/evaluate").glob("*.json"):
        json.loads(made.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
