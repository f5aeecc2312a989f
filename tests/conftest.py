"""What every test stands on: a cache of its own, one thread, and the command run in this process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported: test processes run side by side, one thread each.
os.environ["OMP_NUM_THREADS"] = "1"
# Shared by the test processes of one machine, so that faces are drawn once.
os.environ["GENTRAIN_CACHE"] = str(Path(tempfile.gettempdir()) / f"gentrain-tests-{os.getuid()}")
os.environ["COLUMNS"] = "200"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for deterministic tests where there is a GPU

import numpy as np
import pytest
from PIL import Image

from gentrain import cli


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def run_command(*arguments: str) -> None:
    """The command in this process, for what several tests share. It must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gentrain", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code


@pytest.fixture
def gentrain(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command in this process, in an empty folder: `gentrain("train.max_steps=3")`."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # main sets it; undone after the test

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gentrain", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of 80 small pictures that differ, in three formats and two levels of folders."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "below").mkdir()
    random = np.random.default_rng(0)
    for number in range(80):
        ramp = np.linspace(random.integers(100, 140), random.integers(60, 100), 12)[:, None, None]
        pixels = (ramp + random.integers(0, 4, (12, 12, 3))).clip(0, 255).astype(np.uint8)
        name = ("a{}.png", "b{}.bmp", "below/c{}.jpeg")[number % 3].format(number)
        Image.fromarray(pixels).save(root / name)
    yield root


@pytest.fixture
def tiny(pictures: Path) -> list[str]:
    """Overrides for a run of about a second: 8 px pictures, a small net, something due every other step."""
    return [
        "data=folder",
        f"data.root={pictures}",
        "data.size=8",
        "train.max_steps=6",
        "train.batch_size=8",
        "train.log_every_steps=1",
        "train.eval_every_steps=3",
        "train.sample_every_steps=3",
        "train.save_every_steps=2",
        "train.sample_count=4",
        "optimizer.warmup_steps=2",
    ]
