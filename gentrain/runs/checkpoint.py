"""Checkpoints: written whole, carrying their own checksum, read as data.

A checkpoint is a file of torch.save, which is a zip archive, with a SHA-256 of all bytes before it in
the archive's trailing comment. So one rename puts the file and its checksum in place together, damage is
found before anything is parsed, and plain `torch.load(path, weights_only=True)` reads it too.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch

from gentrain.config.ranges import AtLeast
from gentrain.config.schema import expected, fits, schema_of
from gentrain.errors import RunFailed, UserError
from gentrain.runs.step_names import file_name as file_name
from gentrain.runs.step_names import newest_first as newest_first
from gentrain.runs.step_names import step_of
from gentrain.runtime import collectives
from gentrain.runtime.files import in_words, write_atomically
from gentrain.runtime.stored_files import Denied, Missing, Unreadable, read_bytes

FORMAT = 1
_LABEL = b"sha256:"
_COMMENT_BYTES = len(_LABEL) + 64
# 22 bytes that begin with this signature close a zip archive; the last two of them count its comment.
_END_OF_ARCHIVE = b"PK\x05\x06"


NO_CHECKSUM = "its checksum is wrong"
PENDING = ("evaluate", "sample")
# What torch's reader raises for a file of another kind, or one that was made to do harm.
NOT_OURS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError, OSError,
    MemoryError, OverflowError, NotImplementedError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class Damaged(Exception):
    """What lies where a checkpoint should be is not what was written there."""


@dataclass
class Checkpoint:
    """What a run is at a step. `parts` holds the learner's state by name, equal bit for bit in equal runs.

    The annotations are the schema of what is read.
    """

    step: Annotated[int, AtLeast(0)]
    config: str
    parts: dict
    best: dict | None = None
    pending: list[str] = field(default_factory=list)
    data_fingerprint: str = ""
    rollbacks: Annotated[int, AtLeast(0)] = 0  # how often the run has gone back after an alarm


_FIELDS = schema_of(Checkpoint)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically. A disk that is full or fails is a RunFailed that names the last good one, too."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, *seal(buffer.getbuffer()))
    except OSError as error:
        reason = in_words(error)
        if reason is None:
            raise
        good = newest_first(path.parent)
        kept = f"the last good checkpoint is {good[0]}" if good else "there is no earlier checkpoint"
        raise RunFailed(f"{reason}; {kept}") from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises Damaged, whatever is wrong with what is there.

    And UserError: Missing, Denied, or if a newer gentrain wrote it.
    """
    try:
        if not read_bytes(path, memory_bytes(), tail=_COMMENT_BYTES).startswith(_LABEL):
            raise Damaged(NO_CHECKSUM)  # before all of it is read, which may be large
        content = read_bytes(path, memory_bytes())
    except (Missing, Denied):
        raise
    except Unreadable as error:
        raise Damaged(error.fault) from error
    verify(content)
    stored = _unpacked(content)
    if not isinstance(stored, dict) or "format" not in stored:
        raise Damaged("it is no checkpoint of gentrain")
    if stored.pop("format") != FORMAT:
        raise UserError(f"{path} was written by another version of gentrain; use that version to read it")
    _check_fields(stored)
    return Checkpoint(**stored)


def memory_bytes() -> int:
    """Of this machine, as far as it says so: no checkpoint of a model that runs here is larger."""
    if sys.platform == "win32":
        return 2**40
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _unpacked(content: bytes) -> Any:
    """What torch.save wrote. Raises Damaged for what it has not written, though the checksum is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > len(content):
            raise Damaged("it unpacks to more than it is")  # and might become larger than any memory
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Damaged("it holds other things than tensors and plain data") from error
    except NOT_OURS as error:
        raise Damaged(f"what it holds cannot be made: {' '.join(str(error).split())[:120]}") from error


def _check_fields(stored: dict[Any, Any]) -> None:
    """Raise Damaged unless these are the fields of a Checkpoint."""
    for key in stored:
        if key not in _FIELDS:
            raise Damaged(f"it holds {str(key)[:80]!r}, which is no part of a checkpoint")
    for name, setting in _FIELDS.items():
        if name not in stored:
            if setting.required:
                raise Damaged(f"it has no {name}")
        elif not fits(stored[name], setting.annotation):
            raise Damaged(f"its {name} is not {expected(setting.annotation)}")
    if not set(stored.get("pending", ())) <= set(PENDING):
        raise Damaged(f"what is left to do is not {' or '.join(PENDING)}")
    best = stored.get("best")
    if best is not None and not (isinstance(best.get("value"), float) and math.isfinite(best["value"])):
        raise Damaged("its best figure is no number")
    for name, part in stored["parts"].items():
        if not isinstance(name, str) or not isinstance(part, dict):
            raise Damaged(f"its part {str(name)[:80]!r} is no state")


def seal(archive: bytes | memoryview) -> tuple[memoryview, bytes]:
    """The archive with the checksum in its comment, as two pieces to be written one after the other."""
    view = memoryview(archive)
    if view[-22:-18] != _END_OF_ARCHIVE or view[-2:] != b"\0\0":
        raise ValueError("torch.save did not write a zip archive without a comment")
    body, comment = view[:-2], _COMMENT_BYTES.to_bytes(2, "little") + _LABEL
    digest = hashlib.sha256(body)
    digest.update(comment)
    return body, comment + digest.hexdigest().encode()


def verify(content: bytes) -> None:
    """Raise Damaged if these are not the bytes that `seal` gave."""
    body, digest = memoryview(content)[:-64], content[-64:]
    if body[-len(_LABEL) :] != _LABEL or hashlib.sha256(body).hexdigest().encode() != digest:
        raise Damaged(NO_CHECKSUM)


def from_main(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What rank 0 finds, in every process: only that one reads and renames files of a run."""

    def fields() -> dict[str, Any] | None:
        found = find()
        return None if found is None else vars(found)

    sent = collectives.broadcast_from_main(fields)
    return None if sent is None else Checkpoint(**sent)


