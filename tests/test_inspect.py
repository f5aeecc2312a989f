"""task=inspect: the figures, the picture, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from nasty import make_nasty
from PIL import Image

from gentrain.data.packed import Label, Packed
from gentrain.data.summary import png_payload, summarize
from gentrain.errors import NAMED


def quiet(_done: int, _total: int) -> None:
    pass


def inspected(run_dir: str) -> dict:  # type: ignore[type-arg]
    return json.loads(Path(run_dir, "inspect.json").read_text())


def test_figures_are_those_of_the_training_split() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2100, 3, 8, 8), np.uint8)
    counts = {"train": 2000, "valid": 60, "test": 40}
    labels = (np.arange(2100) % 3)[:, None]
    packed = Packed(pixels, counts, labels, (Label("kind", ("a", "b", "c")),))
    summary = summarize(packed, 10, quiet)
    train = pixels[:2000].astype(float)
    assert np.allclose(summary.mean_CHW, train.mean(0))
    assert np.allclose(summary.mean_C, train.mean((0, 2, 3)))
    assert np.allclose(summary.deviation_C, train.std((0, 2, 3)))
    assert summary.histogram_C256.sum() == train.size
    assert summary.histogram_C256[1, 17] == (pixels[:2000, 1] == 17).sum()
    assert summary.labels == {"kind": {"a": [667, 20, 13], "b": [667, 20, 13], "c": [666, 20, 14]}}
    assert 8 < summary.png_bits_per_dim < 9  # noise cannot be compressed


@pytest.mark.parametrize("channels", [1, 3])
def test_png_payload_counts_the_pixels_stream_alone(channels: int) -> None:
    flat = np.full((channels, 64, 64), 200, np.uint8)
    file = io.BytesIO()
    Image.fromarray(flat[0] if channels == 1 else flat.transpose(1, 2, 0)).save(file, "png", optimize=True)
    chunk = file.getvalue().index(b"IDAT")
    assert png_payload(flat) == int.from_bytes(file.getvalue()[chunk - 4 : chunk], "big")


def test_a_folder_with_bad_files_is_looked_at_nevertheless(
    gentrain: Command, tmp_path: Path, pictures: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(pictures, mixed / "good")
    expected = make_nasty(mixed / "nasty")
    (mixed / "notes.txt").write_text("no picture")
    arguments = ("data=folder", f"data.root={mixed}", "data.size=8")
    outcome = gentrain("task=inspect", *arguments, "run_dir=look")
    assert outcome.status == 0, outcome.err
    found = inspected("look")
    assert sum(found["counts"].values()) + len(found["bad"]) >= 80 + len(expected)
    assert len(found["bad"]) >= 25
    assert all(bad["reason"] and bad["name"].startswith("nasty/") for bad in found["bad"])
    assert found["facts"]["ignored"][".txt"] >= 1
    assert found["facts"]["originals"]["smallest"] == [1, 1]
    assert {"good", "nasty"} <= found["labels"]["class"].keys()
    assert Image.open("look/inspect.png").size[0] > 500
    train = gentrain(*arguments, "model.width=4", "train.max_steps=1")
    assert train.status == 2
    assert "data.on_bad=skip" in train.err
    named = [bad for bad in found["bad"] if f"{bad['name']} ({bad['reason']})" in train.err]
    assert len(named) == NAMED
    assert f"and {len(found['bad']) - NAMED} more" in train.err
    skipped = gentrain(*arguments, "model.width=4", "train.max_steps=1", "data.on_bad=skip", "run_dir=run")
    assert skipped.status == 0, skipped.err
    assert f"left out: {len(found['bad'])} bad pictures" in skipped.out
    assert json.loads(Path("run/meta.json").read_text())["data"]["bad"] == len(found["bad"])


def test_it_tells_entropy_levels_and_labels(gentrain: Command) -> None:
    outcome = gentrain("task=inspect", "data.count=200", "run_dir=look", "data.levels=2", "inspect.count=9")
    assert outcome.status == 0, outcome.err
    assert "200 train, 1000 valid, 1000 test" in outcome.out
    assert "2 levels (threshold at 128)" in outcome.out
    assert "entropy" not in outcome.out
    assert set(np.unique(np.asarray(Image.open("look/inspect.png"))[200:300, 20:300])) == {0, 255}
    outcome = gentrain("task=inspect", "data.count=200")
    assert "31.81 bits/image" in outcome.out
    assert len(list(Path("outputs").glob("*/*-inspect-anime/inspect.json"))) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.width=4", "has no meaning for task=inspect"),
        ("train.max_steps=4", "has no meaning for task=inspect"),
        ("run=somewhere", "has no meaning for task=inspect"),
        ("data.rot=x", "data.rot is not a setting"),
        ("data.shift=20", "data.shift"),
        ("inspect.count=0", "inspect.count=0 is not possible"),
    ],
)
def test_what_it_refuses(gentrain: Command, override: str, sentence: str) -> None:
    outcome = gentrain("task=inspect", override)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert not Path("outputs").exists()


def test_it_writes_into_no_run(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, "model.width=4", "run_dir=run")
    outcome = gentrain("task=inspect", "run_dir=run")
    assert outcome.status == 2
    assert "is taken" in outcome.err
