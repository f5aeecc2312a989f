"""data.held_out=0: all pictures are trained on, and what is then missing is said, wherever it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from PIL import Image
from test_sources import section

from gentrain.config.registry import DATA
from gentrain.config.schema import check_section, data_schema
from gentrain.data.build import open_data
from gentrain.data.reading.splitting import ANY, TEST, TRAIN, VALID, split
from gentrain.errors import UserError

HASHES = np.random.default_rng(0).integers(0, 2**64, 400, dtype=np.uint64)


def few(root: Path, count: int = 7) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number * 30, 255 - number, 9)).save(root / f"{number}.png")
    return root


def test_nothing_is_carved_and_what_a_source_brings_is_kept() -> None:
    assert split(HASHES, None, 0, None, "x").counts == {"train": 400, "valid": 0, "test": 0}
    assert split(HASHES, None, 0, 5, "x").counts == {"train": 5, "valid": 0, "test": 0}
    given = np.repeat([ANY, TRAIN, TEST], [100, 200, 100])
    assert split(HASHES, given, 0, None, "x").counts == {"train": 300, "valid": 0, "test": 100}
    given[:50] = VALID
    assert split(HASHES, given, 0, None, "x").counts == {"train": 250, "valid": 50, "test": 100}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 12, 30])
@pytest.mark.parametrize("held_out", [0.001, 0.1, 0.2])
def test_what_a_small_folder_is_advised_to_type_works(count: int, held_out: float) -> None:
    for start in range(0, 350, 50):
        hashes = HASHES[start : start + count]
        try:
            split(hashes, None, held_out, None, "x")
        except UserError as error:
            said = str(error)
            assert f"x has {count} usable pictures" in said and "add more pictures" in said
            advised = [float(words.split()[0]) for words in said.split("data.held_out=")[1:]]
            assert bool(advised) == bool(count)
            assert not count or advised[-1] == 0
            for share in advised:
                assert split(hashes, None, share, None, "x").counts["train"] > 0


@pytest.mark.parametrize("name", [name for name in DATA if "held_out" in section(name)])
def test_every_data_set_that_carves_splits_takes_0(name: str) -> None:
    settings = {key: value for key, value in section(name).items() if key != "name" and value != "???"}
    schema = {key: setting for key, setting in data_schema(DATA[name]).items() if key in settings}
    check_section("data", settings | {"held_out": 0}, schema)
    with pytest.raises(UserError, match=r"data\.held_out=-0.1"):
        check_section("data", settings | {"held_out": -0.1}, schema)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_trains_without_held_out_pictures(
    family: str, gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    few(tmp_path / "few")
    mine = [setting for setting in tiny if "data.root" not in setting] + [f"data.root={tmp_path / 'few'}"]
    command = [
        *mine,
        *FAMILIES[family],
        "data.held_out=0",
        "run_dir=run",
        "train.max_steps=3",
        "train.batch_size=4",
    ]
    outcome = gentrain(*command)
    assert outcome.status == 0, outcome.err
    assert "neither a validation nor a test split (data.held_out=0): there will be no valid" in outcome.out
    assert not Path("run/checkpoints/best.pt").exists()
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines and not any(key.startswith("valid/") for line in lines for key in line)
    assert gentrain("resume=run", "train.max_steps=4").status == 0


def test_every_task_that_takes_held_out_pictures_says_so(
    gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    few(tmp_path / "few" / "a")
    few(tmp_path / "few" / "b", 3)
    mine = [setting for setting in tiny if "data.root" not in setting] + [f"data.root={tmp_path / 'few'}"]
    mine += [*FAMILIES["vae"], "data.held_out=0", "train.max_steps=1", "train.batch_size=4"]
    assert gentrain(*mine, "run_dir=run").status == 0
    for task in ("evaluate", "traverse", "interpolate", "complete", "probe"):
        outcome = gentrain(f"task={task}", "run=run")
        assert outcome.status == 2, (task, outcome.err)
        assert f"task={task} takes pictures of the " in outcome.err, outcome.err
    assert gentrain("task=inspect", *[word for word in mine if word.startswith("data")]).status == 0
    assert gentrain("task=compare", "runs=run").status == 0
    assert gentrain("task=sample", "run=run", "sample.count=2").status == 0
    outcome = gentrain("task=sample", "run=run", "checkpoint=best")
    assert outcome.status == 2 and "has no best checkpoint" in outcome.err
    pytest.importorskip("optuna")
    outcome = gentrain(
        "task=tune",
        "model=vae",
        "space=vae",
        "tune.trials=1",
        *(word for word in mine if not word.startswith("model")),
    )
    assert outcome.status == 2
    assert "task=tune compares trials on the validation split; set data.held_out above 0" in outcome.err


def test_the_split_that_is_there_is_evaluated(gentrain: Command, tiny: list[str], tmp_path: Path) -> None:
    few(tmp_path / "few" / "train", 6)
    few(tmp_path / "few" / "test", 8)
    for number in range(6):
        (tmp_path / "few" / "test" / f"{number}.png").unlink()
    mine = [setting for setting in tiny if "data.root" not in setting] + [f"data.root={tmp_path / 'few'}"]
    outcome = gentrain(*mine, *FAMILIES["vae"], "data.held_out=0", "run_dir=run", "train.max_steps=1")
    assert outcome.status == 0, outcome.err
    assert "no validation split (data.held_out=0)" in outcome.out
    assert "nothing to measure on" not in outcome.out
    assert gentrain("task=evaluate", "run=run").status == 0
    outcome = gentrain("task=evaluate", "run=run", "evaluate.split=valid")
    assert outcome.status == 2
    assert "has none (data.held_out=0; it has test)" in outcome.err


def test_the_pixels_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    root = few(tmp_path / "few")
    whole = open_data(section("folder", root=str(root), size=8, held_out=0), lambda *_: None)
    assert whole.counts == {"train": 7, "valid": 0, "test": 0}
    assert torch.from_numpy(np.asarray(whole.split("valid"))).shape == (0, 3, 8, 8)
