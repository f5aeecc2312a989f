"""Files that anyone may have written, or damaged: read with limits, and every fault is one sentence.

Only regular files are opened, so that nothing waits for a named pipe or reads a device; sizes, depths,
lengths of numbers and YAML's expansion are limited, so that no file takes all memory or has no end. What a
file must hold is for its own reader to check. No torch.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from gentrain.errors import UserError

LARGEST_JSON = 64 * 2**20  # bytes
LARGEST_YAML = 2**18  # bytes: a reader in pure Python takes seconds for it
DEEPEST = 32  # containers in containers
LONGEST_INTEGER = 100  # digits: far more than any of ours, and still a float

# A named pipe that takes a file's place is opened without waiting for its other end.
if sys.platform == "win32":
    _OPEN_FLAGS = os.O_RDONLY | os.O_BINARY
else:
    _OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(UserError):
    """A stored file that cannot be used: its sentence names the file, and `fault` alone says why."""

    def __init__(self, file: Path, fault: str) -> None:
        super().__init__(f"{file} cannot be read: {fault}")
        self.file, self.fault = file, fault


class Missing(Unreadable):
    """There is nothing of this name: often no fault at all."""


class Denied(Unreadable):
    """The system does not give it now (permissions, the disk): this says nothing about what it holds."""


def read_bytes(file: Path, largest: int, tail: int | None = None) -> bytes:
    """The content of a regular file of at most `largest` bytes, or its last `tail` bytes.

    Raises Unreadable; Missing if there is nothing.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # before it is opened, which some devices notice
            raise Unreadable(file, "it is no regular file")
        with os.fdopen(os.open(file, _OPEN_FLAGS), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable(file, "it is no regular file")
            if found.st_size > largest:
                raise Unreadable(file, f"it is larger than {_size(largest)}")
            if tail is not None:
                opened.seek(max(0, found.st_size - tail))
            return opened.read(
                found.st_size if tail is None else tail
            )  # as much as there was: it may grow meanwhile
    except (FileNotFoundError, NotADirectoryError) as error:
        if file.is_symlink():
            raise Unreadable(file, "it is a link to nothing") from error
        raise Missing(file, "there is no such file") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable(file, "it is a link that leads to itself") from error
        raise Denied(file, error.strerror or type(error).__name__) from error
    except ValueError as error:  # a NUL in its name
        raise Missing(file, str(error)) from error


def read_text(file: Path, largest: int) -> str:
    content = read_bytes(file, largest)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(file, f"it is no text in UTF-8 (at byte {error.start})") from error


def read_json(file: Path, largest: int = LARGEST_JSON) -> Any:
    """Plain data. NaN and infinities are read, since older versions wrote them. Raises Unreadable."""
    text = read_text(file, largest)
    try:
        return parse_json(text)
    except ValueError as error:
        raise Unreadable(file, str(error)) from error


def read_json_object(file: Path, largest: int = LARGEST_JSON) -> dict[str, Any]:
    content = read_json(file, largest)
    if not isinstance(content, dict):
        raise Unreadable(file, "it holds no object {...}")
    return content


def parse_json(text: str) -> Any:
    """Plain data from one JSON text. Raises ValueError, whose words are the fault."""
    try:
        content = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON (line {error.lineno}: {error.msg})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    check_plain(content)
    return content


def read_yaml(file: Path, load: Callable[[str], Any] = yaml.safe_load, largest: int = LARGEST_YAML) -> Any:
    """Plain data, without tags, and without aliases, which can stand for more than any memory holds.

    `load` makes the data of a text that has been looked at. Raises Unreadable.
    """
    text = read_text(file, largest)
    try:
        _check_yaml(text)
        content = load(text)
        check_plain(content)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise Unreadable(file, f"it is no YAML: {error.problem}{where}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Unreadable(file, " ".join(str(error).split())[:200]) from error
    return content


def check_lock(file: Path) -> None:
    """Raise Unreadable if something lies where a lock is to be taken that is no file for it."""
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError:  # nothing there: it will be made, unless a link leads nowhere
        regular = not file.is_symlink()
    if not regular:
        raise Unreadable(file, "it is no regular file, and a lock must be; remove it")


def dump_json(content: Any, indent: int | None = None) -> str:
    """JSON text. It has no NaN and no infinities: these become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def check_plain(content: Any) -> None:
    """Raise ValueError for what would be trouble later: depth, huge integers, half characters."""
    level, depth = [content], 0
    while level:
        if depth > DEEPEST:
            raise ValueError("it is nested too deep")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                below += value
            elif isinstance(value, str):
                _check_text(value)
            elif isinstance(value, int) and abs(value) >= 10**LONGEST_INTEGER:
                raise ValueError(_TOO_LONG)
        level, depth = below, depth + 1


_LONG_NUMBER = re.compile(rf"[-+\d_:]{{{LONGEST_INTEGER},}}").fullmatch
_TOO_LONG = f"a whole number in it has more than {LONGEST_INTEGER} digits"


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(_TOO_LONG)
    return int(text)


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text in it holds half of a character") from error


def _check_yaml(text: str) -> None:
    """Raise ValueError or YAMLError before anything is made of it: the parser gives event after event."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias (*{event.anchor}); write the value itself")
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag is not None:
            raise ValueError(f"it has a tag ({event.tag}); write a plain value")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _LONG_NUMBER(event.value):
            raise ValueError(_TOO_LONG)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("it is nested too deep")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _size(count: int) -> str:
    unit, name = next((pair for pair in ((2**20, "MiB"), (2**10, "KiB")) if count >= pair[0]), (1, "bytes"))
    return f"{count // unit} {name}"
