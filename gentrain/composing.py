"""Overrides, as typed, to composed configs: Hydra's compose, and what gentrain asks of it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gentrain.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# A wheel carries the configs inside the package; a checkout, and so an editable install, has them beside it.
CONFIG_DIR = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain dicts and lists, interpolations resolved; a missing value stays "???"."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def compose(overrides: list[str]) -> DictConfig:
    """With Hydra's own node, whose configs may come from a stranger as well."""
    from gentrain.no_code import refuse_code

    composed = hydra.compose("config", overrides, return_hydra_config=True)
    refuse_code(OmegaConf.to_container(composed, resolve=False))
    refuse_code(OmegaConf.to_container(composed, resolve=True))  # what interpolations may put together
    return composed


def compose_again(overrides: list[str]) -> dict[str, Any]:
    """The config of another command, for a task that carries out commands of its own."""
    composed = compose(overrides)
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    return plain(composed)


def check_no_code(overrides: list[str], config_dir: str | None) -> None:
    """For --help and --cfg: Hydra sets up logging from the config even then."""
    if overrides or config_dir:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            compose(overrides + search_path(overrides, config_dir))


def search_path(overrides: list[str], config_dir: str | None) -> list[str]:
    """--config-dir as an override, which is how Hydra's compose takes it."""
    if config_dir is None:
        return []
    if any(override.startswith("hydra.searchpath") for override in overrides):
        raise UserError("give either --config-dir or hydra.searchpath, not both")
    from gentrain.sweeps.naming import quoted

    return [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"]


def of_the_run(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """With resume= or run= a setting may be one of the run's data or model, which this composition lacks.

    And below tune.space a key is any setting's name.
    """
    if not any(override.lstrip("+").startswith(("resume=", "run=", "tune.space")) for override in overrides):
        return list(overrides)
    groups = groups_of(config_dir)
    return [lenient(override, groups) for override in overrides]


def of_hydra(overrides: list[str]) -> list[str]:
    return [override for override in overrides if override.lstrip("+~").startswith("hydra")]


def groups_of(config_dir: str | None) -> set[str]:
    return {p.name for root in (CONFIG_DIR, config_dir) if root for p in Path(root).iterdir() if p.is_dir()}


def choices_of(
    overrides: list[str], multirun: bool, groups: set[str], search: list[str]
) -> tuple[dict[str, list[str]], list[str], DictConfig]:
    """The overrides of each setting that a command names: several in a sweep.

    And those that all jobs have, as they are composed, and Hydra's own node of these.
    """
    engine = GlobalHydra.instance().hydra
    assert engine is not None
    parser = OverridesParser.create(engine.config_loader)  # which glob(...) asks for the choices of a group
    parsed = parser.parse_overrides(overrides)
    same = [o.input_line or "" for o in parsed if not (multirun and o.is_sweep_override())]
    fixed = [lenient(override, groups) for override in same] + search
    own = compose(fixed).hydra
    if not multirun and own.mode != RunMode.MULTIRUN:
        return {str(number): [text] for number, text in enumerate(same)}, fixed, own
    own.mode = RunMode.MULTIRUN
    params = [f"{key}={value}" for key, value in (own.sweeper.get("params") or {}).items()]
    choices: dict[str, list[str]] = {}  # the later of two overrides of one key wins, as in Hydra's sweeper
    for override in parser.parse_overrides([*params, *overrides]):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            raise UserError(
                f"{override.input_line} is no list of values; list them, or search with task=tune"
            )
        else:
            choices[key] = [override.input_line or ""]
    return choices, fixed, own


def lenient(override: str, groups: set[str]) -> str:
    """`a.b=c` -> `++a.b=c`, so that Hydra composes an unknown key and our own check can say what is wrong."""
    key = override.lstrip("+~").partition("=")[0]
    if override.startswith("~") or key.split("@")[0] in groups or key.startswith("hydra"):
        return override
    return "++" + override.lstrip("+")
