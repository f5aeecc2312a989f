"""Overrides, as typed, to composed configs: Hydra's compose, and what gentrain asks of it. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gentrain.config.overrides import key_of, lenient
from gentrain.config.safety import refuse_code, refuse_settings_of_hydra
from gentrain.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the configs inside the package; a checkout, and so an editable install, has them beside it.
CONFIG_DIR = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())

# What Hydra and OmegaConf fail of on files that are YAML and no config.
_OF_ODD_CONFIGS = (
    AssertionError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, with the one gate between what a config says and what Hydra does with it.

    Help, info, completion, logging, callbacks, sweepers, launchers and their jobs, here and in other
    processes, all have their config from `load_configuration`. So what it returns is checked, and is the very
    object that is used.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Raises UserError for what would be carried out, and for what cannot be composed."""
        try:
            composed = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except HydraException:  # which cli.py tells in a sentence
            raise
        except _OF_ODD_CONFIGS as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"the configs cannot be composed ({type(error).__name__}: {said}); look for an odd key or "
                "value in the settings given, or in config files of your own"
            ) from error
        content: Any = OmegaConf.to_container(composed, resolve=False)
        refuse_code(content)
        refuse_settings_of_hydra(content["hydra"])
        return composed


@contextmanager
def engine(config_dir: str | None) -> Iterator[Hydra]:
    """Hydra, for as long as this is entered, with gentrain's configs and those of --config-dir."""
    version.setbase("1.3")
    path = create_config_search_path(str(CONFIG_DIR))
    if config_dir is not None:
        path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery("schema", None))
    GlobalHydra.instance().clear()
    made = Hydra(task_name="gentrain", config_loader=CheckedLoader(path))
    GlobalHydra.instance().initialize(made)
    try:
        yield made
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain dicts and lists, interpolations resolved; a missing value stays "???"."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def compose(overrides: list[str]) -> DictConfig:
    """With Hydra's own node. In an `engine`."""
    assert GlobalHydra.instance().is_initialized()
    assert isinstance(GlobalHydra.instance().config_loader(), CheckedLoader)
    return hydra.compose("config", overrides, return_hydra_config=True)


def settings_of(composed: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's own node, as plain data: resolved once, here."""
    bare = deepcopy(composed)
    OmegaConf.set_struct(bare, False)
    bare.pop("hydra", None)  # a launcher has taken it out already
    config = plain(bare)
    refuse_code(config)  # what interpolations have put together
    return config


def compose_again(overrides: list[str]) -> dict[str, Any]:
    """The config of another command, for a task that carries out commands of its own."""
    return settings_of(compose(overrides))


def of_the_run(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """With resume= or run= a setting may be one of the run's data or model, which this composition lacks.

    And below tune.space a key is any setting's name.
    """
    keys = {key_of(override) for override in overrides}
    if not any(key in ("resume", "run", "tune.space") or key.startswith("tune.space.") for key in keys):
        return list(overrides)
    groups = groups_of(config_dir)
    return [lenient(override, groups) for override in overrides]


def groups_of(config_dir: str | None) -> set[str]:
    return {p.name for root in (CONFIG_DIR, config_dir) if root for p in Path(root).iterdir() if p.is_dir()}


def composed_once(overrides: list[str], multirun: bool, groups: set[str]) -> tuple[DictConfig, list[str]]:
    """What a command composes to, and from which overrides: of a sweep, those that all jobs have."""
    parsed = _parser().parse_overrides(overrides)
    same = [o.input_line or "" for o in parsed if not (multirun and o.is_sweep_override())]
    fixed = [lenient(override, groups) for override in same]
    return compose(fixed), fixed


def choices_of(overrides: list[str], own: DictConfig) -> dict[str, list[str]]:
    """The overrides of each setting that a sweep names: several where it varies. `own`: Hydra's own node."""
    if not isinstance(own.sweeper, DictConfig):
        raise UserError(f"hydra.sweeper={own.sweeper} is no sweeper; leave it away")
    params = [f"{key}={value}" for key, value in (own.sweeper.get("params") or {}).items()]
    choices: dict[str, list[str]] = {}  # the later of two overrides of one key wins, as in Hydra's sweeper
    for override in _parser().parse_overrides([*params, *overrides]):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            raise UserError(
                f"{override.input_line} is no list of values; list them, or search with task=tune"
            )
        else:
            choices[key] = [override.input_line or ""]
    return choices


def _parser() -> OverridesParser:
    return OverridesParser.create(GlobalHydra.instance().config_loader())  # which glob(...) asks for choices