def load_named(path: Path) -> Checkpoint:
    """One of a run's line, step_<step>.pt. Raises as `load`, and Damaged if it is of another step."""
    found = load(path)
    if found.step != step_of(path):
        raise Damaged(f"it is of step {found.step}, not of that in its name")
    return found


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence about each damaged one that was passed over."""
    complaints: list[str] = []
    for path in newest_first(directory):
        try:
            return load_named(path), complaints
        except Damaged as error:
            complaints.append(f"{path} is damaged ({error})")
        except Missing:
            return load_newest(directory)  # a run that is training has written a newer one, and dropped it
    return None, complaints


def load_to_go_on(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """As load_newest, for who goes on writing here: what is no part of the run's line any more is put aside.

    A damaged file would count among the last ones to keep, and a best.pt from after the step that is gone
    back to would belong to a future that may not come. UserError if all checkpoints are damaged.
    """
    best = directory / "best.pt"
    found, complaints = load_newest(directory)
    if found is None and complaints:
        raise UserError(
            f"{'; '.join(complaints)}; no whole checkpoint is left to go on from; "
            f"if {best} is whole, a new run can go on from it with resume={best}"
        )
    for path in newest_first(directory):
        if found is not None and _step(path) > found.step:
            put_aside(path)
    try:
        set_best_aside(best, -1 if found is None else found.step)
    except Damaged as error:
        complaints.append(f"{best} is damaged ({error})")
        put_aside(best)
    if found is not None and not best.exists():
        found.best = None  # it was of later, and an older one had been overwritten: the next one is the best
    return found, complaints


def load_or_explain(path: Path) -> Checkpoint:
    """One checkpoint by name, for a user who asked for just this one."""
    try:
        return load(path)
    except Missing as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except Damaged as error:
        raise UserError(f"{path} is damaged or no checkpoint ({error}); choose another one") from error


def prune(directory: Path, keep_last: int, keep_from: int | None = None) -> None:
    """Drop all but the `keep_last` newest, and the newest one of step `keep_from` or before."""
    found = newest_first(directory)
    sound = None if keep_from is None else next((p for p in found if _step(p) <= keep_from), None)
    for path in found[keep_last:]:
        if path != sound and (path.is_symlink() or not path.is_dir()):
            path.unlink()


def go_back(directory: Path, last_step: int) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of `last_step` or before, if there is one, and what was wrong with others.

    Later ones are dropped; damaged ones are put aside under another name.
    """
    complaints: list[str] = []
    for path in newest_first(directory):
        if _step(path) <= last_step:
            try:
                found = load_named(path)
            except Damaged as error:
                complaints.append(f"{path} is damaged ({error})")
                put_aside(path)
                continue
            for later in newest_first(directory):
                if _step(later) > found.step:
                    later.unlink()
            with suppress(Damaged):
                set_best_aside(directory / "best.pt", found.step)
            return found, complaints
    return None, complaints


def set_best_aside(best: Path, step: int) -> None:
    """Rename a best.pt from after `step`: it belongs to a future that may not come. Raises Damaged."""
    try:
        later = load(best).step > step
    except Missing:
        return
    if later:
        best.rename(best.with_name("best.pt.later"))


def put_aside(path: Path) -> None:
    """Under another name, and not over what lies there: a folder cannot be renamed over a file."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while target.is_symlink() or target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)


def _step(path: Path) -> int:
    step = step_of(path)
    assert step is not None, "newest_first gives no other names"
    return step


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...
