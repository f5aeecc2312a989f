"""Settings that no machine holds: each is one sentence, before anything is allocated. All whole numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import hydra
import pytest
import torch
from conftest import Command
from families import FAMILIES

import gentrain as library
from gentrain.config import compose, registry
from gentrain.config.schema import (
    LARGEST_NUMBER,
    LARGEST_SEED,
    Schema,
    check,
    check_section,
    model_schema,
    optimizer_schema,
    schema_of,
)
from gentrain.config.settings import Device, Train
from gentrain.errors import RunFailed, UserError
from gentrain.models.build import network_on_meta
from gentrain.runs import capacity
from gentrain.runs.capacity import check_fits, in_words, training_bytes
from gentrain.runtime.device import set_up
from gentrain.training.build import make_learner
from gentrain.training.minimize import Minimize
from gentrain.training.resume import plan

HUGE = (10**9, 10**12, 10**18, 10**30)
# Settings of training for which any number makes sense: nothing is as large or as often as they say.
ANY = {
    "train.max_steps": "training may be stopped, and gone on with",
    "train.log_every_steps": "an interval",
    "train.eval_every_steps": "an interval",
    "train.sample_every_steps": "an interval",
    "train.save_every_steps": "an interval",
    "train.keep_last": "at most",
    "train.max_rollbacks": "at most",
    "train.frechet_samples": "at most, of the validation pictures",
    "optimizer.warmup_steps": "a schedule",
    "model.kl_warmup_steps": "a schedule",
    "model.anneal_images": "a schedule",
    "model.alarm_every_steps": "an interval",
    "model.alarm_after_steps": "a step",
    "model.alarm_checks": "at most",
    "model.group_width": "at most: one group",
}
# What makes a setting count that has no meaning with a family's defaults.
WITH = {
    ("ae", "layers"): {"network": "mlp"},
    ("gsn", "mixtures"): {"output": "logistic_mixture"},
    ("pixelcnn", "mixtures"): {"output": "logistic_mixture"},
    ("pixelrnn", "mixtures"): {"output": "logistic_mixture"},
}


def holds_number(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return annotation is int or any(holds_number(part) for part in get_args(annotation))


def numbers_of(schema: Schema) -> list[str]:
    return [key for key, setting in schema.items() if holds_number(setting.annotation)]


@cache
def composed(family: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(compose.CONFIG_DIR), version_base="1.3"):
        return compose.plain(hydra.compose("config", [f"model={family}", "device=cpu"]))


def settings_of_training() -> Iterator[tuple[str, str, str]]:
    for family, entry in registry.MODELS.items():
        yield from ((family, "model", key) for key in numbers_of(model_schema(entry)))
    for section, schema in (
        ("train", schema_of(Train)),
        ("device", schema_of(Device)),
        ("optimizer", optimizer_schema(registry.OPTIMIZERS["adamw"])),
    ):
        yield from (("vae", section, key) for key in numbers_of(schema))


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 24 GB of memory."""
    monkeypatch.setattr(capacity, "memory_bytes", lambda: 24 * 10**9)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(("family", "section", "key"), list(settings_of_training()))
def test_every_whole_number_of_training(family: str, section: str, key: str) -> None:
    for huge in HUGE:
        config = deepcopy(composed(family))
        config[section] |= WITH.get((family, key), {})
        config[section][key] = [huge] if isinstance(config[section][key], list) else huge
        begun, said = time.monotonic(), None
        try:
            check(config)
            check_fits(plan(config, []).config)  # as typed, and where it runs
        except UserError as error:
            said = str(error)
        assert time.monotonic() - begun < 3, f"{huge}: checked for too long"
        if f"{section}.{key}" in ANY and huge <= LARGEST_NUMBER:
            assert said is None, said
        else:
            assert said is not None, f"{section}.{key}={huge} passes"
            assert f"{section}.{key}={config[section][key]}" in said, said


