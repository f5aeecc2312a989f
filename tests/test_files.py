"""Files that are there whole or not at all, written by several processes at once."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import filelock
import pytest
from conftest import Command
from families import FAMILIES

from gentrain.errors import RunFailed, UserError
from gentrain.runtime import files
from gentrain.runtime.files import (
    alone_in,
    failures_of_files,
    remove_half_written,
    still_there,
    write_atomically,
)


def test_one_file_written_twice_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes it from its first byte to its renaming while the first has not yet renamed its own."""
    file, real, begun = tmp_path / "grid.png", os.fsync, []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if not begun:
            begun.append(True)
            write_atomically(file, b"second")
            assert file.read_bytes() == b"second"

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(file, b"fir", b"st")
    assert file.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_lock_that_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "sample/.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\.lock .*it is no regular file"), alone_in(tmp_path / "sample"):
        raise AssertionError("entered")


def test_a_folder_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    folder, order = tmp_path / "sample", []

    def second() -> None:
        with alone_in(folder):
            order.append("second")

    with alone_in(folder):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".grid.png.0a1b2c3d.tmp").write_bytes(b"hal")
    (tmp_path / "mine.tmp").write_bytes(b"somebody's")
    with alone_in(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "mine.tmp"]
    (tmp_path / ".meta.json.0a1b2c3d.tmp").write_bytes(b"hal")
    remove_half_written(tmp_path, "config.yaml*")
    assert (tmp_path / ".meta.json.0a1b2c3d.tmp").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_error_names_the_file_and_leaves_the_old_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    write_atomically(file, b"old")

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"config\.yaml") as caught:
        write_atomically(file, b"new")
    assert caught.value.errno == number
    assert caught.value.filename == str(file)
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_no_place_for_a_run_and_a_run_that_cannot_be_written(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*tiny, *FAMILIES["vae"], "train.max_steps=1"]
    gentrain(*command, "run_dir=first")

    def read_only(path: Path, *_: object, **__: object) -> None:
        if path != Path():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", read_only)
        new = gentrain(*command)
    assert (new.status, new.err.count("\n")) == (2, 1), new.err
    assert "cannot be made (Read-only file system); say with run_dir=" in new.err
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", lambda *_, **__: read_only(Path("first/.lock")))
        again = gentrain("resume=first", "train.max_steps=2")
    assert (again.status, again.err.count("\n")) == (2, 1), again.err
    assert "first cannot be written (Read-only file system)" in again.err


def test_only_a_folder_of_the_commands_own_may_vanish(tmp_path: Path) -> None:
    own = tmp_path / "run"
    own.mkdir()
    with pytest.raises(FileNotFoundError), failures_of_files(), still_there(own):
        (own / "forgotten" / "file").write_text("")
    with pytest.raises(RunFailed, match="run is gone"), failures_of_files(), still_there(own):
        shutil.rmtree(own)
        write_atomically(own / "config.yaml", b"")
    own.mkdir()
    with pytest.raises(RunFailed, match="task is gone"), alone_in(own / "task"):
        shutil.rmtree(own)
        write_atomically(own / "task" / "made", b"")
    with pytest.raises(RunFailed, match="run is gone"), alone_in(own / "task"):
        pass


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_run_that_has_begun_says_how_to_go_on(
    vanishes: bool, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default run_dir the same command would begin another run."""
    from gentrain.runs.tracking import Tracker

    def flush(tracker: Tracker) -> None:
        if (tracker.directory / "config.yaml").exists():  # not before it is a run
            if vanishes:
                while tracker.directory.exists():  # TensorBoard's thread may write meanwhile
                    shutil.rmtree(tracker.directory, ignore_errors=True)
                (tracker.directory / "file").write_text("")
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(tracker.path))

    monkeypatch.setattr(Tracker, "flush", flush)
    ended = gentrain(*tiny, *FAMILIES["vae"])
    assert (ended.status, ended.err.count("\n")) == (1, 1), ended.err
    if vanishes:
        assert " was removed while its run trained" in ended.err
    else:
        run = next(Path("outputs").glob("*/*"))
        assert ended.err.endswith(f"to go on once that is put right: gentrain resume={run}\n")
