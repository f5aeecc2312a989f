"""A command killed before any of its file operations, and typed again, leaves what it leaves uninterrupted.

Here at some points, with GENTRAIN_ALL_KILL_POINTS=1 at all of them. Half-written files of a killed process that
another one may be writing (a sweep's records) may stay.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_points import Ended, Forker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

VAE = ["model=vae", "model.latent_dim=3", "model.width=4", "model.hidden=8", "model.mixtures=2"]
TRAINING = [
    "data=folder",
    "data.root=pictures",
    "data.size=8",
    "device=cpu",
    *VAE,
    "train.max_steps=4",
    "train.batch_size=8",
    "train.log_every_steps=1",
    "train.eval_every_steps=2",
    "train.sample_every_steps=2",
    "train.save_every_steps=2",
    "train.sample_count=4",
    "optimizer.warmup_steps=2",
]


@dataclass(frozen=True)
class Case:
    """`command` is typed where the finished runs "first" and "second" are, and the folder "pictures".

    Of the operations that change which files are there so many are tried: `early` of those before a new run is
    one, and `points` of the others.
    """

    command: list[str]
    points: int = 1
    early: int = 0


SHORT = [*TRAINING, "train.max_steps=2"]
SEARCH = ["tune.trials=2", "tune.dir=tuned", "+tune.space.optimizer.lr={low:1e-4,high:1e-3,log:true}"]
CASES = {
    "new": Case([*TRAINING, "run_dir=cut"], 1, 1),
    "init_from": Case([*TRAINING, "init_from=first", "seed=2", "run_dir=cut"], 0, 2),
    "branch": Case(["resume=first/checkpoints/step_00000002.pt", "run_dir=cut"], 0, 3),
    "resume": Case(["resume=second", "train.max_steps=6"]),
    "sample": Case(["task=sample", "run=first", "sample.count=3"]),
    "evaluate": Case(["task=evaluate", "run=first"]),
    "interpolate": Case(["task=interpolate", "run=first"]),
    "traverse": Case(["task=traverse", "run=first"]),
    "complete": Case(["task=complete", "run=first", "complete.count=2", "complete.draws=1"]),
    "compare": Case(["task=compare", "runs=[first,second]"]),
    "inspect": Case(["task=inspect", *TRAINING[:3], "run_dir=looked"]),
    "sweep": Case(["-m", *SHORT, "seed=1,2", "sweep_dir=swept"]),
    "tune": Case(["task=tune", *SHORT, *SEARCH]),
}
BEGUN = re.compile(r"rename cut/(beginning|\.config)\.yaml")  # the operation that makes a new run one
# Beginnings of keys of JSON files that may differ.
TIMES = ("perf/", "seconds", "cost", "sessions", "directory", "command")


@pytest.fixture(scope="module")
def fork() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(fork: Forker, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which each command is typed, in a copy of it."""
    folder = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "pictures").symlink_to(pictures)
        patch.setenv("GENTRAIN_CACHE", str(folder / "cache"))
        for number, name in enumerate(("first", "second")):
            ended = fork(*TRAINING, f"seed={number}", f"run_dir={name}")
            assert ended.status == 0, ended.output
        yield folder


def points_of(case: Case, operations: list[str]) -> list[int]:
    """Numbers of operations to be killed before: where names appear, change or vanish, else little differs."""
    if os.environ.get("GENTRAIN_ALL_KILL_POINTS"):
        return list(range(1, len(operations) + 1))
    numbers = [
        number
        for number, operation in enumerate(operations, 1)
        if operation not in operations[: number - 1]  # TensorBoard opens its file again and again
        and not operation.startswith("fsync")
        and not (operation.startswith("open") and operation.endswith(".tmp"))
    ]
    begun = max((number for number in numbers if BEGUN.search(operations[number - 1])), default=0)
    early = [number for number in numbers if case.early and number <= begun]
    return [*spread(early, case.early), *spread(numbers[len(early) :], case.points)]