def test_a_run_of_the_largest_numbers(gentrain: Command, tiny: list[str]) -> None:
    """Nothing in a run counts to them, or makes a float or a date of them."""
    keys = [key for key in ANY if key.split(".")[0] != "model" and not key.endswith("max_steps")]
    keys += ["model.kl_warmup_steps", "data.count"]
    huge = [f"{key}={LARGEST_NUMBER}" for key in keys]
    command = [*tiny, *FAMILIES["vae"], *huge, "run_dir=run"]
    outcome = gentrain(*command, "train.max_steps=2", f"seed={LARGEST_SEED + 1}")
    assert outcome.status == 2 and "whole numbers end at 90 digits" in outcome.err, outcome.err
    outcome = gentrain(*command, "train.max_steps=2", f"seed={LARGEST_SEED}")
    assert outcome.status == 0, outcome.err
    outcome = gentrain("resume=run", "train.max_steps=3")  # what has begun can be read again
    assert outcome.status == 0, outcome.err
    with pytest.MonkeyPatch.context() as patched:
        original = Minimize.train_step

        def third_fails(self: Minimize, next_batch: Any, step: int) -> Any:
            if step == 2:
                raise RunFailed("enough")
            return original(self, next_batch, step)

        patched.setattr(Minimize, "train_step", third_fails)
        outcome = gentrain(*tiny, *FAMILIES["vae"], f"train.max_steps={LARGEST_NUMBER}", "run_dir=long")
    assert outcome.status == 1 and "enough" in outcome.err, outcome.err


def test_what_is_said_is_about_right(monkeypatch: pytest.MonkeyPatch) -> None:
    config = deepcopy(composed("vae"))
    config["model"]["latent_dim"] = 10**9
    with pytest.raises(UserError) as error:
        plan(config, [])
    numbers = sum(p.numel() for p in network_on_meta(config).parameters())
    need = 16 * numbers  # weights, gradients and Adam's two averages, 4 bytes each
    assert need == pytest.approx(24.6e12, rel=0.01)
    assert "model.latent_dim=1000000000 would need about 24.6 TB of memory for the weights" in str(
        error.value
    )
    # What fits on some machine is refused where it runs, and nowhere else.
    config["model"]["latent_dim"] = 10**7
    plan(deepcopy(config), [])
    monkeypatch.setattr(capacity, "memory_bytes", lambda: 24 * 10**9)
    with pytest.raises(UserError, match=r"would need about 246 GB .* this machine has about 24 GB"):
        check_fits(config)
    assert [in_words(n) for n in (2e6, 2.5e9, 3e13, 4e15, 5e18)] == [
        "about 2 MB", "about 2.5 GB", "about 30 TB", "about 4 PB", "about 5 EB",
    ]  # fmt: skip
    assert in_words(float("inf")) == "more than any number of machines has"


@pytest.mark.parametrize("optimizer", registry.OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_more_is_counted_than_training_takes(family: str, optimizer: str) -> None:
    """A run that fits is never refused: what is counted is at most what a learner holds after a step."""
    with hydra.initialize_config_dir(str(compose.CONFIG_DIR), version_base="1.3"):
        overrides = [*FAMILIES[family], f"optimizer={optimizer}", "data.size=8", "data=folder", "data.root=."]
        config = compose.plain(hydra.compose("config", overrides))
    learner = make_learner(config, set_up(config["device"]))
    learner.train_step(lambda: torch.zeros(4, 3, 8, 8, dtype=torch.uint8), 0)
    held = sum(part_bytes(part.state_dict()) for part in learner.parts.values())
    gradients = sum(p.numel() * p.element_size() for p in learner.parts["model"].parameters())
    network = learner.parts["model"]
    kept = network.state_dict()
    others = sum(part_bytes(value) for name, value in network.named_buffers() if name not in kept)
    assert training_bytes(config) <= held + gradients + others


def part_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(part_bytes, values))


# ---- tasks ------------------------------------------------------------------------------------------------

