"""What a training command means: a new run, or which run goes on from where. Touches no file."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gentrain.config.schema import MAY_CHANGE, check, differences, may_change
from gentrain.errors import UserError
from gentrain.runs.capacity import check_fits
from gentrain.runs.rundir import is_run, may_begin
from gentrain.runs.stored import find_checkpoint, run_of
from gentrain.runs.stored_config import load_config
from gentrain.runtime.files import expanded
from gentrain.training.build import check_buildable, check_same_in_parts

CHOICES = ("model", "data", "optimizer", "device")


@dataclass(frozen=True)
class Plan:
    """A checked training command."""

    config: dict[str, Any]
    run_dir: Path | None  # None: a new one with the default name
    resumes: bool  # goes on in run_dir
    start_from: Path | None = None  # a checkpoint of another run to go on from
    weights_from: Path | None = None  # a checkpoint of another run for the initial weights
    changes: tuple[str, ...] = ()  # what differs from the run's own config, in words
    allow_changed: bool = False  # the pictures may differ from those of the checkpoint

    @property
    def name(self) -> str:
        return f"{self.config['model']['name']}-{self.config['data']['name']}"


def plan(config: dict[str, Any], overrides: list[str]) -> Plan:
    """Raises UserError if the command cannot be carried out."""
    made = _plan(config, overrides)
    check_buildable(made.config)
    check_fits(made.config, somewhere=True)
    if not made.resumes and made.start_from is None:  # a run that was begun so goes on so
        check_same_in_parts(made.config)
    # Asked for each time that it is wanted: a run does not remember it.
    allowed = made.config["data"]["allow_changed"]
    made.config["data"] = made.config["data"] | {"allow_changed": False}
    return replace(made, allow_changed=allowed)


def _plan(config: dict[str, Any], overrides: list[str]) -> Plan:
    _refuse_ignored(config, overrides)
    config["data"] = absolute(config["data"])
    run_dir = expanded(config["run_dir"]) if config["run_dir"] else None
    if config["resume"]:
        return _resume(expanded(config["resume"]), run_dir, config, overrides)
    if run_dir is not None and is_run(run_dir):
        saved = load_config(run_dir)
        return Plan(config, run_dir, True, changes=_allowed_changes(saved, config, run_dir))
    if config["data"]["allow_changed"]:
        raise UserError("data.allow_changed=true has no meaning for a new run; it belongs to resume=")
    if run_dir is not None and not may_begin(run_dir):
        if is_run(run_dir):  # it has become one between the two questions
            return _plan(config, overrides)
        raise UserError(f"run_dir={run_dir} exists and is no run directory; choose a new or an empty one")
    weights = find_checkpoint(config["init_from"], config["checkpoint"]) if config["init_from"] else None
    return Plan(config, run_dir, False, weights_from=weights)


def _refuse_ignored(config: Mapping[str, Any], overrides: list[str]) -> None:
    """Settings that would have no effect are mistakes."""
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    if "run" in keys:
        raise UserError(f"run={config['run']} has no meaning for task=train; to go on in a run give resume=")
    if "checkpoint" in keys and not config["init_from"]:
        raise UserError(
            "checkpoint= has no meaning here; to go on from a checkpoint give its file as resume="
        )
    if config["resume"] and config["init_from"]:
        raise UserError("resume= and init_from= cannot be combined: a resumed run has its own weights")


def absolute(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `data` section whose paths do not depend on the folder in which the command is typed."""
    made = dict(section)
    if isinstance(made.get("root"), str):
        made["root"] = str(expanded(made["root"]).resolve())
    if isinstance(made.get("repo"), str) and expanded(made["repo"]).is_dir():
        made["repo"] = str(expanded(made["repo"]).resolve())
    return made


def _resume(path: Path, run_dir: Path | None, config: dict[str, Any], overrides: list[str]) -> Plan:
    """In the run `path`, or from the checkpoint file `path` in a new run."""
    if path.is_file():
        source = run_of(path)
        if run_dir is not None and not is_run(run_dir) and not may_begin(run_dir):
            raise UserError(
                f"run_dir={run_dir} is taken; a run that goes on from a checkpoint file needs a new one"
            )
    elif path.is_dir() and is_run(path):
        source = path
        if run_dir is not None and run_dir.resolve() != path.resolve():
            raise UserError(
                f"resume={path} goes on in that directory; to go on in run_dir={run_dir}, "
                "give one of its checkpoint files"
            )
    else:
        raise UserError(f"resume={path} is no run directory (no config.yaml in it) and no checkpoint file")
    saved = load_config(source)
    new = _with_overrides(saved, config, overrides) | {"resume": None}
    check(new)
    changes = _allowed_changes(saved, new, source)
    if path.is_file() and run_dir is not None and is_run(run_dir):  # the same command again
        new |= {"run_dir": config["run_dir"]}
        return Plan(new, run_dir, True, changes=_allowed_changes(load_config(run_dir), new, run_dir))
    if path.is_file():
        new |= {"run_dir": config["run_dir"]}
        return Plan(new, run_dir, False, start_from=path, changes=changes)
    return Plan(new, path, True, changes=changes)


def _with_overrides(
    saved: Mapping[str, Any], composed: Mapping[str, Any], overrides: list[str]
) -> dict[str, Any]:
    """The run's config, changed by what the user typed beside `resume=`, and by nothing else."""
    new = deepcopy(dict(saved))
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if override.startswith("~") or key in ("experiment", "train"):
            raise UserError(f"{override} cannot be combined with resume; the run keeps its own settings")
        if key in ("resume", "run_dir", "task") or key.startswith("hydra"):
            continue
        if key in CHOICES and override.partition("=")[2].startswith("{"):
            raise UserError(
                f"{override} cannot be combined with resume; give settings one by one, {key}.x=..."
            )
        if key not in composed and key.partition(".")[0] not in composed:
            raise UserError(f"{override} cannot be combined with resume; the run keeps its own settings")
        if key in CHOICES:
            # The same choice again is no change: its settings stay the run's own.
            if composed[key]["name"] != saved[key]["name"] or key == "device":
                new[key] = deepcopy(composed[key])
            continue
        section, _, name = key.partition(".")
        if name:
            top = name.partition(".")[0]
            new[section][top] = composed[section][top]
        else:
            new[section] = composed[section]
    return new


def _allowed_changes(saved: Mapping[str, Any], new: Mapping[str, Any], run: Path) -> tuple[str, ...]:
    changed = differences(saved, new)
    refused = [f"{key} ({old} -> {now})" for key, (old, now) in changed.items() if not may_change(key)]
    if refused:
        raise UserError(
            f"{run} was trained with other settings: {', '.join(refused)}; a resumed run may change only "
            f"{', '.join(MAY_CHANGE)}; choose another run_dir for a new run"
        )
    return tuple(f"{key}: {old} -> {now}" for key, (old, now) in changed.items())
