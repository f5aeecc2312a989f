"""Checkpoints are whole or not there, and damage is found before anything is parsed."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import torch
from families import assert_same

from gentrain.errors import RunFailed, UserError
from gentrain.runs import checkpoint
from gentrain.runs.checkpoint import Checkpoint, Damaged


def example(step: int = 7) -> Checkpoint:
    parts = {"model": {"w": torch.arange(12.0).view(3, 4)}, "optimizer": {"lr": 0.1, "steps": [1, 2]}}
    return Checkpoint(
        step, "seed: 0\n", parts, {"metric": "valid/mse", "value": 0.5, "step": 6}, ["sample"], "abc"
    )


def test_what_is_saved_is_loaded_and_torch_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "step_00000007.pt"
    checkpoint.save(path, example())
    assert_same(vars(checkpoint.load(path)), vars(example()))
    stored = torch.load(path, weights_only=True)
    assert stored["format"] == 1
    assert_same(stored["parts"], example().parts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_any_changed_or_missing_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    checkpoint.save(path, example())
    whole = path.read_bytes()
    positions = [0, 1, len(whole) - 1, len(whole) - 70, *random.Random(0).choices(range(len(whole)), k=200)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Damaged):
            checkpoint.load(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            checkpoint.load(path)


def test_the_one_before_a_damaged_one_is_used_and_the_damaged_one_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / checkpoint.file_name(step), example(step))
    newest = tmp_path / checkpoint.file_name(3)
    newest.write_bytes(newest.read_bytes()[:100])
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found.step == 2
    assert len(complaints) == 1
    assert str(newest) in complaints[0]
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_or_explain(newest)


def test_one_that_is_dropped_while_others_look_has_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train.keep_last=1, and a task on the run."""
    checkpoint.save(tmp_path / checkpoint.file_name(1), example(1))
    original = checkpoint.load

    def load(path: Path) -> Checkpoint:
        if path.name == checkpoint.file_name(1):
            checkpoint.save(tmp_path / checkpoint.file_name(2), example(2))
            checkpoint.prune(tmp_path, 1)
        return original(path)

    monkeypatch.setattr(checkpoint, "load", load)
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert (found.step, complaints) == (2, [])


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    """Even with a right checksum."""
    sentinel = tmp_path / "sentinel"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (sentinel,)

    path = tmp_path / "step_00000001.pt"
    torch.save({"format": 1, "parts": Attack()}, path)
    path.write_bytes(b"".join(checkpoint.seal(path.read_bytes())))
    with pytest.raises(Damaged, match="other things than tensors"):
        checkpoint.load(path)
    assert not sentinel.exists()


def test_another_format_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"format": 2}, path)
    path.write_bytes(b"".join(checkpoint.seal(path.read_bytes())))
    with pytest.raises(UserError, match="another version"):
        checkpoint.load(path)


def test_old_ones_are_dropped(tmp_path: Path) -> None:
    for step in (100, 5, 20, 1000):
        checkpoint.save(tmp_path / checkpoint.file_name(step), example(step))
    (tmp_path / "best.pt").write_bytes(b"best")
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "step_00000100.pt", "step_00001000.pt"]


def test_going_on_puts_damaged_files_aside_and_prunes_only_whole_ones(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint.save(tmp_path / checkpoint.file_name(step), example(step))
    newest = tmp_path / checkpoint.file_name(6)
    newest.write_bytes(newest.read_bytes()[:-1])
    checkpoint.save(tmp_path / "best.pt", example(5))
    found, complaints = checkpoint.load_to_go_on(tmp_path)
    assert found is not None
    assert found.step == 4
    assert found.best is None, "its file is of later, and was put aside"
    assert len(complaints) == 1
    checkpoint.save(tmp_path / checkpoint.file_name(5), example(5))
    checkpoint.prune(tmp_path, 1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best.pt.later", "step_00000005.pt", "step_00000006.pt.damaged"]
    checkpoint.save(tmp_path / "best.pt", example(3))
    kept, _ = checkpoint.load_to_go_on(tmp_path)
    assert kept is not None
    assert kept.best == example().best


def test_when_all_are_damaged_nothing_is_begun_anew(tmp_path: Path) -> None:
    for step in (2, 4):
        (tmp_path / checkpoint.file_name(step)).write_bytes(b"garbage")
    with pytest.raises(UserError, match="no whole checkpoint is left"):
        checkpoint.load_to_go_on(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.load_to_go_on(tmp_path / "none") == (None, [])


def test_a_full_disk_names_the_file_and_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / checkpoint.file_name(1), example(1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunFailed, match=r"no space left to write .*step_00000002.pt; the last good .*step_00000001.pt"
    ):
        checkpoint.save(tmp_path / checkpoint.file_name(2), example(2))
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.file_name(1)]