# What is bounded by the run or its pictures, and by no number of ours; each of these is tried below.
TRIED = {
    "sample": ["count", "seed", "chain_steps"],
    "evaluate": ["samples", "seed"],
    "interpolate": ["seed"],
    "traverse": ["picture", "seed"],
    "probe": ["labels_per_class", "seed"],
    "complete": ["seed"],
    "tune": [
        "trials", "startup_trials", "seed", "prune_after_trials", "prune_after_steps", "reduction_factor",
        "failures_in_a_row",
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", registry.TASKS)
def test_every_whole_number_of_a_task(task: str) -> None:
    module = registry.target(registry.TASKS[task])
    if not hasattr(module, "Settings"):
        return
    with hydra.initialize_config_dir(str(compose.CONFIG_DIR), version_base="1.3"):
        section = compose.plain(hydra.compose("config", [f"task={task}"]))[task]
    schema, unbounded = schema_of(module.Settings), []
    for key in numbers_of(schema):
        changed = section | {key: [10**12] if isinstance(section[key], list) else 10**12}
        try:
            check_section(task, changed, schema)
        except UserError as error:
            assert f"{task}.{key}=" in str(error)
        else:
            unbounded.append(key)
    assert unbounded == TRIED.get(task, [])


@pytest.fixture
def runs(gentrain: Command, tiny: list[str]) -> None:
    for family in ("gsn", "vae"):
        more = ["train.max_steps=2", "train.frechet_samples=null"]
        assert gentrain(*tiny, *FAMILIES[family], *more, f"run_dir={family}").status == 0


@pytest.mark.usefixtures("runs")
def test_tasks_on_a_run(gentrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    trillion = 10**12
    refused = {
        "sample run=gsn sample.count": "sample.count=1000000000000 would need about 576 TB of memory",
        "sample run=vae sample.count": "sample.count=1000000000000 would need about 576 TB of memory",
        "sample run=gsn sample.chain_steps": "sample.chain_steps=1000000000000 would need",
        "traverse run=vae traverse.picture": "traverse.picture=1000000000000 is not there",
    }
    for command, sentence in refused.items():
        begun = time.monotonic()
        outcome = gentrain(*f"task={command}={trillion}".split())
        assert outcome.status == 2, outcome.err
        assert sentence in outcome.err and outcome.err.count("\n") == 1, outcome.err
        assert time.monotonic() - begun < 10
    pictures = f"interpolate.pictures=[0,{trillion}]"
    outcome = gentrain("task=interpolate", "run=vae", pictures)
    assert outcome.status == 2 and outcome.err.count("\n") == 1, outcome.err
    for task in ("sample", "interpolate", "traverse"):
        outcome = gentrain(f"task={task}", "run=vae", f"{task}.seed={10**30}")
        assert outcome.status == 0, outcome.err
    more = ["evaluate.samples=1000000000000", f"evaluate.seed={10**30}"]
    assert gentrain("task=evaluate", "run=vae", *more).status == 0
    run = library.load("vae")
    outcome = gentrain("task=sample", "run=vae", "device.threads=100000000")
    assert outcome.status == 2 and "device.threads=100000000 is more than this machine" in outcome.err
    for n in (trillion, 10**30):
        with pytest.raises(UserError, match=f"n={n} would need"):
            run.sample(n)
        with pytest.raises(UserError, match=f"n={n} would need"):
            run.draw_codes(n)


def test_a_search(gentrain: Command, tiny: list[str]) -> None:
    """Numbers of trials and steps at which something begins: there is no largest one."""
    keys = [key for key in TRIED["tune"] if key != "trials"]
    huge = [f"tune.{key}={10**12}" for key in keys]
    command = ["task=tune", "tune.dir=study", *tiny, *FAMILIES["vae"], *huge, "tune.pruner=halving"]
    outcome = gentrain(*command, "tune.trials=1", "train.max_steps=2")
    assert outcome.status == 0, outcome.err
    assert Path("study/study.json").is_file()
