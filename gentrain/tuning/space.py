"""The search space: which settings are searched, and over which values.

Read from `tune.space` and held against the settings' own types and ranges before anything runs. Imports
neither torch nor Optuna.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from gentrain.config import registry
from gentrain.config.registry import suggestion
from gentrain.config.schema import (
    PLAIN_KEYS,
    Schema,
    data_schema,
    expected,
    fits,
    model_schema,
    optimizer_schema,
    schema_of,
)
from gentrain.config.settings import Device, Train
from gentrain.errors import UserError

GROUPS = ("model", "optimizer")  # choices that may be searched themselves
# Figures of other pictures, or of the same at other levels, cannot be compared: of `data` only these.
OF_DATA = ("data.flip", "data.shift")
WORDS = ("low", "high", "log", "step", "choices")
FORM = "{low: 1.0e-4, high: 1.0e-2, log: true}, {low: 16, high: 64, step: 16} or {choices: [a, b]}"
MOST = 10_000  # values of a range of whole numbers that are looked at one by one; combinations of a grid

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """low <= value <= high: whole numbers or any, evenly or on a log scale, in steps if there is one."""

    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    @property
    def count(self) -> int | None:
        """How many values there are; None if they cannot be counted."""
        step = 1 if self.whole and self.step is None and not self.log else self.step
        return None if step is None else int((self.high - self.low) / step + 1e-9) + 1

    def first(self, most: int) -> list[float]:
        """The lowest ones in order, at most so many; none if they cannot be counted."""
        return [self.low + number * (self.step or 1) for number in range(min(self.count or 0, most))]

    @property
    def ends(self) -> list[Any]:
        return [self.low, self.high]

    def as_dict(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"log": True} if self.log else {}
        return {"low": self.low, "high": self.high} | extra | ({"step": self.step} if self.step else {})


@dataclass(frozen=True)
class Choices:
    """One of these; a list is searched under its text, since Optuna knows only scalars."""

    by_label: dict[Scalar, Any]

    @property
    def count(self) -> int:
        return len(self.by_label)

    def first(self, most: int) -> list[Scalar]:
        return list(self.by_label)[:most]

    @property
    def ends(self) -> list[Any]:
        return list(self.by_label.values())

    def as_dict(self) -> dict[str, Any]:
        return {"choices": self.ends}


Space = dict[str, Range | Choices]


def entries(given: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """{"optimizer": {"lr": {...}}}, as well as {"optimizer.lr": {...}} -> the latter; null takes a key out.

    Later ones win. UserError for what is no entry, and if there is none.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{prefix}{key}"
        if value is None:
            found = {other: entry for other, entry in found.items() if other != name} | {name: None}
        elif not isinstance(value, Mapping):
            raise UserError(f"tune.space.{name}={value} is no range and no choice; give {FORM}, in quotes")
        else:
            below = {part: v for part, v in value.items() if isinstance(v, Mapping) or part not in WORDS}
            own = {part: v for part, v in value.items() if part in WORDS and part not in below}
            if own:  # a mistyped word beside known ones is no setting below
                own |= {part: v for part, v in below.items() if not isinstance(v, Mapping) and v is not None}
                below = {part: v for part, v in below.items() if part not in own}
                found[name] = own
            found |= entries(below, f"{name}.")
    if prefix:
        return found
    kept = {key: entry for key, entry in found.items() if entry is not None}
    if not kept:
        raise UserError(f"tune.space is empty; choose space=... or give tune.space.optimizer.lr={FORM}")
    return kept


def read_space(given: Mapping[str, Any], config: Mapping[str, Any]) -> Space:
    """The entries against the settings of a composed config. UserError for the first that does not fit."""
    return {key: _entry(key, entry, _annotation(key, config)) for key, entry in entries(given).items()}


