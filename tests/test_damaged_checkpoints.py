"""Checkpoints with a right checksum and a wrong content, and what is no file: named, passed over, never a traceback."""

from __future__ import annotations

import io
import math
import os
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, run_command
from families import FAMILIES

import gentrain as library
from gentrain.errors import UserError
from gentrain.runs import checkpoint
from gentrain.runs.checkpoint import Checkpoint, Damaged
from gentrain.runs.step_names import file_name, newest_first, step_of

Stored = dict[str, Any]


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of a vae, whose checkpoints are those of steps 2 and 4, and the best."""
    folder = tmp_path_factory.mktemp("trained")
    words = [
        "data=folder", f"data.root={pictures}", "data.size=8", *FAMILIES["vae"], "train.max_steps=4",
        "train.batch_size=8", "train.save_every_steps=2", "train.eval_every_steps=2", "train.sample_count=1",
        f"run_dir={folder / 'run'}",
    ]  # fmt: skip
    run_command(*words)
    yield folder / "run"


@pytest.fixture
def run(trained: Path, gentrain: Command) -> Path:
    """A copy of it in the current folder."""
    return Path(shutil.copytree(trained, "run"))


def write(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(b"".join(checkpoint.seal(buffer.getvalue())))


def _compressed(path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    path.write_bytes(b"".join(checkpoint.seal(buffer.getvalue())))


def _zip(path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "no pickle")
    path.write_bytes(b"".join(checkpoint.seal(buffer.getvalue())))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)


# What may lie where a checkpoint should be: from the content that was there.
DAMAGED: dict[str, Callable[[Path, Stored], object]] = {
    "nothing in it": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("weights"),
    "sparse": lambda path, _: _sparse(path),
    "compressed": lambda path, _: _compressed(path),
    "a zip": lambda path, _: _zip(path),
    "a list": lambda path, _: write(path, [1, 2]),
    "a tensor": lambda path, _: write(path, torch.zeros(3)),
    "no format": lambda path, stored: write(path, {"step": stored["step"]}),
    "code": lambda path, stored: write(path, stored | {"config": Fraction(1, 2)}),
    "no step": lambda path, stored: write(path, {key: stored[key] for key in stored if key != "step"}),
    "no parts": lambda path, stored: write(path, {key: stored[key] for key in stored if key != "parts"}),
    "more": lambda path, stored: write(path, stored | {"more": 1}),
    "a key that is no text": lambda path, stored: write(path, stored | {3: 1}),
    "a step in words": lambda path, stored: write(path, stored | {"step": "four"}),
    "a step below 0": lambda path, stored: write(path, stored | {"step": -1}),
    "a step that is true": lambda path, stored: write(path, stored | {"step": True}),
    "another step": lambda path, stored: write(path, stored | {"step": 3}),
    "parts in a list": lambda path, stored: write(path, stored | {"parts": [stored["parts"]]}),
    "a part that is a number": lambda path, stored: write(path, stored | {"parts": {"model": 3}}),
    "something to do": lambda path, stored: write(path, stored | {"pending": ["dance"]}),
    "pending numbers": lambda path, stored: write(path, stored | {"pending": [1]}),
    "a best that is text": lambda path, stored: write(path, stored | {"best": "mine"}),
    "a best without a value": lambda path, stored: write(path, stored | {"best": {}}),
    "a best that is nan": lambda path, stored: write(path, stored | {"best": {"value": math.nan}}),
    "a config that is a number": lambda path, stored: write(path, stored | {"config": 3}),
    "rollbacks below 0": lambda path, stored: write(path, stored | {"rollbacks": -2}),
    "a fingerprint that is none": lambda path, stored: write(path, stored | {"data_fingerprint": None}),
    "a folder": lambda path, _: path.mkdir(),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a link to nothing": lambda path, _: path.symlink_to("nowhere"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
}
OF_THE_LINE = ("another step",)  # damage only by the name of the file


def damage(path: Path, kind: str) -> None:
    stored = torch.load(path, weights_only=True)
    path.unlink()
    DAMAGED[kind](path, stored)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_newest_one_is_named_and_the_one_before_it_used(kind: str, run: Path) -> None:
    newest = run / "checkpoints" / file_name(4)
    damage(newest, kind)
    with pytest.warns(UserWarning, match="step_00000004.pt is damaged .*the one before it is used"):
        assert library.load(run).step == 2
    if kind not in OF_THE_LINE:
        with pytest.raises(UserError, match=r"step_00000004\.pt|no checkpoint"):
            library.load(newest)
        best = run / "checkpoints/best.pt"
        best.unlink()
        newest.rename(best)
        with pytest.raises(UserError, match=r"best\.pt"):
            library.load(run, checkpoint="best")
        best.rename(newest)
    found, complaints = checkpoint.load_to_go_on(run / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert any(str(newest) in complaint for complaint in complaints)
    assert [path.name for path in newest_first(run / "checkpoints")] == [file_name(2)]
    assert (
        newest.with_name(newest.name + ".damaged").is_symlink()
        or newest.with_name(newest.name + ".damaged").exists()
    )


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link to nothing", "more", "text"])
def test_every_command_on_a_run_with_a_damaged_newest_one(kind: str, run: Path, gentrain: Command) -> None:
    newest = run / "checkpoints" / file_name(4)
    damage(newest, kind)
    for words in (
        ["task=sample", "run=run", "sample.count=1"],
        ["task=traverse", "run=run"],
        ["task=interpolate", "run=run"],
        ["task=evaluate", "run=run", "evaluate.samples=null", "evaluate.iwae_samples=null"],
        ["resume=run", "train.max_steps=3"],
    ):
        outcome = gentrain(*words)
        assert outcome.status == 0, f"{words}: {outcome.err}"
        assert "step_00000004.pt is damaged" in outcome.out, words


def _changed(stored: Stored, part: str, change: Callable[[Stored], object]) -> Stored:
    state = OrderedDict(stored["parts"][part])
    change(state)
    return stored | {"parts": stored["parts"] | {part: state}}


def _first(state: Stored, value: Callable[[torch.Tensor], Any]) -> None:
    name = next(name for name, entry in state.items() if entry.ndim > 1)
    state[name] = value(state[name])


WEIGHTS: dict[str, Callable[[Stored], object]] = {
    "another shape": lambda state: _first(state, lambda value: value[:-1]),
    "one number in place of all": lambda state: _first(state, lambda value: value.flatten()[0]),
    "a number": lambda state: _first(state, lambda value: 3.0),
    "text": lambda state: _first(state, lambda value: "weights"),
    "sparse": lambda state: _first(state, lambda value: value.to_sparse()),
    "complex": lambda state: _first(state, lambda value: value + 1j),
    "no numbers at all": lambda state: _first(state, lambda value: value.to("meta")),
    "one missing": lambda state: state.popitem(),
    "all missing": lambda state: state.clear(),
    "one too many": lambda state: state.update({"module.other": torch.zeros(1)}),
    "a name that is a number": lambda state: state.update({7: torch.zeros(1)}),
}


@pytest.mark.parametrize("part", ["model", "ema"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_another_model_are_a_sentence(kind: str, part: str, run: Path) -> None:
    path = run / "checkpoints" / file_name(4)
    write(path, _changed(torch.load(path, weights_only=True), part, WEIGHTS[kind]))
    if part == "model" and kind not in ("one too many", "a name that is a number"):
        with pytest.raises(UserError, match="weights of another model"):
            library.load(run, average=False)
    if part == "ema" and kind not in ("one missing", "all missing", "a name that is a number"):
        with pytest.raises(UserError, match="weights of another model"):
            library.load(run)


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_resume_and_init_from_say_whose_weights_they_are_not(part: str, run: Path, gentrain: Command) -> None:
    path = run / "checkpoints" / file_name(4)
    stored = torch.load(path, weights_only=True)
    config = (run / "config.yaml").read_text()
    for kind in ("all missing", "one too many") if part != "optimizer" else ("all missing",):
        write(path, _changed(stored, part, WEIGHTS[kind]))
        outcome = gentrain("resume=run", "train.max_steps=5")
        assert outcome.status == 2, outcome.err
        assert f"the {part} in the checkpoint of step 4 in run is that of another" in outcome.err
        assert (run / "config.yaml").read_text() == config
    write(path, stored | {"parts": {"model": stored["parts"]["model"]}})
    outcome = gentrain("resume=run", "train.max_steps=5")
    assert outcome.status == 2
    assert "it lacks ema, optimizer" in outcome.err


def test_moments_of_another_shape(run: Path, gentrain: Command) -> None:
    path = run / "checkpoints" / file_name(4)
    stored = torch.load(path, weights_only=True)
    stored["parts"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1, 2, 3)
    write(path, stored)
    outcome = gentrain("resume=run", "train.max_steps=5")
    assert outcome.status == 2
    assert "exp_avg 0 has the shape (1, 2, 3)" in outcome.err


def test_weights_of_another_family(run: Path, gentrain: Command, pictures: Path) -> None:
    other = ["data=folder", f"data.root={pictures}", "data.size=8", *FAMILIES["ae"], "run_dir=other"]
    outcome = gentrain(*other, "init_from=run", "train.max_steps=1")
    assert outcome.status == 2
    assert "weights of another model" in outcome.err
    assert not Path("other").exists()


def diverged(run: Path) -> None:
    """All weights of the newest checkpoint and of the best one are nan."""
    for path in (run / "checkpoints" / file_name(4), run / "checkpoints/best.pt"):
        stored = torch.load(path, weights_only=True)
        for part in ("model", "ema"):
            for value in stored["parts"][part].values():
                if value.is_floating_point():
                    value.fill_(math.nan)
        write(path, stored)


def test_weights_that_are_not_finite_are_said(run: Path, gentrain: Command, tiny: list[str]) -> None:
    diverged(run)
    for words in (
        ["task=sample", "run=run", "sample.count=1"],
        ["task=sample", "run=run", "sample.count=1", "checkpoint=best"],
        ["task=traverse", "run=run"],
        ["task=interpolate", "run=run"],
        ["task=evaluate", "run=run", "evaluate.samples=null", "evaluate.iwae_samples=null"],
    ):
        outcome = gentrain(*words)
        assert "are not finite: the run has diverged" in outcome.out, words
        assert "Traceback" not in outcome.err
    with pytest.warns(UserWarning, match="not finite"):
        library.load(run)
    outcome = gentrain(*tiny, *FAMILIES["vae"], "run_dir=new", "init_from=run")
    assert outcome.status == 2
    assert "init_from=run: " in outcome.err
    assert "not finite" in outcome.err
    assert not Path("new").exists()


def test_nothing_is_said_of_a_good_run(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for which in ("last", "best"):
            assert library.load(run, checkpoint=which).remarks == []


def test_a_checkpoint_alone_is_named(run: Path, gentrain: Command) -> None:
    Path("lone").mkdir()
    shutil.copy(run / "checkpoints" / file_name(4), "lone/mine.pt")
    for words in (["task=sample", "run=lone/mine.pt"], ["resume=lone/mine.pt"]):
        outcome = gentrain(*words)
        assert outcome.status == 2
        assert "lone/mine.pt lies in no run directory" in outcome.err
        assert "<run>/checkpoints" in outcome.err
    link = Path("link.pt")
    link.symlink_to((run / "checkpoints" / file_name(4)).absolute())
    assert library.load(link).step == 4
    kept = Path("store.pt")
    (run / "checkpoints" / file_name(4)).rename(kept)
    (run / "checkpoints" / file_name(4)).symlink_to(kept.absolute())  # as git-annex keeps large files
    assert library.load(run / "checkpoints" / file_name(4)).step == 4


def example(step: int) -> Checkpoint:
    return Checkpoint(step, "seed: 0\n", {"model": {"w": torch.zeros(2)}})


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    steps = (99_999_998, 99_999_999, 100_000_000, 1_000_000_000)
    for step in steps:
        checkpoint.save(tmp_path / file_name(step), example(step))
    for name in (
        "step_backup.pt",
        "step_.pt",
        "step_-0000001.pt",
        "step_00000001 (copy).pt",
        "step_²2222222.pt",
    ):
        (tmp_path / name).write_bytes(b"someone's")
    assert [step_of(path) for path in newest_first(tmp_path)] == [*reversed(steps)]
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert (found.step, complaints) == (steps[-1], [])
    checkpoint.prune(tmp_path, 1, keep_from=99_999_999)
    assert [step_of(path) for path in newest_first(tmp_path)] == [1_000_000_000, 99_999_999]
    found, _ = checkpoint.go_back(tmp_path, 100_000_000)
    assert found is not None
    assert found.step == 99_999_999
    assert [step_of(path) for path in newest_first(tmp_path)] == [99_999_999]
    checkpoint.save(tmp_path / file_name(100_000_001), example(100_000_001))
    (tmp_path / file_name(100_000_002)).write_bytes(b"damaged")
    found, _ = checkpoint.load_to_go_on(tmp_path)
    assert found is not None
    assert found.step == 100_000_001


def test_only_one_module_knows_how_steps_are_in_names() -> None:
    """A name that is sorted or compared as text goes wrong at the step where it gets longer."""
    package = Path(checkpoint.__file__).parent
    at_home = package / "step_names.py"
    for file in package.rglob("*.py"):
        if file != at_home:
            assert "step_{" not in file.read_text(), file
            assert '"step_*' not in file.read_text(), file


def test_what_the_system_does_not_give_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a checkpoint would be put aside because of a disk that was busy."""
    checkpoint.save(tmp_path / file_name(1), example(1))

    def fails(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(UserError, match="Input/output error"):
        checkpoint.load_to_go_on(tmp_path)
    with pytest.raises(UserError), pytest.raises(Damaged):
        checkpoint.load(tmp_path / file_name(1))
    assert len(list(tmp_path.iterdir())) == 1
