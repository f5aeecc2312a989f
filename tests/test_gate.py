"""No entry of Hydra's carries out what a stranger's config says: a walk over all entries and all places for code.

The "code" would do nothing but create a marker file in the test's own folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hydra
import hydra_plugins.hydra_joblib_launcher
import hydra_plugins.hydra_submitit_launcher
import pytest
from conftest import Command
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from gentrain.config.compose import engine
from gentrain.config.safety import FIXED

TOUCH = "_target_: pathlib.Path.touch\nself: MARKER\n"
CALL = "{_target_: pathlib.Path.touch, self: MARKER}"
GLOBAL = "# @package _global_\n"
HANDLER = "version: 1\nhandlers: {h: {'()': pathlib.Path.touch, self: MARKER}}\nroot: {handlers: [h]}\n"

# What is chosen, and what the chosen file holds.
ATTACKS = {
    "a callback": ("hydra/callbacks=x", f"x: {CALL}"),
    "a callback, only once the mode is known": (
        "experiment=x",
        f"{GLOBAL}hydra:\n  job_logging: {{k_None: '{{}}', k_RunMode: {{RUN: '{CALL}', MULTIRUN: '{CALL}'}}}}\n"
        "  callbacks: {x: \"${oc.decode:${oc.select:hydra.job_logging.k_${hydra.mode},null}}\"}",
    ),
    "a callback, only in a job of a sweep": (
        "experiment=x",
        f"{GLOBAL}hydra:\n  job_logging: {{k_0: '{CALL}', k_1: '{CALL}'}}\n"
        "  callbacks: {x: \"${oc.decode:${oc.select:hydra.job_logging.k_${oc.select:hydra.job.num,null},null}}\"}",
    ),
    "a callback, from outside Hydra's node": (
        "experiment=x", f"{GLOBAL}half: '{CALL}'\nhydra: {{callbacks: '${{oc.decode:\"{{x: ${{half}}}}\"}}'}}"
    ),
    "hydra's log handler": ("hydra/hydra_logging=x", HANDLER),
    "a job's log handler": ("hydra/job_logging=x", HANDLER),
    "a log formatter": (
        "hydra/job_logging=x", "version: 1\nformatters: {f: {'()': pathlib.Path.touch, self: MARKER}}\nroot: {}\n"
    ),
    "a log filter": (
        "hydra/hydra_logging=x", "version: 1\nfilters: {f: {'()': pathlib.Path.touch, self: MARKER}}\nroot: {}\n"
    ),
    "a log file": (
        "hydra/hydra_logging=x",
        "version: 1\nhandlers: {h: {class: logging.FileHandler, filename: MARKER}}\nroot: {handlers: [h]}\n",
    ),
    "an import for a log": (
        "hydra/job_logging=x",
        "version: 1\nhandlers: {h: {class: logging.StreamHandler, stream: 'ext://marker.x'}}\nroot: {handlers: [h]}\n",
    ),
    "a launcher": ("hydra/launcher=x", TOUCH),
    "a launcher's part": (
        "hydra/launcher=x", f"_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\npart: {CALL}"
    ),
    "a sweeper": ("hydra/sweeper=x", TOUCH),
    "a sweeper's parameters": (
        "hydra/sweeper=x",
        "_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper\n"
        f"max_batch_size: null\nparams: {{+hydra.callbacks.x: '{CALL}'}}",
    ),
    "an environment": ("experiment=x", f"{GLOBAL}hydra: {{job: {{env_set: {{PYTHONSTARTUP: MARKER}}}}}}"),
    "another folder": ("experiment=x", f"{GLOBAL}hydra: {{job: {{chdir: true}}, run: {{dir: MARKER}}}}"),
    "a folder of Hydra's": ("experiment=x", f"{GLOBAL}hydra: {{output_subdir: MARKER}}"),
    "a model": ("model=x", f"{GLOBAL}model: {{name: vae, inner: {CALL}}}"),
    "a model put together": (
        "model=x", f"{GLOBAL}half: '{CALL}'\nmodel: {{name: vae, inner: '${{oc.decode:${{half}}}}'}}"
    ),
}  # fmt: skip

# How Hydra can be entered. What only prints does not resolve what is no part of Hydra's own node.
RUNS = {
    "train": [],
    "sweep": ["-m", "seed=1,2"],
    "a sweep by its mode": ["hydra.mode=MULTIRUN"],
    "sweep side by side": ["-m", "seed=1,2", "hydra/launcher=parallel"],
    "inspect": ["task=inspect"],
    "tune": ["task=tune", "space=lr"],
    "sample": ["task=sample", "run=nowhere"],
    "resume": ["resume=nowhere"],
}
PRINTS = {
    "help": ["--help"],
    "hydra's help": ["--hydra-help"],
    **{f"--cfg {kind}": ["--cfg", kind] for kind in ("job", "hydra", "all")},
    "--cfg resolved": ["--cfg", "job", "--resolve"],
    **{f"--info {kind}": ["--info", kind] for kind in ("all", "config", "searchpath")},
    "completion": ["-sc", "query=bash"],
}
ONLY_IN_SWEEPS = ("a sweeper's parameters",)  # what varies is composed in no other entry
ONLY_RESOLVED = ("a model put together",)  # and this is only printed, as it was written
# All attacks go through these entries, and these attacks through all entries.
THROUGH_ALL = ("train", "sweep")
IN_ALL = (
    "a callback", "a callback, only once the mode is known", "hydra's log handler", "a job's log handler",
    "a launcher", "a sweeper's parameters",
)  # fmt: skip


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of a stranger's, one file an attack: <name of the group>/x<number>.yaml."""
    for number, (choice, text) in enumerate(ATTACKS.values()):
        file = tmp_path / "foreign" / f"{choice.removesuffix('=x')}/x{number}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("MARKER", str(tmp_path / "marker")))
    return tmp_path / "foreign"


