"""The directory of a run, or its lock, is removed, renamed or made anew while the run trains in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same, newest

from gentrain.runs.run_lock import Lost
from gentrain.runs.rundir import RunDir, is_run
from gentrain.runs.tracking import Tracker
from gentrain.training import resume
from gentrain.training.minimize import Minimize

LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps what is open where it is")
AT = 4  # nothing but a log line is due at the step after it has happened


def removed() -> None:
    shutil.rmtree("run")


def made_anew() -> None:
    removed()
    another("run")


def renamed() -> None:
    Path("run").rename("elsewhere")


def renamed_and_made_anew() -> None:
    renamed()
    another("run")


def parent_renamed() -> None:
    Path("runs").rename("older")


def lock_made_anew() -> None:
    Path("run/.lock").unlink()
    Path("run/.lock").touch()


def a_file_in_its_place() -> None:
    removed()
    Path("run").write_text("another's")


def another(path: str) -> None:
    (Path(path) / "checkpoints").mkdir(parents=True)
    for name in (".lock", "config.yaml", "metrics.jsonl", "result.json", "checkpoints/step_00000001.pt"):
        (Path(path) / name).write_text("another's")


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def happens(monkeypatch: pytest.MonkeyPatch, what: Callable[[], None], at_step: int) -> dict[str, bytes]:
    """`what` happens within a step; the files that lay at run after it, by name."""
    original, open_curves, seen = Minimize.train_step, Tracker._open, dict[str, bytes]()
    trackers: list[Tracker] = []

    def remember(self: Tracker, start_step: int) -> None:
        trackers.append(self)
        open_curves(self, start_step)

    def step(self: Minimize, next_batch, number: int):  # type: ignore[no-untyped-def]
        if number + 1 == at_step:
            trackers[-1].flush()  # TensorBoard writes in a thread of its own: that it does so now is no fault
            what()
            seen.update(contents(Path("run")))
        return original(self, next_batch, number)

    monkeypatch.setattr(Tracker, "_open", remember)
    monkeypatch.setattr(Minimize, "train_step", step)
    return seen


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (removed, "run was removed while its run trained"),
        (made_anew, "what lies there now is another's"),
        (a_file_in_its_place, "what lies there now is another's"),
        (renamed, "elsewhere now; to go on from its last checkpoint: gentrain resume=/"),
        (renamed_and_made_anew, "elsewhere now; what lies there now is another's"),
        (lock_made_anew, "another process has taken the directory since"),
    ],
)
@pytest.mark.parametrize("due", ["log", "evaluate", "sample", "save", "the end"])
def test_a_lost_directory_is_noticed_whatever_is_written_next(
    what: Callable[[], None],
    says: str,
    due: str,
    gentrain: Command,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("log", "eval", "sample", "save")
    cadence = [f"train.{name}_every_steps={1 if due.startswith(name) else 'null'}" for name in names]
    seen = happens(monkeypatch, what, 6 if due == "the end" else AT)
    outcome = gentrain(*tiny, *FAMILIES["vae"], "run_dir=run", *cadence)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("gentrain: ")
    if LINUX or not what.__name__.startswith("re"):
        assert says in outcome.err
    if what in (removed, made_anew, a_file_in_its_place, lock_made_anew):
        assert "resume=" not in outcome.err
    assert "go on:" not in outcome.out
    assert contents(Path("run")) == seen


def test_a_renamed_run_goes_on_in_its_new_place(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*tiny, *FAMILIES["vae"]]
    assert gentrain(*command, "run_dir=whole").status == 0
    with monkeypatch.context() as patched:
        happens(patched, parent_renamed, AT)
        outcome = gentrain(*command, "run_dir=runs/one")
    assert outcome.status == 1
    assert not Path("runs").exists()
    if LINUX:
        advised = outcome.err.split()[-1]
        assert advised == f"resume={Path('older/one').resolve()}"
    assert gentrain("resume=older/one").status == 0
    assert_same(newest(Path("older/one"))["parts"], newest(Path("whole"))["parts"])


def test_a_lock_file_alone_that_is_removed_is_made_again(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def is_held() -> None:
        try:
            with filelock.FileLock("run/.lock", timeout=0):
                held.append(False)
        except filelock.Timeout:
            held.append(True)

    happens(monkeypatch, Path("run/.lock").unlink, 3)
    happens(monkeypatch, is_held, 5)
    assert gentrain(*tiny, *FAMILIES["vae"], "run_dir=run").status == 0
    assert held == [True]


def test_a_lost_directory_is_noticed_before_a_rollback(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which drops later checkpoints, and would read those of another run."""
    original = Minimize.train_step

    def step(self: Minimize, next_batch, number: int):  # type: ignore[no-untyped-def]
        metrics = original(self, next_batch, number)
        return metrics if number + 1 < AT + 1 else metrics | {"loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(Minimize, "train_step", step)
    seen = happens(monkeypatch, made_anew, AT + 1)
    cadence = [f"train.{name}_every_steps=null" for name in ("log", "eval", "sample")]
    outcome = gentrain(*tiny, *FAMILIES["vae"], "run_dir=run", "train.on_alarm=rollback", *cadence)
    assert outcome.status == 1
    assert "what lies there now is another's" in outcome.err
    assert contents(Path("run")) == seen


def test_a_directory_that_is_not_held_is_not_asked_for(tmp_path: Path) -> None:
    """That of another process than the one that writes."""
    RunDir(tmp_path / "none").check()
    held = RunDir.create(tmp_path / "one", "name")
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "one").mkdir()
    with pytest.raises(Lost):
        held.check()
    held.unlock()
    held.check()


def test_a_directory_that_becomes_a_run_while_it_is_asked_for_is_one(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two commands that are typed at once: the slower one finds the other's run, and no strange folder."""
    command = [*tiny, *FAMILIES["vae"], "run_dir=run"]
    assert gentrain(*command).status == 0
    answers = iter([False])
    monkeypatch.setattr(resume, "is_run", lambda path: next(answers, None) is None and is_run(path))
    outcome = gentrain(*command)
    assert outcome.status == 0
    assert "already finished" in outcome.out + outcome.err
