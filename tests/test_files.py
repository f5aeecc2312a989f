"""Files that are there whole or not at all, written by several processes at once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from gentrain import files
from gentrain.files import alone_in, remove_half_written, write_atomically


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
