"""What a search is: its settings, the command that its trials share, and its folder. Imports no Optuna.

The folder's tune.yaml says what is searched, and is written once: whoever comes later with another space,
metric or other settings is told how they differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from gentrain.config.compose import compose_again
from gentrain.config.overrides import quoted
from gentrain.config.ranges import AtLeast
from gentrain.config.registry import MODELS
from gentrain.config.schema import check, differences, flat, may_change
from gentrain.errors import UserError
from gentrain.runtime.files import expanded, write_atomically
from gentrain.runtime.stored_files import read_yaml
from gentrain.tuning.space import GROUPS, Choices, Scalar, Space

FILE = "tune.yaml"
FORMAT = 1
# Of what a resumed run may change, these would make the figures of trials incomparable.
NOT_BETWEEN_TRIALS = (
    "train.max_steps",
    "train.eval_every_steps",
    "train.frechet_samples",
    "train.on_alarm",
    "train.max_rollbacks",
    "optimizer.lr",
)


@dataclass(frozen=True)
class Settings:
    """configs/task/tune.yaml."""

    name: str | None
    dir: str | None
    store: Literal["journal", "sqlite"]
    trials: Annotated[int, AtLeast(0)]
    metric: str | None
    direction: Literal["minimize", "maximize"]
    space: dict
    sampler: Literal["tpe", "random", "grid"]
    startup_trials: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0)]
    pruner: Literal["median", "halving", "none"]
    prune_after_trials: Annotated[int, AtLeast(1)]
    prune_after_steps: Annotated[int, AtLeast(0)]
    reduction_factor: Annotated[int, AtLeast(2)]
    failures_in_a_row: Annotated[int, AtLeast(1)]


@dataclass(frozen=True)
class Search:
    """A checked search."""

    settings: Settings
    space: Space
    metric: str
    directory: Path
    base: tuple[str, ...]  # what all trials have in common, as typed
    config: dict[str, Any]  # of a trial with the first value of everything

    @property
    def trials(self) -> int:
        """How many there shall be; a grid has no more than it has combinations."""
        if self.settings.sampler == "grid":
            return min(self.settings.trials, combinations(self.space))
        return self.settings.trials

    def values_of(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """What a trial's settings are, from what the sampler calls them."""
        made: dict[str, Any] = {}
        for key, values in self.space.items():
            made[key] = values.by_label[params[key]] if isinstance(values, Choices) else params[key]
        return made

    def typed(self, params: Mapping[str, Scalar]) -> list[str]:
        """The settings that a trial is trained with, as a person would type them."""
        return [*self.base, *(typed(key, value) for key, value in self.values_of(params).items())]

    def trial_config(self, params: Mapping[str, Scalar], run_dir: Path) -> dict[str, Any]:
        """A training command's config, checked. UserError if the settings do not fit together."""
        config = training_config(self.typed(params)) | {"run_dir": str(run_dir)}
        check(config)
        return config

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the figures of two trials comparable."""
        searched = tuple(key for key in self.space if key not in GROUPS)
        sections = tuple(f"{key}." for key in self.space if key in GROUPS)
        fixed = {
            key: value
            for key, value in flat(self.config).items()
            if key not in searched and not key.startswith(sections)
        }
        return {
            "tune.metric": self.metric,
            "tune.direction": self.settings.direction,
            "tune.store": self.settings.store,
            "weights": self.config["init_from"],
            **{f"tune.space.{key}": values.as_dict() for key, values in self.space.items()},
            **fixed,
        }

    def record(self) -> None:
        content = yaml.safe_dump({"format": FORMAT, **self.identity}, sort_keys=False)
        write_atomically(self.directory / FILE, content.encode())


def combinations(space: Space) -> int:
    """Of a grid: of ranges and choices that can all be counted."""
    return math.prod(values.count or 0 for values in space.values())


def training_config(overrides: list[str]) -> dict[str, Any]:
    """The config that these overrides give a training run."""
    config = compose_again([*overrides, "task=train"])
    config.pop("tune", None)  # an experiment may hold one
    return config | {"task": "train"}


def typed(key: str, value: Any) -> str:
    """key=value for Hydra, so that it reads the very same value; the shell is another matter."""
    return f"{key}={_in_hydra(value)}"


def _in_hydra(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(_in_hydra, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[a-z]\w*", value) and yaml.safe_load(value) == value:
        return value
    return quoted(value)


def base_of(overrides: list[str], searched: Mapping[str, Any]) -> tuple[str, ...]:
    """The overrides that belong to the trials. UserError for what has no meaning in a search."""
    kept = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in ("resume", "run_dir", "run", "runs"):
            raise UserError(f"{override} has no meaning for task=tune: each trial is a run in tune.dir")
        if key in searched:
            raise UserError(f"{override} has no effect: {key} is searched, as tune.space says; leave it away")
        own = key in ("task", "space", "tune") or key.startswith("tune.")
        if not own and (not key.startswith("hydra") or key == "hydra.searchpath"):
            kept.append(override.removeprefix("++"))  # which the command puts before what has no place yet
    return tuple(kept)


def headline(families: list[str]) -> str:
    """The figure on which best.pt is chosen; UserError if the families have different ones."""
    found = {family: f"valid/{MODELS[family].headline}" for family in families}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{family} {metric}" for family, metric in found.items())
        raise UserError(f"these models have no headline in common ({said}); give tune.metric=valid/...")
    return next(iter(found.values()))


def directory_of(settings: Settings, config: Mapping[str, Any]) -> Path:
    if settings.dir is not None and settings.name is not None:
        raise UserError("give either tune.name or tune.dir: the folder's name is the study's")
    if settings.dir is not None:
        return expanded(settings.dir)
    name = settings.name or f"{config['model']['name']}-{config['data']['name']}"
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UserError(f"tune.name={name} must be letters, digits and _ . + -; give a folder as tune.dir")
    return Path("outputs") / "tune" / name


def check_directory(search: Search) -> None:
    """Raise UserError if the folder is something else, or holds the study of another search."""
    directory, file = search.directory, search.directory / FILE
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"tune.dir={directory} is a file; give a folder")
    if not file.is_file():
        others = [path.name for path in directory.iterdir() if path.name != ".lock"]
        if not all(fnmatchcase(name, f".{FILE}.*tmp") for name in others):  # of a search killed as it began
            raise UserError(f"tune.dir={directory} holds something else; give a new or an empty folder")
        return
    old = read_yaml(file)
    if not isinstance(old, dict) or not all(isinstance(key, str) for key in old):
        raise UserError(f"{file} is no record of a study; choose another tune.dir")
    if old.pop("format", None) != FORMAT:
        raise UserError(f"{file} is no study of this version of gentrain; choose another tune.dir")
    changed = {
        key: values
        for key, values in differences(old, flat_identity(search)).items()
        if key in NOT_BETWEEN_TRIALS or not may_change(key)
    }
    if changed:
        said = ", ".join(f"{key} ({before} -> {now})" for key, (before, now) in changed.items())
        raise UserError(
            f"the study in {directory} was made with other settings: {said}; "
            "choose another tune.name or tune.dir for a new one"
        )


def flat_identity(search: Search) -> dict[str, Any]:
    """As it reads once it was written: tuples are lists there."""
    return yaml.safe_load(yaml.safe_dump(search.identity))
