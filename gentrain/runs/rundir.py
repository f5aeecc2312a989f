"""The run directory: who may write in it, and the record of what ran."""

from __future__ import annotations

import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

import gentrain
from gentrain.data.cache_files import NotWhole, memory_map
from gentrain.data.fingerprints import compare, difference, pictures_of
from gentrain.data.packed import Packed
from gentrain.errors import Busy, UserError
from gentrain.runs.records import META, read_meta, read_result
from gentrain.runs.run_lock import RunLock
from gentrain.runs.stored_config import as_yaml
from gentrain.runtime.files import remove_half_written, sync_directory, write_atomically
from gentrain.runtime.ranks import world_size
from gentrain.runtime.stored_files import dump_json

BEGINNING = "beginning.yaml"  # config.yaml under another name, while a new run takes over from an old one
# What a run has before it is one. Nothing else is ever removed.
FILES_OF_A_BEGINNING = ("meta.json", "metrics.jsonl", "events.out.tfevents.*")
FOLDERS_OF_A_BEGINNING = ("checkpoints", "data")
# Where a run that trains writes atomically; tasks on it may write elsewhere in its directory meanwhile.
OWN_FILES = (BEGINNING, "config.yaml", "meta.json", "result.json", "metrics.jsonl")
OWN_FOLDERS = ("checkpoints", "data", "samples", "reconstructions", "interpolation")


class RunDir:
    """One run's directory. Layout: DESIGN.md, "The interface, frozen"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RunLock(path)
        self.check = self._lock.check  # before anything is written that comes after the beginning
        self.checked = self._lock.checked

    @classmethod
    def create(cls, path: Path | None, name: str) -> RunDir:
        """Make and lock a new run directory: `path`, or outputs/<date>/<time>-<name>, with a suffix if taken.

        `path` itself may exist if it is empty; the lock makes two processes that come at once differ.
        """
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"run_dir={path} cannot be made: {error.strerror}") from error
            run = cls(path)
            run.lock()
            if is_run(path):
                run.unlock()
                raise Busy(f"another process has just made {path}; run the command again to go on in it")
            return run
        try:
            return cls._with_default_name(name)
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be made ({error.strerror}); say with run_dir= where a run may be"
            ) from error

    @classmethod
    def _with_default_name(cls, name: str) -> RunDir:
        now = datetime.now()
        base = Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{name}"
        suffix = 1
        while True:
            run = cls(base if suffix == 1 else base.with_name(f"{base.name}-{suffix}"))
            try:
                run.path.mkdir(parents=True)
            except FileExistsError:
                suffix += 1
                continue
            run.lock()
            return run

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def lock(self) -> None:
        """Hold the directory until the process ends, however it ends, else Busy."""
        self._lock.acquire()
        for name in OWN_FILES:
            remove_half_written(self.path, f"{name}*")
        for name in OWN_FOLDERS:
            remove_half_written(self.path / name)

    def unlock(self) -> None:
        self._lock.release()

    # -- config.yaml, meta.json, result.json

    def begin(self, config: Mapping[str, Any]) -> None:
        """Of a new run, before anything else is written: killed from here to `begun`, it is begun again.

        So what it takes over from another run is in it whole, or it is none yet.
        """
        if (self.path / BEGINNING).exists():  # then all of these are a killed beginning's; see `may_begin`
            for left in (file for name in FILES_OF_A_BEGINNING for file in self.path.glob(name)):
                left.unlink()
            for name in FOLDERS_OF_A_BEGINNING:
                shutil.rmtree(self.path / name, ignore_errors=True)
        write_atomically(self.path / BEGINNING, as_yaml(config).encode())

    def begun(self) -> None:
        """All is there that the run begins with: now it is one."""
        (self.path / BEGINNING).rename(self.path / "config.yaml")
        sync_directory(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_atomically(self.path / "config.yaml", as_yaml(config).encode())

    def record_session(self, start_step: int, device: str, parameters: int, data: Mapping[str, Any]) -> None:
        """Add this process to meta.json: what was typed, with which versions, on what, from which step."""
        meta = read_meta(self.path)
        meta["parameters"] = parameters
        meta["data"] = dict(data)
        meta["sessions"].append(
            {
                # The command puts ++ before what the run may have and the default config has not.
                "command": shlex.join(["gentrain", *(typed.removeprefix("++") for typed in sys.argv[1:])]),
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "start_step": start_step,
                "directory": str(Path.cwd()),
                "device": device,
                "processes": world_size(),
                "git_revision": git_revision(),
                "versions": versions(),
            }
        )
        write_json(self.path / META, meta)

    def record_measure(self, tag: str, how: str) -> None:
        """Add to meta.json how a figure of training is measured: for who compares it with another run's."""
        meta = read_meta(self.path)
        meta["measured"] = meta.get("measured", {}) | {tag: how}
        write_json(self.path / META, meta)

    def processes_before(self) -> int:
        """How many processes the last session of this run had."""
        sessions = read_meta(self.path)["sessions"]
        return sessions[-1].get("processes", 1) if sessions else world_size()

    def record_images(self, data: Packed) -> None:
        """Which images the run is trained on, as hashes: so that it can be said how others differ."""
        (self.path / "data").mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, data.identities)
        write_atomically(_images_file(self.path, data.fingerprint), buffer.getbuffer())

    def write_result(self, status: str, step: int, metrics: Mapping[str, float]) -> None:
        """`status`: "finished", "pruned" (by task=tune), "interrupted" or "failed"."""
        write_json(self.path / "result.json", {"status": status, "step": step, "metrics": dict(metrics)})

    def read_result(self) -> dict[str, Any]:
        return read_result(self.path)


def _images_file(run: Path, fingerprint: str) -> Path:
    return run / "data" / f"{pictures_of(fingerprint)[:16]}.npy"


def what_changed(run: Path, name: str, fingerprint: str, data: Packed) -> str:
    """What is other than when the run had this fingerprint; "" if nothing is.

    "the pictures of data=folder have changed: +2, -1, ~2 images", or its labels; without the numbers if the
    run has not recorded its pictures.
    """
    what = difference(fingerprint, data.fingerprint)
    if what is None:
        return ""
    counted, old = "", _recorded(run, fingerprint)
    if old is not None and what == "pictures":
        counted = f": {compare(old, data.identities)}"
    elif old is not None and (relabelled := compare(old, data.identities).relabelled):
        counted = f": {relabelled} of {len(data.images)} images have another one"
    return f"the {what} of data={name} have changed{counted}"


def _recorded(run: Path, fingerprint: str) -> np.ndarray | None:
    """`Packed.identities` as they were; without the fourth column if labels did not count yet."""
    try:
        old = memory_map(_images_file(run, fingerprint))
    except NotWhole:
        return None
    return old if old.ndim == 2 and old.shape[1] in (3, 4) and old.dtype == np.uint64 else None


def may_begin(path: Path) -> bool:
    """Whether a new run may have this directory: none, an empty one, or what a killed start of one left."""
    if not path.exists():
        return True
    if not path.is_dir():
        return False
    names = {file.name for file in path.iterdir()}
    known = [".lock", ".*.tmp"]
    if BEGINNING in names:
        known += [BEGINNING, *FILES_OF_A_BEGINNING, *FOLDERS_OF_A_BEGINNING]
    return all(any(fnmatchcase(name, pattern) for pattern in known) for name in names)


def is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, (dump_json(content, indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    return {
        "gentrain": gentrain.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    }


def git_revision() -> str | None:
    """The commit of the gentrain checkout that runs, with "+changes" if it was edited; None if installed."""
    root = Path(gentrain.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
