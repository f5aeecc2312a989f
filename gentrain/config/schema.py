"""A composed config is checked before anything is done: names, types and ranges, against signatures.

The schema of a section is the signature of what the section is handed to: a model's constructor, a data
source's, an optimizer's function, or a dataclass of settings. Nothing is written twice, and a mistake is
one sentence. This module imports no torch by itself.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gentrain.config import registry
from gentrain.config.registry import suggestion
from gentrain.config.settings import Device, Preprocessing, Schedule, Train
from gentrain.errors import UserError

# Keys of the whole config that are no sections; the sections and these are all that there is.
PLAIN_KEYS: dict[str, Any] = {
    "task": str,
    "seed": int,
    "run_dir": str | None,
    "sweep_dir": str | None,
    "resume": str | None,
    "init_from": str | None,
    "run": str | None,
    "runs": str | list[str] | None,
    "checkpoint": Literal["last", "best"],
}
SECTIONS = ("model", "data", "optimizer", "device", "train")
LARGEST_NUMBER = 10**18
LARGEST_SEED = 10**90 - 1  # longer numbers would be refused when the run is read (stored_files.py)


@dataclass(frozen=True)
class Setting:
    """What one key may hold."""

    annotation: Any
    required: bool = True


Schema = dict[str, Setting]


def schema_of(target: Callable[..., Any], skip: Iterable[str] = ()) -> Schema:
    """The keyword arguments of a function or class, with their annotations."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(target).parameters.values())
    return {p.name: Setting(hints[p.name], p.default is p.empty) for p in parameters if p.name not in skip}


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for the first mistake in a composed config (a plain dict)."""
    task = registry.target(registry.look_up(registry.TASKS, "task", config.get("task")))
    own_sections = {config["task"]: task.Settings} if hasattr(task, "Settings") else {}
    known = [*PLAIN_KEYS, *SECTIONS, *own_sections]
    for key in config:
        if key not in known:
            raise UserError(
                f"{key or repr(key)} is not a setting{suggestion(key, known)}{_elsewhere(key)}; "
                "see gentrain --help"
            )
    for section in SECTIONS:
        if not isinstance(config.get(section), Mapping):
            raise UserError(f"{section}={config.get(section)} is no section of settings; see gentrain --help")
    for key, annotation in PLAIN_KEYS.items():
        _check_value(key, config.get(key), annotation)
    if config.get("runs") is not None and config["task"] != "compare":
        raise UserError(f"runs= has no meaning for task={config['task']}: it belongs to task=compare")
    check_section("device", config["device"], schema_of(Device))
    for name, settings in own_sections.items():
        check_section(name, config.get(name, {}), schema_of(settings))
    # What comes from an existing run instead of this config is checked by the task.
    sections = () if config["resume"] is not None else task.SECTIONS
    if "train" in sections:
        check_section("train", config["train"], schema_of(Train))
    if "data" in sections:
        _check_named("data", config["data"], registry.DATA, data_schema)
    if "model" in sections:
        _check_named("model", config["model"], registry.MODELS, model_schema)
    if "optimizer" in sections:
        _check_named("optimizer", config["optimizer"], registry.OPTIMIZERS, optimizer_schema)


def data_schema(path: str) -> Schema:
    return schema_of(registry.target(path)) | schema_of(Preprocessing)


def model_schema(family: registry.Family) -> Schema:
    return schema_of(registry.target(family.model), skip=("shape",))


def optimizer_schema(path: str) -> Schema:
    return schema_of(Schedule) | schema_of(registry.target(path), skip=("params", "lr"))


def _check_named(kind: str, section: Any, table: dict[str, Any], schema: Callable[[Any], Schema]) -> None:
    """A section whose `name` says what the rest means: model, data, optimizer."""
    if not isinstance(section, Mapping):
        raise UserError(f"{kind}={section} is no choice; choose from {', '.join(table)}")
    name = section.get("name")
    own = schema(registry.look_up(table, kind, name))
    settings = {key: value for key, value in section.items() if key != "name"}
    for key in settings:
        if key not in own:
            homes = [other for other, target in table.items() if other != name and key in schema(target)]
            hint = f" (it is one of {kind}={homes[0]})" if homes else suggestion(key, own, kind)
            raise UserError(f"{kind}.{key} is not a setting of {kind}={name}{hint}; it has {', '.join(own)}")
    check_section(kind, settings, own)


def check_section(name: str, section: Any, schema: Schema) -> None:
    """Unknown, missing and mistyped keys of one section."""
    if not isinstance(section, Mapping):
        raise UserError(f"{name}={section} is no section of settings; it has {', '.join(schema)}")
    for key in section:
        if key not in schema:
            raise UserError(
                f"{name}.{key} is not a setting{suggestion(key, schema, name)}; "
                f"{name} has {', '.join(schema)}"
            )
    for key, setting in schema.items():
        if key in section:
            _check_value(f"{name}.{key}", section[key], setting.annotation)
        elif setting.required:
            raise UserError(f"{name}.{key} is missing; it must be {expected(setting.annotation)}")


def _check_value(name: str, value: Any, annotation: Any) -> None:
    if value == "":
        raise UserError(f"{name}= is empty; give a value, or leave {name} away")
    if value == "???":
        raise UserError(f"{name} must be given: {expected(annotation)}, for example {name}=...")
    if not fits(value, annotation):
        raise UserError(f"{name}={value} is not possible; it must be {expected(annotation)}")
    # Floats and files end somewhere above; a seed is hashed as text, and need only be read again.
    largest = LARGEST_SEED if name.rpartition(".")[2] == "seed" else LARGEST_NUMBER
    if isinstance(value, int) and abs(value) > largest:
        end = largest if largest == LARGEST_NUMBER else f"{len(str(largest))} digits"
        raise UserError(f"{name}={value} is not possible; whole numbers end at {end}")


def _elsewhere(key: str) -> str:
    """Settings of one task are given to another: say where they belong."""
    if key == "experiment":
        return " (a preset's file must begin with # @package _global_)"
    return f" (it belongs to task={key})" if key in registry.TASKS else ""


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value from YAML or the command line is what an annotation asks for."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fits(value, arguments[0]) and all(bound.ok(value) for bound in arguments[1:])
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (tuple, list):
        return _fits_sequence(value, origin, arguments)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is None or annotation is type(None):
        return value is None
    return isinstance(value, annotation)


def _fits_sequence(value: Any, origin: type, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return False
    if origin is list or arguments[1:] == (...,):
        return all(fits(item, arguments[0]) for item in value)
    return len(value) == len(arguments) and all(map(fits, value, arguments))


NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping {...}",
    type(None): "null",
}


def expected(annotation: Any) -> str:
    """An annotation in words, to follow "it must be"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([expected(arguments[0]), *map(str, arguments[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(expected(part) for part in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (tuple, list):
        return f"a list [{', '.join('...' if part is ... else expected(part) for part in arguments)}]"
    return NAMES.get(annotation, str(annotation))


# ---- what may change between a run and its continuation ------------------------------------------------

# What makes no other result: what is logged, drawn and kept (unless a rollback goes back to it),
# and what only stops a run before its first step.
OF_THE_RECORD = (
    "train.log_every_steps",
    "train.sample_every_steps",
    "train.save_every_steps",
    "train.keep_last",
)
NO_OTHER_RESULT = (*OF_THE_RECORD, "data.on_bad", "data.allow_changed")
# Whole keys and whole sections. The sentence that refuses others is made of the same.
MAY_CHANGE = (
    "train.max_steps",
    *NO_OTHER_RESULT,
    "train.eval_every_steps",  # on which best.pt depends
    "train.on_alarm",
    "train.max_rollbacks",
    "train.frechet_samples",
    "optimizer.lr",
    "device",
    "data.root",
    "data.repo",
    "data.follow_links",
)
NOT_PART_OF_A_RUN = (
    "run_dir",
    "sweep_dir",
    "resume",
    "run",
    "task",
    "checkpoint",
    "init_from",
    "runs",
    "sample",
    "evaluate",
)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"max_steps": 5}} -> {"train.max_steps": 5}"""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def under(key: str, names: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of these, or in a section that is one of these."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def may_change(key: str) -> bool:
    return under(key, MAY_CHANGE)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values, over everything that makes a run what it is."""
    before, after = flat(old), flat(new)
    missing = "(not set)"
    return {
        key: (before.get(key, missing), after.get(key, missing))
        for key in sorted(before.keys() | after.keys())
        if key.split(".")[0] not in NOT_PART_OF_A_RUN and before.get(key, missing) != after.get(key, missing)
    }
