"""Stored files: what is damaged, strange or made to do harm is a sentence, soon, and never a traceback."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gentrain.runtime.stored_files import (
    Missing,
    Unreadable,
    dump_json,
    read_bytes,
    read_json_object,
    read_yaml,
)

# What may lie where a regular file should be, and a word of the sentence about it.
NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "no regular file"),
    "a pipe": (os.mkfifo, "no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "a socket": (lambda path: _socket(path), "no regular file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "leads to itself"),
    "all too large": (lambda path: _sparse(path), "larger than"),
}
BAD_JSON = {
    "empty": b"",
    "cut off": b'{"a": 1',
    "two": b"{}{}",
    "no UTF-8": b'{"a": "\xff"}',
    "half a character": b'{"a": "\\ud800"}',
    "deep": b'{"a":' * 40 + b"1" + b"}" * 40,
    "all too deep": b'{"a":' + b"[" * 200_000,
    "a huge integer": b'{"a": ' + b"9" * 101 + b"}",
    "an enormous integer": b'{"a": ' + b"9" * 100_000 + b"}",
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
}
BAD_YAML = {
    "no YAML": b"a: [1",
    "two documents": b"a: 1\n---\nb: 2\n",
    "NUL": b"a: \0",
    "no UTF-8": b"a: \xff",
    "half a character": b'a: "\\ud800"',
    "an alias": b"a: &x [1]\nb: *x\n",
    "laughs": b"a: &a [1,1]\n"
    + b"".join(b"%c: &%c [*%c,*%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
    "an alias of itself": b"a: &a [*a]\n",
    "a tag": b"a: !!python/object/apply:os.system ['true']\n",
    "a tag of YAML": b"a: !!timestamp x\n",
    "a bool that is none": b"a: !!bool x\n",
    "deep": b"a: " + b"[" * 40 + b"]" * 40,
    "all too deep": b"a: " + b"[" * 200_000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(500)),
    "a huge integer": b"a: " + b"9" * 101,
    "an enormous integer": b"a: " + b"9" * 100_000,
    "an enormous hexadecimal": b"a: 0x" + b"f" * 100_000,
    "an enormous time": b"a: 1" + b":59" * 1_000,
    "no number": b"a: 0x_\n",
    "no date": b"a: 2001-99-99\n",
}


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # a socket's whole path may have 108 bytes


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    make, said = NO_FILES[kind]
    make(file)
    for read in (read_json_object, read_yaml, lambda path: read_bytes(path, 10)):
        with pytest.raises(Unreadable, match=said) as caught:
            read(file)
        assert not isinstance(caught.value, Missing)
        assert str(file) in str(caught.value)


def test_nothing_there_is_told_apart(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "below", tmp_path / "nul\0"):
        with pytest.raises(Missing):
            read_bytes(path, 10)


@pytest.mark.parametrize("kind", BAD_JSON)
def test_bad_json(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(BAD_JSON[kind])
    with pytest.raises(Unreadable, match="cannot be read: ") as caught:
        read_json_object(file)
    assert len(str(caught.value)) < 200 + len(str(file))


@pytest.mark.parametrize("kind", BAD_YAML)
def test_bad_yaml(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(BAD_YAML[kind])
    with pytest.raises(Unreadable, match="cannot be read: ") as caught:
        read_yaml(file)
    assert len(str(caught.value)) < 300 + len(str(file))
    assert "\n" not in str(caught.value)


def test_what_is_right_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = {"a": [1, 2.5, None, True, "ä", {"b": 10**98, "c": -0.25}], "d": "9" * 500}
    file.write_text(json.dumps(content))
    assert read_json_object(file) == content
    assert read_yaml(file) == content
    file.write_text('{"older": [NaN, Infinity]}')
    assert math.isnan(read_json_object(file)["older"][0])
    assert read_bytes(file, 100, tail=3) == b"y]}"


def test_a_limit_is_the_last_size_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert len(read_bytes(file, 10)) == 10
    with pytest.raises(Unreadable, match="larger than 9 bytes"):
        read_bytes(file, 9)


def test_what_is_written_is_json() -> None:
    text = dump_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": 1})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, [1.5, None]], "c": 1}
