"""config.yaml: what is written is read, nothing is resolved, and what is newer than a run gets its default."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from families import FAMILIES
from omegaconf import OmegaConf

import gentrain as library
from gentrain.config.compose import compose_again, engine
from gentrain.config.registry import DATA, MODELS, OPTIMIZERS
from gentrain.config.schema import PLAIN_KEYS, SECTIONS, flat
from gentrain.errors import UserError
from gentrain.runs.stored_config import OLDER, as_yaml, load_config, read_config, with_newer
from gentrain.runtime.stored_files import Unreadable

TEXTS = ["${b}", r"\${b}", r"\\${b}", r"a\b ${b} \ ${", "$", "1e-3", "null", "${oc.env:HOME}", "é: '\"#", ""]
NOT_CONFIGS = {
    "a number": "7",
    "a list": "[1]",
    "nothing": "",
    "keys that are no text": "model: {1: 2}",
    "a null key": "null: 2",
    "two equal keys": "seed: 0\nseed: 1",
}


def composed(*overrides: str) -> dict[str, Any]:
    with engine(None):
        return compose_again(list(overrides))


def write(run: Path, text: str) -> Path:
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(text)
    return run


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_is_read_and_omegaconf_agrees(text: str, tmp_path: Path) -> None:
    config = {"a": text, "b": [text, {"c": text}], "d": 1e-5}
    run = write(tmp_path, as_yaml(config))
    assert read_config(run) == config
    assert OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True) == config


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "x${model.name}",
        "${",
        '"\\u0024{oc.env:HOME}"',
        r"\\${a}",
        "${now:%Y}",
        "[a, '${x}']",
    ],
)
def test_interpolations_are_refused_and_not_resolved(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/secret")
    run = write(tmp_path, f"seed: {value}\n")
    for read in (read_config, load_config):
        with pytest.raises(UserError, match="interpolation") as caught:
            read(run)
        assert str(run / "config.yaml") in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", NOT_CONFIGS)
def test_what_is_no_config(kind: str, tmp_path: Path) -> None:
    run = write(tmp_path, NOT_CONFIGS[kind])
    with pytest.raises(Unreadable, match=r"config\.yaml cannot be read: "):
        read_config(run)


@pytest.mark.parametrize(
    "changed", [{"task": "inspect"}, {"resume": "other"}, {"model": 3}, {"seed": "x" * 5000}]
)
def test_a_config_is_that_of_a_training_run(changed: dict[str, Any], tmp_path: Path) -> None:
    """With another task, or with resume, the settings would not be looked at."""
    run = write(tmp_path, as_yaml(composed("data=moons") | changed))
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        load_config(run)
    assert len(str(caught.value)) < 1000


COMPOSITIONS = [
    *([f"model={family}"] for family in MODELS),
    *([f"data={name}", *(["data.root=x"] if name in ("folder", "celeba") else [])] for name in DATA),
    *(["model=gan", f"optimizer={name}"] for name in OPTIMIZERS),
]


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_each_setting_that_a_run_lacks_gets_its_default(overrides: list[str], tmp_path: Path) -> None:
    """Whatever setting is the newest one."""
    config = composed(*overrides)
    given = {"seed", *(f"{section}.name" for section in SECTIONS), "data.root", "data.repo", "data.files"}
    for key in flat(config):
        section, _, name = key.partition(".")
        if (
            key in given
            or (not name and section not in PLAIN_KEYS)
            or section not in {*SECTIONS, *PLAIN_KEYS}
        ):
            continue
        older = deepcopy(config)
        del (older[section] if name else older)[name or section]
        expected = OLDER.get(key, flat(config)[key])
        assert flat(with_newer(older))[key] == expected, key
        assert flat(with_newer(older)) == flat(config) | {key: expected}
    assert with_newer(config) == config, "nothing that is there is changed"


def test_the_table_of_older_values_names_settings_that_there_are() -> None:
    known = set().union(*(flat(composed(*overrides)) for overrides in COMPOSITIONS))
    assert set(OLDER) <= known


def without_newest(run: Path) -> None:
    """Takes one setting out of each section of a stored config, and a plain key."""
    config = read_config(run)
    for section, key in (
        ("model", "kl_warmup_steps"), ("data", "verify"), ("optimizer", "eps"), ("train", "on_alarm"),
        ("device", "cuda_graph"),
    ):  # fmt: skip
        config[section].pop(key, None)
    config.pop("sweep_dir", None)
    (run / "config.yaml").write_text(as_yaml(config))


def test_an_older_run_is_sampled_evaluated_compared_and_gone_on_with(
    gentrain: Command, tiny: list[str]
) -> None:
    command = [*tiny, *FAMILIES["vae"], "train.max_steps=2", "run_dir=run"]
    gentrain(*command)
    run = Path("run")
    whole = read_config(run)
    without_newest(run)
    assert flat(load_config(run)) == flat(whole)
    assert library.load(run).sample(1).shape == (1, 3, 8, 8)
    for words in (
        ["task=sample", "run=run", "sample.count=1"],
        ["task=evaluate", "run=run", "evaluate.samples=null", "evaluate.iwae_samples=null"],
        ["task=compare", "runs=run"],
        [*command, "run_dir=other", "init_from=run"],
        ["resume=run/checkpoints/step_00000002.pt", "run_dir=branch", "train.max_steps=3"],
        command,
        ["resume=run", "train.max_steps=3"],
    ):
        without_newest(run)
        outcome = gentrain(*words)
        assert outcome.status == 0, f"{words}: {outcome.err}"
    assert read_config(run) == whole | {"train": whole["train"] | {"max_steps": 3}}, "written whole again"
    compared = Path("compare/compare.html").read_text() if Path("compare").is_dir() else ""
    assert "cannot be read" not in compared


def test_a_stored_config_gives_no_environment_away(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gentrain(*tiny, *FAMILIES["vae"], "train.max_steps=1", "run_dir=run")
    monkeypatch.setenv("GENTRAIN_SECRET", "hunter2")
    file = Path("run/config.yaml")
    file.write_text(file.read_text().replace("seed: 0", "seed: ${oc.env:GENTRAIN_SECRET}"))
    for words in (["task=sample", "run=run"], ["resume=run"], ["task=compare", "runs=run"]):
        outcome = gentrain(*words)
        assert outcome.status == (0 if "task=compare" in words else 2)
        said = outcome.out + outcome.err
        assert "interpolation" in said
        assert "hunter2" not in said
