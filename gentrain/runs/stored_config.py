"""config.yaml of a run: written resolved, read as data, and given the settings that are newer than the run.

Nothing in it is resolved when it is read: an interpolation of a stranger's could ask for our environment.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gentrain.config import registry
from gentrain.config.compose import CONFIG_DIR
from gentrain.config.safety import refuse_code
from gentrain.config.schema import PLAIN_KEYS, SECTIONS, check
from gentrain.config.settings import Device
from gentrain.errors import UserError
from gentrain.runtime.stored_files import Missing, Unreadable, read_yaml

FILE = "config.yaml"
# What a setting is for the runs from before it, where that is not its default of today.
OLDER: dict[str, Any] = {
    "train.frechet_samples": None,  # of a gan it is 1000 now
}
LONGEST = 800  # letters of a sentence about a config, in which a stranger's values are

_INTERPOLATION = re.compile(r"(\\*)\$\{")


def load_config(run: Path) -> dict[str, Any]:
    """The checked config of a run directory, with what is newer than it. UserError names file and fault."""
    config = with_newer(read_config(run))
    try:
        refuse_code(config)
        check(config)
        if config["task"] != "train" or config["resume"] is not None:
            raise UserError(f"it is the config of task={config['task']}, not of a training run")
    except UserError as error:
        sentence = str(error)
        raise UserError(f"{run / FILE}: {sentence[:LONGEST]}{'...' * (len(sentence) > LONGEST)}") from error
    return config


def read_config(run: Path) -> dict[str, Any]:
    """What config.yaml holds, as it is there: a mapping whose keys are text. Raises Unreadable."""
    file = run / FILE
    try:
        config = read_yaml(file, _from_yaml)
    except Missing as error:
        raise Missing(file, f"{run} is no run directory, without it") from error
    if not isinstance(config, dict) or not config:
        raise Unreadable(file, "it holds no settings")
    _check_keys(file, config)
    return config


def as_yaml(config: Mapping[str, Any]) -> str:
    """The text of a resolved config. What looks like an interpolation in it is text, and is marked so."""
    return OmegaConf.to_yaml(OmegaConf.create(_mapped(dict(config), _escaped)))


def with_newer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a value for each setting that it lacks: that of OLDER, or today's default."""
    made = {key: value for key, value in _plain_defaults().items() if key not in config} | dict(config)
    names = {section: _name_of(config, section) for section in SECTIONS}
    for section in SECTIONS:
        stored = config.get(section)
        if isinstance(stored, Mapping):
            today = defaults(section, names)
            newer = {key: OLDER.get(f"{section}.{key}", value) for key, value in today.items()}
            made[section] = dict(stored) | {key: newer[key] for key in newer if key not in stored}
    return made


def defaults(section: str, names: Mapping[str, str | None]) -> dict[str, Any]:
    """Today's defaults of a section, as `names` chooses them, from configs/. What must be given has none."""
    family = _read(f"model/{names['model']}.yaml") if names["model"] is not None else {}
    found: dict[str, Any] = dict(_read("config.yaml").get(section, {}))
    if section in ("model", "train"):
        found |= family.get(section, {})
    elif names[section] is not None:
        found |= _read(f"{section}/{names[section]}.yaml")
    if section == "optimizer" and None not in (names["model"], names["optimizer"]):
        found |= _read(f"model_optimizer/{names['model']}_{names['optimizer']}.yaml")
    return {key: value for key, value in found.items() if key not in ("name", "defaults") and value != "???"}


def _plain_defaults() -> dict[str, Any]:
    """Of the keys beside the sections; a run without a seed is none."""
    plain = {key: value for key, value in _read("config.yaml").items() if key in PLAIN_KEYS and key != "seed"}
    return {"task": "train"} | plain


def _name_of(config: Mapping[str, Any], section: str) -> str | None:
    """Which of our files has the defaults of a section; None if it names none of them."""
    known: dict[str, Collection[str]] = {
        "model": registry.MODELS,
        "data": registry.DATA,
        "optimizer": registry.OPTIMIZERS,
        "device": get_args(get_type_hints(Device)["name"]),
    }
    stored = config.get(section)
    name = stored.get("name") if isinstance(stored, Mapping) else None
    return name if isinstance(name, str) and name in known.get(section, ()) else None


@cache
def _read(name: str) -> dict[str, Any]:
    """One of our own files; {} if there is none, for only some pairs of families and optimizers have one."""
    file = CONFIG_DIR / name
    if not file.is_file():
        return {}
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # type: ignore[return-value]


def _from_yaml(text: str) -> Any:
    """As OmegaConf reads it, so that a value is what it was; ValueError for interpolations."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent) and _has_interpolation(event.value):
            raise ValueError(f"it has an interpolation ({event.value[:60]}); write the value itself")
    try:
        return _mapped(OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False), _unescaped)
    except (OmegaConfBaseException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def _has_interpolation(text: str) -> bool:
    """A backslash before it makes it text, and two make a backslash before an interpolation."""
    return any(len(found[1]) % 2 == 0 for found in _INTERPOLATION.finditer(text))


def _escaped(text: str) -> str:
    return _INTERPOLATION.sub(lambda found: found[1] * 2 + "\\${", text)


def _unescaped(text: str) -> str:
    return _INTERPOLATION.sub(lambda found: found[1][: len(found[1]) // 2] + "${", text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """With `change` made to every text in it, but for keys."""
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _check_keys(file: Path, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check_keys(file, item)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Unreadable(file, f"{str(key)[:80]} is no name of a setting")
            _check_keys(file, item)
