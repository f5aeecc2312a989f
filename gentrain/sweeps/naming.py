"""Where the jobs of a sweep live: names that are a function of the settings, and never of the time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gentrain.config.schema import NO_OTHER_RESULT, OF_THE_RECORD, flat, under
from gentrain.errors import UserError
from gentrain.runtime.files import expanded

READABLE = 60  # letters of a name, before the hash
DIGITS = 16  # of the hash, hexadecimal: 64 bits
DEFAULT = Path("outputs/sweeps")

_PATHS = ("data.root", "init_from", "resume", "run")


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    name: str
    overrides: tuple[str, ...]  # what Hydra composes it from; with its run_dir
    settings: dict[str, str]  # what the sweep varies, as typed
    directory: Path | None  # the run it makes or goes on in; None for tasks on runs that are there
    owned: bool  # that run is the sweep's own
    config: Mapping[str, Any] = field(
        default_factory=dict
    )  # as it was checked, and as it is run in this process


def identity(config: Mapping[str, Any], varied: Iterable[str]) -> dict[str, Any]:
    """The settings that make a job what it is: all that may change its result, and whatever is varied."""
    uncounted = ["run_dir", "sweep_dir", *NO_OTHER_RESULT]
    if config.get("train", {}).get("on_alarm") == "rollback":  # to a checkpoint that was saved and kept
        uncounted = [key for key in uncounted if key not in OF_THE_RECORD]
    kept = {}
    for key, value in flat(config).items():
        if under(key, tuple(varied)) or not under(key, tuple(uncounted)):
            kept[key] = _absolute(key, value) if isinstance(value, str) else value
    return kept


def _absolute(key: str, value: str) -> str:
    """A path as it is from everywhere, whether it is there now or not; other text as it is."""
    if key in _PATHS or (key == "data.repo" and expanded(value).is_dir()):  # or a name on the Hub
        return str(expanded(value).resolve())
    return value


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:DIGITS]


def readable(words: Iterable[str]) -> str:
    """Words as one part of a file's name, whatever is in them: letters, digits and ._+- of ASCII, no `..`."""
    text = "_".join(re.sub(r"[^A-Za-z0-9.+_-]+", "_", word) for word in words)
    return re.sub(r"\.{2,}", "_", text)[:READABLE].strip("._-")


def job_name(settings: Mapping[str, str], code: str) -> str:
    """For example model-vae_lr-1e-3-0123456789abcdef."""
    words = [f"{key.rpartition('.')[2]}-{value}" for key, value in settings.items()]
    return f"{readable(words) or 'job'}-{code}"


def sweep_folder(asked: str | None, varied: Iterable[str], codes: Iterable[str]) -> Path:
    """The folder asked for, or one named after the jobs: the same for the same jobs in any order."""
    if asked is None:
        names = readable(key.rpartition(".")[2] for key in varied)
        return DEFAULT / f"{names or 'sweep'}-{digest(sorted(codes))}"
    folder = expanded(asked)
    if not asked.isprintable() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"sweep_dir={asked} is no folder; give a new one, or one of an earlier sweep")
    if (folder / "config.yaml").is_file():
        raise UserError(f"sweep_dir={asked} is a run; give a new folder, or one of an earlier sweep")
    return folder


def job_directory(folder: Path, name: str, code: str) -> Path:
    """The job's directory in the folder of its sweep.

    A job of these settings that is there already, put there by a command that varied other things, is found
    under its own name.
    """
    there = sorted(path for path in folder.glob(f"*-{code}") if path.is_dir())
    return there[0] if there else folder / name
