"""Where the jobs of a sweep live: names that are a function of the settings, and never of the time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentrain.config import flat
from gentrain.errors import UserError
from gentrain.files import expanded

READABLE = 60  # letters of a name, before the hash
DIGITS = 16  # of the hash, hexadecimal: 64 bits
DEFAULT = Path("outputs/sweeps")

# What makes no other result: a job is the same one with and without these, unless the sweep varies them.
_IRRELEVANT = ("run_dir", "sweep_dir", "device", "train.keep_last", "data.on_bad", "data.allow_changed")
_PATHS = ("data.root", "init_from", "resume", "run")


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    name: str
    overrides: tuple[str, ...]  # what Hydra composes it from; with its run_dir
    settings: dict[str, str]  # what the sweep varies, as typed
    directory: Path | None  # the run it makes or goes on in; None for tasks on runs that are there
    owned: bool  # that run is the sweep's own


def identity(config: Mapping[str, Any], varied: Iterable[str]) -> dict[str, Any]:
    """The settings that make a job what it is: all but intervals and the device, and whatever is varied."""
    kept = {}
    for key, value in flat(config).items():
        counted = any(key == name or key.startswith(f"{name}.") for name in varied)
        if counted or not (_under(key, _IRRELEVANT) or key.endswith("_every_steps")):
            kept[key] = _absolute(key, value) if isinstance(value, str) else value
    return kept


def _under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


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


def quoted(text: object) -> str:
    """As a value of Hydra's override grammar, whatever is in it."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(text))
    return f"'{escaped}'"
