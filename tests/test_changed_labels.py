"""Labels belong to a run's data as pictures do: changed ones are noticed. Runs made before that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from gentrain.data.fingerprints import Difference, compare, difference, pictures_of
from gentrain.data.packed import Packed
from gentrain.runs import checkpoint as checkpoints
from gentrain.runs.rundir import what_changed

VAE = ["model=vae", "model.width=4", "model.latent_dim=2"]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    root = tmp_path / "labelled"
    for number in range(60):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 255 - number, 9)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def run(gentrain: Command, tiny: list[str], labelled: Path) -> Path:
    mine = [setting for setting in tiny if "data.root" not in setting] + [f"data.root={labelled}"]
    outcome = gentrain(*mine, *VAE, "run_dir=run", "train.max_steps=2")
    assert outcome.status == 0, outcome.err
    return Path("run")


def relabel(labelled: Path, *names: str) -> None:
    for name in names:
        (labelled / "cat" / name).rename(labelled / "dog" / name)


def test_changed_labels_stop_a_resume_unless_allowed(gentrain: Command, run: Path, labelled: Path) -> None:
    assert gentrain("resume=run", "train.max_steps=3").status == 0
    relabel(labelled, "0.png", "2.png")
    expected = (
        "the labels of data=folder have changed: 2 of 60 images have another one since step 3; to go on"
    )
    outcome = gentrain("resume=run", "train.max_steps=4")
    assert outcome.status == 2
    assert expected in outcome.err
    assert "data.allow_changed=true" in outcome.err
    branch = gentrain("resume=run/checkpoints/step_00000003.pt", "run_dir=branch")
    assert branch.status == 2 and expected in branch.err
    assert gentrain("task=evaluate", "run=run").status == 0  # of the same pictures
    allowed = gentrain("resume=run", "train.max_steps=4", "data.allow_changed=true")
    assert allowed.status == 0, allowed.err
    assert "2 of 60 images have another one since step 3; going on with them" in allowed.out
    assert gentrain("resume=run", "train.max_steps=5").status == 0  # these are its labels now
    # A class of another name is a change too, and pictures are named first where both have changed.
    (labelled / "dog").rename(labelled / "wolf")
    assert (
        "the labels of data=folder have changed: 32 of 60" in gentrain("resume=run", "train.max_steps=6").err
    )
    (labelled / "wolf" / "1.png").unlink()
    outcome = gentrain("resume=run", "train.max_steps=6")
    assert "the pictures of data=folder have changed: +0, -1, ~0 images since" in outcome.err


def test_a_run_that_knows_no_labels_goes_on(gentrain: Command, run: Path, labelled: Path) -> None:
    """As one that was made before labels counted: neither its checkpoints nor its list of images have them."""
    for file in (run / "checkpoints").iterdir():
        stored = checkpoints.load(file)
        assert "-" in stored.data_fingerprint
        checkpoints.save(file, replace(stored, data_fingerprint=pictures_of(stored.data_fingerprint)))
    (images,) = (run / "data").iterdir()
    np.save(images, np.load(images)[:, :3])
    relabel(labelled, "0.png")
    for command in (
        ["task=evaluate", "run=run"],
        ["task=sample", "run=run"],
        ["resume=run", "train.max_steps=3"],
    ):
        outcome = gentrain(*command)
        assert outcome.status == 0, outcome.err
    relabel(labelled, "2.png")  # from here on it knows them
    assert "1 of 60 images have another one" in gentrain("resume=run", "train.max_steps=4").err


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a-1", "a-1", None),
        ("a-1", "a-2", "labels"),
        ("a-1", "b-1", "pictures"),
        ("a-1", "b-2", "pictures"),
        ("a", "a-1", None),
        ("a", "b-1", "pictures"),
        ("a-1", "a", None),
        ("", "a-1", "pictures"),
    ],
)
def test_what_two_fingerprints_say(old: str, new: str, expected: str | None, tmp_path: Path) -> None:
    assert difference(old, new) == expected
    packed = Packed(np.zeros((0, 3, 8, 8), np.uint8), {}, np.zeros((0, 0), np.int64), fingerprint=new)
    said = what_changed(tmp_path, "x", old, packed)
    assert said == ("" if expected is None else f"the {expected} of data=x have changed")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x02\x00((", None])
def test_a_damaged_list_of_a_runs_images_costs_the_numbers_alone(
    content: bytes | None, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    if content is None:
        np.save(tmp_path / "data" / "a.npy", np.zeros(3))
    else:
        (tmp_path / "data" / "a.npy").write_bytes(content)
    packed = Packed(np.zeros((0, 3, 8, 8), np.uint8), {}, np.zeros((0, 0), np.int64), fingerprint="b-1")
    assert what_changed(tmp_path, "x", "a-1", packed) == "the pictures of data=x have changed"


def test_relabelled_images_are_counted_where_both_have_labels() -> None:
    old = np.array([(1, 10, 0, 5), (2, 20, 0, 5), (3, 30, 1, 6)], np.uint64)
    new = old.copy()
    new[:2, 3] = 6
    assert compare(old, new) == Difference(0, 0, 0, relabelled=2)
    assert compare(old[:, :3], new) == Difference(0, 0, 0)
    assert compare(old, old[::-1]) == Difference(0, 0, 0)
    assert compare(old, new[1:]) == Difference(0, 1, 0, relabelled=1)
