"""Each family at its smallest, for the contract tests that all of them run through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FAMILIES: dict[str, list[str]] = {
    "ae": ["model=ae", "model.latent_dim=3", "model.width=4", "model.hidden=8"],
    # From random numbers, so that there is a loss to fall: clusters are near the end of it.
    "gmm": ["model=gmm", "model.components=2", "model.factors=1", "model.start=random"],
    "gsn": ["model=gsn", "model.latent_dim=3", "model.width=4", "model.hidden=8", "model.sample_steps=3"],
    "pixelcnn": [
        "model=pixelcnn",
        "model.width=4",
        "model.layers=2",
        "model.first_kernel=3",
        "model.head_width=8",
    ],
    "vae": ["model=vae", "model.latent_dim=3", "model.width=4", "model.hidden=8", "model.mixtures=2"],
}


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def newest(run: Path) -> dict[str, Any]:
    return checkpoint(sorted((run / "checkpoints").glob("step_*.pt"))[-1])


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Nested state, equal bit for bit."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), f"{where} differs by up to {(left - right).abs().max()}"
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert left == right, where


def assert_same_run(left: Path, right: Path) -> None:
    """Two runs ended in the same state and logged the same curves (but for the clock)."""
    one, other = newest(left), newest(right)
    assert one["step"] == other["step"]
    assert one["best"] == other["best"]
    assert_same(one["parts"], other["parts"])
    assert_same(
        checkpoint(left / "checkpoints/best.pt")["parts"], checkpoint(right / "checkpoints/best.pt")["parts"]
    )
    assert curves(left) == curves(right)


def curves(run: Path) -> list[dict[str, Any]]:
    import json

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in lines]
