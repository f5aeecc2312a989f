"""Checkpoints: written whole, carrying their own checksum, read as data.

A checkpoint is a file of torch.save, which is a zip archive, with a SHA-256 of all bytes before it in
the archive's trailing comment. So one rename puts the file and its checksum in place together, damage is
found before anything is parsed, and plain `torch.load(path, weights_only=True)` reads it too.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gentrain import connection
from gentrain.errors import RunFailed, UserError
from gentrain.files import NO_SPACE, write_atomically

FORMAT = 1
_LABEL = b"sha256:"
_COMMENT_BYTES = len(_LABEL) + 64
# 22 bytes that begin with this signature close a zip archive; the last two of them count its comment.
_END_OF_ARCHIVE = b"PK\x05\x06"


class Damaged(Exception):
    """The bytes of a checkpoint are not those that were written."""


@dataclass
class Checkpoint:
    """What a run is at a step. `parts` holds the learner's state by name, equal bit for bit in equal runs."""

    step: int
    config: str
    parts: dict[str, Any]
    best: dict[str, Any] | None = None
    pending: list[str] = field(default_factory=list)
    data_fingerprint: str = ""
    rollbacks: int = 0  # how often the run has gone back after an alarm


def file_name(step: int) -> str:
    return f"step_{step:08d}.pt"


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically. A full disk is a RunFailed that names the file and the last good checkpoint."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, *seal(buffer.getbuffer()))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        good = newest_first(path.parent)
        kept = f"the last good checkpoint is {good[0]}" if good else "there is no earlier checkpoint"
        raise RunFailed(f"no space left to write {path}; {kept}; free some space and resume") from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises Damaged; a UserError if a newer gentrain wrote it."""
    content = path.read_bytes()
    verify(content)
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(stored, dict) or "format" not in stored:
        raise Damaged(f"{path} is no checkpoint of gentrain")
    if stored.pop("format") != FORMAT:
        raise UserError(f"{path} was written by another version of gentrain; use that version to read it")
    return Checkpoint(**stored)


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
        raise Damaged("its checksum is wrong")


def from_main(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What rank 0 finds, in every process: only that one reads and renames files of a run."""

    def fields() -> dict[str, Any] | None:
        found = find()
        return None if found is None else vars(found)

    sent = connection.from_main(fields)
    return None if sent is None else Checkpoint(**sent)


def newest_first(directory: Path) -> list[Path]:
    """The step checkpoints of a run, the newest first; best.pt is not among them."""
    return sorted(directory.glob("step_*.pt"), reverse=True)


def load_newest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence about each damaged one that was passed over."""
    complaints: list[str] = []
    for path in newest_first(directory):
        try:
            return load(path), complaints
        except Damaged as error:
            complaints.append(f"{path} is damaged ({error})")
        except FileNotFoundError:
            if path in newest_first(directory):  # a broken link
                raise
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
        if found is not None and path.name > file_name(found.step):
            path.rename(path.with_name(path.name + ".damaged"))
    try:
        set_best_aside(best, -1 if found is None else found.step)
    except Damaged as error:
        complaints.append(f"{best} is damaged ({error})")
        best.rename(best.with_name("best.pt.damaged"))
    if found is not None and not best.is_file():
        found.best = None  # it was of later, and an older one had been overwritten: the next one is the best
    return found, complaints


def load_or_explain(path: Path) -> Checkpoint:
    """One checkpoint by name, for a user who asked for just this one."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        return load(path)
    except Damaged as error:
        raise UserError(f"{path} is damaged or no checkpoint ({error}); choose another one") from error


def prune(directory: Path, keep_last: int, keep_from: int | None = None) -> None:
    """Drop all but the `keep_last` newest, and the newest one of step `keep_from` or before."""
    found = newest_first(directory)
    sound = None if keep_from is None else next((p for p in found if p.name <= file_name(keep_from)), None)
    for path in found[keep_last:]:
        if path != sound:
            path.unlink()


def go_back(directory: Path, last_step: int) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of `last_step` or before, if there is one, and what was wrong with others.

    Later ones are dropped; damaged ones are put aside under another name.
    """
    complaints: list[str] = []
    for path in newest_first(directory):
        if path.name <= file_name(last_step):
            try:
                found = load(path)
            except Damaged as error:
                complaints.append(f"{path} is damaged ({error})")
                path.rename(path.with_name(path.name + ".damaged"))
                continue
            for later in newest_first(directory):
                if later.name > path.name:
                    later.unlink()
            with suppress(Damaged):
                set_best_aside(directory / "best.pt", found.step)
            return found, complaints
    return None, complaints


def set_best_aside(best: Path, step: int) -> None:
    """Rename a best.pt from after `step`: it belongs to a future that may not come. Raises Damaged."""
    if best.is_file() and load(best).step > step:
        best.rename(best.with_name("best.pt.later"))
