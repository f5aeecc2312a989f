"""task=tune: a search over settings; each trial is an ordinary run. The work is in gentrain/tuning.

A loop over Hydra's compose and Optuna's ask and tell. Any number of processes may run it in one folder, and
any of them may be killed: what comes next is decided from what is on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from gentrain.config.schema import check as check_config
from gentrain.errors import UserError
from gentrain.tasks import train
from gentrain.training.resume import absolute
from gentrain.tuning.search import (
    Search,
    Settings,
    base_of,
    check_directory,
    combinations,
    directory_of,
    headline,
    training_config,
    typed,
)  # fmt: skip
from gentrain.tuning.space import GROUPS, MOST, Space, entries, groups_of, read_space

SECTIONS = train.SECTIONS


def check(config: dict[str, Any], overrides: list[str]) -> None:
    """Raise UserError if the search cannot be carried out: both ends of each range are tried, too."""
    for package, name in (("optuna", "Optuna"), ("plotly", "plotly")):
        if find_spec(package) is None:
            raise UserError(f'task=tune needs {name}; pip install "gentrain[tune]"')
    search = search_of(config, overrides)
    check_directory(search)
    for key, values in search.space.items():
        for value in () if key in GROUPS else values.ends:
            probe = _with(search.config, key, value)
            try:
                check_config(probe)
                train.check(probe, list(search.base))
            except UserError as error:
                raise UserError(f"tune.space.{key}: with {typed(key, value)}: {error}") from error


def run(config: dict[str, Any], overrides: list[str]) -> None:
    """Trains trials until there are tune.trials; writes and prints the study."""
    import optuna  # here, not above: the check of a command imports none of it

    from gentrain.tuning.loop import search_on

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    hydra = HydraConfig.get()
    paths = [o for o in hydra.overrides.hydra if o.startswith("hydra.searchpath=")]
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    search = search_of(config, [*paths, *overrides])
    search_on(search, Console(), sources.get("command-line"))


def search_of(config: Mapping[str, Any], overrides: list[str]) -> Search:
    """From the composed config of task=tune and what was typed."""
    settings = Settings(**config["tune"])
    base = base_of(overrides, entries(settings.space))
    space, composed = _space(settings, base)
    families = groups_of(settings.space).get("model", [composed["model"]["name"]])
    metric = settings.metric or headline(families)
    if not metric.startswith("valid/") or metric == "valid/":
        raise UserError(
            f"tune.metric={metric} is not possible: it must be a figure of the validation split, "
            "valid/..., as in metrics.jsonl"
        )
    for key, values in space.items():
        if settings.sampler == "grid" and values.count is None:
            raise UserError(
                f"tune.sampler=grid cannot count tune.space.{key}: give choices, or a step without log"
            )
    if settings.sampler == "grid" and combinations(space) > MOST:
        raise UserError(
            f"tune.sampler=grid has {combinations(space)} combinations, and at most {MOST} can be listed; "
            "give larger steps or fewer choices"
        )
    return Search(settings, space, metric, directory_of(settings, config), base, composed)


def _space(settings: Settings, base: tuple[str, ...]) -> tuple[Space, dict[str, Any]]:
    """The space, held against each combination of the models and optimizers that are searched; and a config
    with the first value of everything.
    """
    groups = groups_of(settings.space)
    found: tuple[Space, dict[str, Any]] | None = None
    for chosen in itertools.product(*groups.values()):
        words = [typed(key, value) for key, value in zip(groups, chosen, strict=True)]
        composed = training_config([*base, *words])
        composed["data"] = absolute(composed["data"])
        space = read_space(settings.space, composed)
        for key, values in space.items():
            if key not in groups:
                composed = _with(composed, key, values.ends[0])
        check_config(composed)
        found = found or (space, composed)
    assert found is not None, "read_space refuses an empty space"
    return found


def _with(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of a config with one setting changed; a chosen model or optimizer stays as it is."""
    changed = deepcopy(dict(config))
    *sections, name = key.split(".")
    place = changed
    for section in sections:
        place = place[section]
    if not isinstance(place.get(name), Mapping):
        place[name] = value
    return changed