def spread(numbers: list[int], count: int) -> list[int]:
    return [numbers[(2 * part + 1) * len(numbers) // (2 * count)] for part in range(count)]


def in_a_copy(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into a copy of the place, always of the same path, which files hold."""
    copy = tmp_path / "work"
    shutil.copytree(place, copy, symlinks=True)
    if name in ("new", "inspect"):
        shutil.rmtree(copy / "cache")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("GENTRAIN_CACHE", str(copy / "cache"))
    return copy


@pytest.mark.parametrize("name", CASES)
def test_killed_and_typed_again(
    name: str, fork: Forker, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    copy = in_a_copy(name, place, tmp_path, monkeypatch)
    ended = fork(*case.command)
    assert ended.status == 0, ended.output
    whole = content(copy)
    shutil.rmtree(copy)
    for point in points_of(case, ended.operations):
        where = f"killed before operation {point}, {ended.operations[point - 1]}"
        copy = in_a_copy(name, place, tmp_path, monkeypatch)
        killed = fork(*case.command, kill_at=point)
        assert killed.status == -signal.SIGKILL, (where, killed.output)
        again = fork(*case.command)
        assert again.status == 0, (where, again.output)
        assert "Traceback" not in again.output, (where, again.output)
        assert_same_content(content(copy), whole, where)
        shutil.rmtree(copy)


ERRORS = (errno.EROFS, errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_fails_is_one_sentence(
    name: str, fork: Forker, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first operation on, and from one in the middle, with one error after the other."""
    case, number = CASES[name], list(CASES).index(name)
    first, second = (ERRORS[(number + more) % len(ERRORS)] for more in (0, 1))
    copy = in_a_copy(name, place, tmp_path, monkeypatch)
    assert_one_sentence(fork(*case.command, fail=(1, first)), first)
    whole = fork(*case.command)
    assert whole.status == 0, whole.output
    shutil.rmtree(copy)
    in_a_copy(name, place, tmp_path, monkeypatch)
    middle = len(whole.operations) // 2
    assert_one_sentence(fork(*case.command, fail=(middle, second)), second)


def assert_one_sentence(ended: Ended, error: int) -> None:
    where = (errno.errorcode[error], ended.output)
    assert ended.status in (1, 2), where
    assert "Traceback" not in ended.output, where
    full = "no space left" in ended.output and error in (errno.ENOSPC, errno.EDQUOT)
    assert full or os.strerror(error) in ended.output, where


def assert_same_content(found: dict[str, Any], whole: dict[str, Any], where: str) -> None:
    assert sorted(found) == sorted(whole), where
    for file, held in whole.items():
        assert found[file] == held, f"{where}: {file} is another"


def content(folder: Path) -> dict[str, Any]:
    """What is in each file, but for the clock, and the names of half-written ones."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if file.name.endswith(".tmp") and ".jobs" not in name:
            found[name] = "half written"
        if hidden or not file.is_file() or file.name.startswith(("study.journal", "trial_")):
            continue
        if file.name.startswith("events.out"):
            found[str(file.parent.relative_to(folder) / "events")] = scalars(file.parent)
        elif file.suffix == ".pt":
            stored = torch.load(file, weights_only=True)
            found[name] = {key: str(value) for key, value in stored.items() if key != "config"}
        elif file.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".json":
            found[name] = timeless(json.loads(file.read_text()))
        elif file.suffix not in (".html", ".csv", ".log", ".later"):
            found[name] = file.read_bytes()
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(held) for key, held in value.items() if not key.startswith(TIMES)}
    return [timeless(held) for held in value] if isinstance(value, list) else value


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    read = EventAccumulator(str(run), size_guidance={"scalars": 0})
    read.Reload()
    tags = [tag for tag in read.Tags()["scalars"] if not tag.startswith("perf/")]
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags}