@pytest.mark.parametrize("entry", [*RUNS, *PRINTS])
def test_no_entry_carries_out_what_a_config_says(
    entry: str, gentrain: Command, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (name, (choice, _)) in enumerate(ATTACKS.items()):
        if entry not in THROUGH_ALL and name not in IN_ALL:
            continue
        if entry in PRINTS and name in (*ONLY_IN_SWEEPS, *ONLY_RESOLVED):
            continue
        if name in ONLY_IN_SWEEPS and "sweep" not in entry:
            continue
        if choice == "hydra/launcher=x" and entry == "sweep side by side":
            continue  # of two launchers there is one
        chosen = f"{choice}{number}"
        monkeypatch.setenv("COMP_LINE", f"gentrain {chosen} ")
        words = [] if entry == "completion" else [chosen]
        outcome = gentrain("--config-dir", str(foreign), *(RUNS | PRINTS)[entry], *words)
        assert outcome.status == 2, (name, outcome)
        assert outcome.err.count("\n") == 1, (name, outcome.err)
        assert outcome.err.startswith("gentrain: "), (name, outcome.err)
        if entry != "hydra's help" or choice.startswith("hydra/"):
            assert "refused" in outcome.err, (name, outcome.err)
        assert not (foreign.parent / "marker").exists(), name
        assert list(Path.cwd().iterdir()) == [], name


# ---- a sweeper that is installed, and composes as it goes


class Foreign(Sweeper):
    """Two jobs: the overrides that `jobs` says, beside those given."""

    def __init__(self, jobs: list[str]) -> None:
        self.jobs = list(jobs)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        for number, job in enumerate(self.jobs):
            (done,) = self.launcher.launch([[*arguments, job]], initial_job_idx=number)
            assert done.return_value is None


@pytest.fixture
def sweeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder with its config."""
    plugins = Plugins.instance()
    module = ModuleType("hydra_plugins.foreign")
    module.Foreign = Foreign  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(hydra_plugins, "foreign", module, raising=False)
    monkeypatch.setattr(Foreign, "__module__", module.__name__)
    plugins.register(Foreign)
    file = tmp_path / "mine/hydra/sweeper/foreign.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: hydra_plugins.foreign.Foreign\njobs: []\n")
    yield str(tmp_path / "mine")
    del plugins.class_name_to_class["hydra_plugins.foreign.Foreign"]
    for found in plugins.plugin_type_to_subclass_list.values():
        if Foreign in found:
            found.remove(Foreign)


def test_jobs_of_an_installed_sweeper_run_and_pass_the_gate_too(
    sweeper: str, gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    command = ["-m", "--config-dir", sweeper, "hydra/sweeper=foreign", *tiny, "train.max_steps=1"]
    outcome = gentrain(*command, "hydra.sweeper.jobs=['run_dir=a','run_dir=b']")
    assert outcome.status == 0, outcome.err
    assert Path("a/result.json").is_file() and Path("b/result.json").is_file()
    for hidden, words in {
        f"+hydra.callbacks.x={CALL}": "hydra.callbacks.x._target_=pathlib.Path.touch is refused",
        "seed=x": "seed=x is not possible",
    }.items():
        job = hidden.replace("MARKER", str(tmp_path / "marker"))
        outcome = gentrain(*command, f'hydra.sweeper.jobs=["{job}"]')
        assert outcome.status == 2, outcome
        assert words in outcome.err
        assert not (tmp_path / "marker").exists()


# ---- names of launchers and sweepers


@pytest.mark.parametrize("kind", ["launcher", "sweeper"])
@pytest.mark.parametrize(
    "text",
    [
        "_target_: hydra_plugins.nope.Nope",
        "_target_: hydra._internal.core_plugins.bash_completion.BashCompletion",
        "_target_: 3",
        "a: 1",
    ],
)
def test_what_is_no_launcher_and_no_sweeper(kind: str, text: str, gentrain: Command, tmp_path: Path) -> None:
    file = tmp_path / f"mine/hydra/{kind}/x.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    outcome = gentrain("-m", "seed=1,2", "--config-dir", str(tmp_path / "mine"), f"hydra/{kind}=x")
    assert outcome.status == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert kind in outcome.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "setting", ["hydra.launcher=null", "hydra.sweeper=null", "hydra.sweeper=3", "hydra.launcher=x"]
)
def test_no_launcher_and_no_sweeper(setting: str, gentrain: Command) -> None:
    outcome = gentrain("-m", "seed=1,2", setting)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome


# ---- the gate itself


def test_what_is_fixed_of_hydra_is_what_our_config_sets() -> None:
    """So with our configs alone nothing is refused; and it is a list of keys that Hydra has."""
    with engine(None) as hydra:
        composed = hydra.compose_config("config", [], RunMode.RUN)
    for key, value in FIXED.items():
        node = OmegaConf.select(composed.hydra, key, throw_on_missing=True)
        assert (OmegaConf.to_container(node) if OmegaConf.is_config(node) else node) == value, key


@pytest.mark.parametrize("key", FIXED)
def test_nothing_that_is_fixed_can_be_changed(key: str, gentrain: Command) -> None:
    """By a value that is no code."""
    value = {dict: "{a: b}", list: "[PATH]"}.get(type(FIXED[key]), "true")
    outcome = gentrain("--cfg", "job", f"++hydra.{key}={value}")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert f"hydra.{key}".replace("env_copy", "env_set") in outcome.err  # one is made of the other


def test_hydra_has_no_way_around_the_gate() -> None:
    """Each function of Hydra's and of its launchers that composes does so through what CheckedLoader overrides."""
    compositions = re.compile(
        r"(\w+)\.load_configuration\(|_load_configuration_impl\(|\b_compose_config_from\w*\("
    )
    found = {}
    for module in (hydra, hydra_plugins.hydra_joblib_launcher, hydra_plugins.hydra_submitit_launcher):
        root = Path(next(iter(module.__path__)))
        for file in root.rglob("*.py"):
            lines = [match[0] for match in compositions.finditer(file.read_text())]
            if lines:
                found[file.relative_to(root).as_posix()] = sorted(lines)
    assert found == {
        "_internal/config_loader_impl.py": sorted(
            ["_compose_config_from_defaults_list(", "_compose_config_from_defaults_list(", "_load_configuration_impl(",
             "_load_configuration_impl(", "self.load_configuration("]
        ),
        "_internal/hydra.py": ["config_loader.load_configuration("],
        "plugins/completion_plugin.py": ["config_loader.load_configuration("],
    }  # fmt: skip


def test_a_job_is_run_with_the_object_that_was_checked(
    gentrain: Command, tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that is another each time that it is looked at is looked at once."""
    seen: list[str] = []
    OmegaConf.register_new_resolver("test.each_time", lambda: seen.append("") or len(seen), replace=True)
    preset = tmp_path / "mine/experiment/x.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(GLOBAL + "seed: ${test.each_time:}\n")
    command = ["--config-dir", str(tmp_path / "mine"), "experiment=x", *tiny, "train.max_steps=1"]
    assert gentrain(*command, "run_dir=run").status == 0
    assert len(seen) == 1
    assert "seed: 1\n" in Path("run/config.yaml").read_text()
    assert gentrain("-m", *command, "model.free_bits=0,0.1", "sweep_dir=sweep").status == 0
    seeds = {file.read_text().split("seed: ")[1].split()[0] for file in Path("sweep").glob("*/config.yaml")}
    assert seeds == {"2", "3"}
    OmegaConf.clear_resolver("test.each_time")