def groups_of(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """The searched choices of models and optimizers, by name."""
    space = {key: entry for key, entry in entries(given).items() if key in GROUPS}
    return {key: list(_choices(key, entry, str).by_label) for key, entry in space.items()}  # type: ignore[arg-type]


def _annotation(key: str, config: Mapping[str, Any]) -> Any:
    """What a setting may hold; UserError if there is no such setting or it may not be searched."""
    if key in GROUPS:
        return str
    if key == "seed":
        return PLAIN_KEYS[key]
    section, _, name = key.partition(".")
    if section == "data" and key not in OF_DATA:
        raise UserError(
            f"tune.space.{key}: figures of different pictures cannot be compared; of data only "
            f"{' and '.join(OF_DATA)} can be searched"
        )
    schemas = {
        "train": lambda: schema_of(Train),
        "device": lambda: schema_of(Device),
        "data": lambda: data_schema(registry.DATA[config["data"]["name"]]),
        "model": lambda: model_schema(registry.MODELS[config["model"]["name"]]),
        "optimizer": lambda: optimizer_schema(registry.OPTIMIZERS[config["optimizer"]["name"]]),
    }
    if section not in schemas:
        raise UserError(
            f"tune.space.{key}: {key} cannot be searched{suggestion(section, schemas)}; what can be are "
            f"seed, {', '.join(GROUPS)} and the settings of {', '.join(schemas)}"
        )
    schema: Schema = schemas[section]()
    if name not in schema:
        whose = "" if section in ("train", "device") else f" of {section}={config[section]['name']}"
        raise UserError(
            f"tune.space.{key}: {key} is not a setting{whose}{suggestion(name, schema, section)}; "
            f"{section} has {', '.join(schema)}"
        )
    return schema[name].annotation


def _entry(key: str, entry: Mapping[str, Any], annotation: Any) -> Range | Choices:
    for word in entry:
        if word not in WORDS:
            raise UserError(
                f"tune.space.{key}.{word} is not known{suggestion(str(word), WORDS)}; give {FORM}"
            )
    return _choices(key, entry, annotation) if "choices" in entry else _range(key, entry, annotation)


def _choices(key: str, entry: Mapping[str, Any], annotation: Any) -> Choices:
    values = entry.get("choices")
    if len(entry) > 1 or not isinstance(values, list) or not values:
        raise UserError(f"tune.space.{key} must be a list of choices alone, {{choices: [a, b]}}, or a range")
    for value in values:
        _check_fits(key, value, annotation)
    by_label = {value if isinstance(value, Scalar) else json.dumps(value): value for value in values}
    if len(by_label) < len(values):
        raise UserError(f"tune.space.{key}: one of {values} is there twice")
    return Choices(by_label)


def _range(key: str, entry: Mapping[str, Any], annotation: Any) -> Range:
    low, high, step, log = entry.get("low"), entry.get("high"), entry.get("step"), entry.get("log", False)
    where = f"tune.space.{key}"
    if not (fits(low, float) and fits(high, float) and fits(step, float | None) and isinstance(log, bool)):
        raise UserError(f"{where}={dict(entry)} is no range and no choice; give {FORM}")
    assert low is not None and high is not None
    whole = not _holds(annotation, float)
    if whole and not _holds(annotation, int):
        raise UserError(f"{where} has no range: it must be {expected(annotation)}; give {{choices: [...]}}")
    if whole and not all(fits(number, int | None) for number in (low, high, step)):
        raise UserError(f"{where} is a whole number, so low, high and step must be, too")
    if low >= high:
        raise UserError(f"{where}: low={low} must be below high={high}")
    if log and step is not None:
        raise UserError(f"{where}: log and step cannot be combined")
    if log and low <= 0:
        raise UserError(f"{where}: low={low} must be above 0 on a log scale")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{where}: step={step} must be above 0 and at most high - low")
    made = Range(low, high, True, log, step) if whole else Range(float(low), float(high), False, log, step)
    for value in (low, high, *(made.first(MOST) if whole else ())):
        _check_fits(key, value, annotation)
    return made


def _check_fits(key: str, value: Any, annotation: Any) -> None:
    if not fits(value, annotation):
        raise UserError(f"tune.space.{key}: {value} is not possible; it must be {expected(annotation)}")


def _holds(annotation: Any, kind: type) -> bool:
    """Whether numbers of a kind are among what an annotation allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _holds(arguments[0], kind)
    if origin is Union or origin is type(int | None):
        return any(_holds(part, kind) for part in arguments)
    return annotation is kind
