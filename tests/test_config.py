"""YAML and code agree, and values are judged as their annotations say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf

from gentrain.cli import check_jobs
from gentrain.config import registry
from gentrain.config.compose import CONFIG_DIR
from gentrain.config.ranges import AtLeast, Between
from gentrain.config.safety import refuse_code
from gentrain.config.schema import (
    MAY_CHANGE,
    Schema,
    differences,
    expected,
    fits,
    may_change,
    model_schema,
    optimizer_schema,
    schema_of,
)
from gentrain.config.settings import Device, Preprocessing, Train
from gentrain.errors import UserError


def load(group: str, choice: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / group / f"{choice}.yaml"))  # type: ignore[return-value]


NAMED: list[tuple[str, str, Schema]] = [
    *(("data", name, schema_of(registry.target(path))) for name, path in registry.DATA.items()),
    *(("optimizer", name, optimizer_schema(path)) for name, path in registry.OPTIMIZERS.items()),
    *(("model", name, model_schema(family)) for name, family in registry.MODELS.items()),
]


@pytest.mark.parametrize(("group", "name", "schema"), NAMED, ids=[f"{g}-{n}" for g, n, _ in NAMED])
def test_a_choices_yaml_has_the_keys_of_its_signature(group: str, name: str, schema: Schema) -> None:
    section = load(group, name)
    section = section.get(group, section)
    assert section.pop("name") == name
    assert section.keys() == schema.keys()
    for key, value in section.items():
        assert value == "???" or fits(value, schema[key].annotation), key
        assert schema[key].required, f"the default of {key} belongs into the YAML alone"


def test_every_yaml_is_known_and_every_name_has_its_yaml() -> None:
    tables = {
        "data": registry.DATA,
        "model": registry.MODELS,
        "optimizer": registry.OPTIMIZERS,
        "task": registry.TASKS,
    }
    for group, table in tables.items():
        assert {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")} == set(table), group


def test_the_frames_own_sections() -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "config.yaml"), resolve=False)
    assert config["train"].keys() == schema_of(Train).keys()
    assert config["data"].keys() == schema_of(Preprocessing).keys()
    for file in (CONFIG_DIR / "device").glob("*.yaml"):
        assert load("device", file.stem).keys() == schema_of(Device).keys()
    for name, module in registry.TASKS.items():
        task = registry.target(module)
        settings = load("task", name).get(name, {})
        assert settings.keys() == (schema_of(task.Settings).keys() if hasattr(task, "Settings") else set())


def test_every_setting_of_a_family_is_explained_where_it_is_set() -> None:
    for file in (CONFIG_DIR / "model").glob("*.yaml"):
        section = file.read_text().partition("model:")[2].partition("\ntrain:")[0]
        for line in re.findall(r"^  (?!name)\w+: .*$", section, flags=re.M):
            assert "#" in line, f"{file.name}: {line}"


@pytest.mark.parametrize(
    ("value", "annotation", "fine"),
    [
        (1, int, True), (1.0, int, False), (True, int, False), ("1", int, False),
        (1, float, True), (1.5, float, True), (True, float, False), (float("nan"), float, False),
        (None, int | None, True), (None, int, False),
        ("a", Literal["a", 1], True), (1, Literal["a", 1], True), (True, Literal["a", 1], False),
        (3, Annotated[int, AtLeast(3)], True), (2, Annotated[int, AtLeast(3)], False),
        ([1, 2], tuple[int, int], True), ([1], tuple[int, int], False), (1, tuple[int, int], False),
        ([0.5, 2], tuple[Annotated[float, Between(0, 1)], ...], False), ([0.5, 1], list[float], True),
        (True, bool | Literal["auto"], True), ("auto", bool | Literal["auto"], True), ("x", bool | Literal["auto"], False),
    ],
)  # fmt: skip
def test_fits(value: object, annotation: object, fine: bool) -> None:
    assert fits(value, annotation) is fine


def test_expected_in_words() -> None:
    assert expected(Annotated[int, AtLeast(1)] | None) == "a whole number at least 1 or null"
    assert expected(Literal["a", "b"]) == "a or b"
    assert expected(tuple[float, float]) == "a list [a number, a number]"


def test_differences_leave_out_what_is_not_the_run() -> None:
    old = {"run_dir": "a", "seed": 0, "train": {"max_steps": 1, "batch_size": 2}, "model": {"name": "vae"}}
    new = {
        "run_dir": "b",
        "seed": 1,
        "train": {"max_steps": 9, "batch_size": 2},
        "model": {"name": "gan", "x": 1},
    }
    changed = differences(old, new)
    assert changed == {
        "model.name": ("vae", "gan"),
        "model.x": ("(not set)", 1),
        "seed": (0, 1),
        "train.max_steps": (1, 9),
    }
    assert [key for key in changed if may_change(key)] == ["train.max_steps"]


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_what_may_change_is_a_whole_key_or_a_whole_section(key: str) -> None:
    schemas: dict[str, set[str]] = {"device": set(schema_of(Device)), "train": set(schema_of(Train))}
    schemas["data"] = set(schema_of(Preprocessing)).union(
        *(schema for group, _, schema in NAMED if group == "data")
    )
    schemas["optimizer"] = set().union(*(schema for group, _, schema in NAMED if group == "optimizer"))
    section, _, name = key.partition(".")
    assert not name or name in schemas[section], f"{key} is no setting"
    inside = [key] if name else [f"{key}.{name}" for name in schemas[key]]
    assert all(map(may_change, inside))
    for other in (f"{key}_whatever", f"{key}sitory", f"x{key}", f"model.{name or key}", key[:-1]):
        assert not may_change(other), other


def test_each_cadence_of_the_loop_may_change_and_no_other() -> None:
    for name in schema_of(Train):
        assert may_change(f"train.{name}") or not name.endswith("_every_steps"), name
    assert not may_change("model.alarm_every_steps")
    assert not may_change("train.batch_size")


def test_hydras_own_targets_are_let_through_and_no_others() -> None:
    refuse_code(
        {"hydra": {"launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}}}
    )
    refuse_code({"hydra": {"launcher": {"_target_": "hydra_plugins.joblib.JoblibLauncher"}}})
    refuse_code({"hydra": {"launcher": {"setup": None, "additional_parameters": {"mail-user": "a@b.c"}}}})
    for config in (
        {"hydra": {"launcher": {"_target_": "os.system"}}},
        {"model": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}},
        {"a": [{"b": {"_target_": "x"}}]},
        {"hydra": {"job_logging": {"handlers": {"x": {"class": "subprocess.Popen"}}}}},
        {"hydra": {"launcher": {"setup": ["touch x"]}}},
        {"hydra": {"launcher": {"teardown": ["touch x"]}}},
        {"hydra": {"launcher": {"srun_args": ["--task-prolog=x"]}}},
        {"hydra": {"launcher": {"additional_parameters": {"export": "PYTHONPATH=x"}}}},
        {"hydra": {"launcher": {"additional_parameters": {"chd": "x"}}}},
        {"hydra": {"launcher": {"additional_parameters": {"x --export": "PYTHONPATH=x"}}}},
    ):
        with pytest.raises(UserError, match="refused"):
            refuse_code(config)


def test_no_config_of_ours_names_code() -> None:
    for file in Path(CONFIG_DIR).rglob("*.yaml"):
        lines = [line for line in file.read_text().splitlines() if "_target_" in line]
        if (
            file.parent == Path(CONFIG_DIR) / "hydra/launcher"
        ):  # these name the launcher of an installed plugin
            lines = [line for line in lines if not line.startswith("_target_: hydra_plugins.hydra_")]
        assert lines == []


@pytest.mark.parametrize("preset", [path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml")])
def test_every_preset_can_be_trained(preset: str) -> None:
    check_jobs([f"experiment={preset}"], multirun=False, config_dir=None)
