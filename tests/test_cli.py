"""The command: fast to start, and a mistake is one sentence with status 2 that leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Command

import gentrain as library
from gentrain.config import registry
from gentrain.config.overrides import quoted
from gentrain.config.schema import MAY_CHANGE


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["--cfg", "job"], ["--cfg", "job", "model=vae"]]
)
def test_starts_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'NO TORCH'))\n"
        "from gentrain.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "NO TORCH"
    assert list(tmp_path.iterdir()) == []


def test_version_and_help_say_what_a_user_needs(gentrain: Command) -> None:
    assert gentrain("--version").out == f"gentrain {library.__version__}\n"
    shown = gentrain("--help").out
    for group, choices in {"model": registry.MODELS, "data": registry.DATA}.items():
        assert f"{group}: {', '.join(sorted(choices))}" in shown
    for words in ("gentrain model=vae data=anime", "gentrain resume="):
        assert words in shown


def test_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gentrain", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.startswith("gentrain ")


MISTAKES = {
    "typo": (["train.max_step=5"], "train.max_step is not a setting (did you mean train.max_steps?)"),
    "typo with +": (["+train.max_step=5"], "did you mean train.max_steps?"),
    "typo with ++": (["++train.max_step=5"], "did you mean train.max_steps?"),
    "top-level typo": (["sede=5"], "sede is not a setting (did you mean seed?)"),
    "group typo": (["modle=vae"], "modle is not a setting (did you mean model?)"),
    "empty setting": (["data=folder", "data.root="], "data.root= is empty"),
    "no such user": (["data=folder", "data.root='~nosuchuser/x'"], "~nosuchuser/x has no meaning here"),
    "inspect moves nothing": (["task=inspect", "data.flip=true"], "data.flip=true has no meaning for task=inspect"),
    "unknown choice": (["model=vea"], "model=vea is not known (did you mean vae?); choose from "),
    "unknown data": (["data=animee"], "data=animee is not known (did you mean anime?); choose from anime, anime_faces, "),
    "wrong type": (["optimizer.lr=abc"], "optimizer.lr=abc is not possible; it must be a number above 0"),
    "a float for a count": (["train.max_steps=2.5"], "train.max_steps=2.5 is not possible; it must be a whole number"),
    "true for a number": (["seed=true"], "seed=True is not possible; it must be a whole number"),
    "out of range": (["train.batch_size=0"], "train.batch_size=0 is not possible; it must be a whole number between 1 and 1000000"),
    "negative lr": (["optimizer.lr=-1"], "optimizer.lr=-1 is not possible; it must be a number above 0"),
    "no choice of these": (["data.size=33"], "data.size=33 is not possible; it must be 32 or 64"),
    "a list too long": (["optimizer.betas=[0.9,0.9,0.9]"], "optimizer.betas=[0.9, 0.9, 0.9] is not possible"),
    "another data set's key": (["data.root=x"], "data.root is not a setting of data=anime (it is one of data=folder)"),
    "another optimizer's key": (["optimizer.momentum=0.5"], "it is one of optimizer=sgd"),
    "another model's key": (["model.discriminator_lr=1"], "model.discriminator_lr is not a setting of model=vae"),
    "another task's key": (["sample.count=3"], "sample is not a setting (it belongs to task=sample)"),
    "missing value": (["data=folder"], "data.root must be given"),
    "deleted value": (["~train.batch_size"], "train.batch_size is missing"),
    "missing path": (["data=folder", "data.root=nowhere"], "nowhere does not exist"),
    "resume of nothing": (["resume=nowhere"], "resume=nowhere is no run directory"),
    "init_from nothing": (["init_from=nowhere"], "nowhere is no run directory"),
    "task without a run": (["task=sample"], "task=sample needs run="),
    "task on nothing": (["task=evaluate", "run=nowhere"], "nowhere is no run directory"),
    "no such checkpoint": (["checkpoint=first"], "checkpoint=first is not possible; it must be last or best"),
    "settings that do not fit": (["model.likelihood=bernoulli"], "data.levels=2"),
    "a sweep without -m": (["seed=1,2"], "seed"),
    "half an override": (["seed"], "seed"),
    "no option": (["--modle=vae"], "--modle"),
    "levels": (["data.levels=1"], "data.levels=1 is not possible; it must be a whole number between 2 and 256"),
    "split too fine": (["train.accumulate_steps=65"], "train.accumulate_steps=65 cannot split"),
    "foreign primary config": (["--config-name=other"], "--config-dir"),
    "rerun of a pickle": (["--experimental-rerun=config.pickle"], "pickle"),
    "no config dir": (["--config-dir=nowhere"], "--config-dir nowhere is not a directory"),
    "empty": (["resume="], "resume= is empty"),
    "resume with init_from": (["resume=x", "init_from=y"], "resume= and init_from= cannot be combined"),
    "run= without a task": (["run=x"], "run=x has no meaning for task=train"),
    "checkpoint= without a task": (["checkpoint=best"], "checkpoint= has no meaning here"),
    "a beta of one": (["optimizer.betas=[0.9,1.0]"], "optimizer.betas=[0.9, 1.0] is not possible"),
    "infinite": (["optimizer.lr=inf"], "optimizer.lr=inf is not possible"),
    "two jobs in one directory": (["-m", "seed=1,2", "run_dir=x"], "two jobs of this sweep have run_dir=x"),
    "a name too long": ([f"run_dir={'x' * 300}"], "File name too long"),
    "unknown experiment": (["experiment=foo"], "experiment=foo is not known"),
    "flags after settings": (["seed=x", "-m", "optimizer.lr=1,2"], "seed=x is not possible"),
    "huge": (["train.batch_size=99999999999999999999"], "between 1 and 1000000"),
    "one bad job in a sweep": (["-m", "seed=1,x"], "seed=x is not possible"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, gentrain: Command) -> None:
    arguments, sentence = MISTAKES[mistake]
    outcome = gentrain(*arguments)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(gentrain: Command) -> None:
    outcome = gentrain("device=cuda")
    assert outcome.status == 2
    assert "device=cuda was asked for, but torch finds none; this machine has cpu" in outcome.err
    assert list(Path.cwd().iterdir()) == []


ATTACK = "{_target_: pathlib.Path.touch, _args_: [SENTINEL]}"
ATTACKS = {
    "a value": [f"+model.x={ATTACK}"],
    "a key": ["+model._target_=pathlib.Path.touch"],
    "hydra's launcher": ["hydra.launcher._target_=pathlib.Path.touch"],
    "hydra's launcher in a sweep": ["-m", "hydra.launcher._target_=pathlib.Path.touch", "seed=1,2"],
    "a callback": [f"+hydra.callbacks.x={ATTACK}"],
    "a log handler": ["+hydra.job_logging.handlers.x.class=pathlib.Path", "++hydra.job_logging.version=1"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_override_names_no_code(attack: str, gentrain: Command) -> None:
    sentinel = Path.cwd() / "sentinel"
    outcome = gentrain(*(argument.replace("SENTINEL", str(sentinel)) for argument in ATTACKS[attack]))
    assert outcome.status == 2
    assert "refused" in outcome.err
    assert not sentinel.exists()
    assert list(Path.cwd().iterdir()) == []


FOREIGN = {
    "model/foreign.yaml": "# @package _global_\nmodel: {name: vae, inner: {_target_: pathlib.Path.touch, self: SENTINEL}}",
    "experiment/foreign.yaml": (
        "# @package _global_\nhydra: {callbacks: {x: {_target_: pathlib.Path.touch, self: SENTINEL}}}"
    ),
    "hydra/launcher/foreign.yaml": "_target_: pathlib.Path.touch\nself: SENTINEL",
    "hydra/job_logging/foreign.yaml": "version: 1\nhandlers: {x: {'()': pathlib.Path.touch, self: SENTINEL}}",
}


@pytest.mark.parametrize("file", FOREIGN)
def test_a_foreign_config_names_no_code(file: str, gentrain: Command, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    config = tmp_path / "foreign" / file
    config.parent.mkdir(parents=True)
    config.write_text(FOREIGN[file].replace("SENTINEL", str(sentinel)))
    group = str(Path(file).parent)
    for flags in ([], ["--help"], ["--cfg", "job"], ["--info", "config"]):
        outcome = gentrain(*flags, "--config-dir", str(tmp_path / "foreign"), f"{group}=foreign")
        assert outcome.status == 2
        assert "refused" in outcome.err
        assert not sentinel.exists()


def test_a_run_from_elsewhere_names_no_code(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, "train.max_steps=1", "run_dir=run")
    config = Path("run/config.yaml")
    config.write_text(config.read_text() + "extra:\n  _target_: pathlib.Path.touch\n")
    for arguments in (["resume=run"], ["task=sample", "run=run"]):
        outcome = gentrain(*arguments)
        assert outcome.status == 2
        assert "_target_" in outcome.err


def test_configs_of_the_users_own(gentrain: Command, tiny: list[str], tmp_path: Path) -> None:
    preset = tmp_path / "mine" / "experiment" / "small.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: sgd\ntrain:\n  max_steps: 2\n  batch_size: 3\n"
    )
    tiny = [setting for setting in tiny if "max_steps" not in setting]
    outcome = gentrain("--config-dir", str(tmp_path / "mine"), *tiny, "experiment=small", "run_dir=run")
    assert outcome.status == 0, outcome.err
    config = Path("run/config.yaml").read_text()
    assert "max_steps: 2\n" in config  # the preset wins over the family's defaults
    assert "batch_size: 8\n" in config  # what is typed wins over the preset
    assert "name: sgd\n" in config


def test_a_familys_defaults_yield_to_the_user(gentrain: Command) -> None:
    shown = gentrain("--cfg", "job", "model=vae").out
    assert "lr: 0.002\n" in shown  # configs/model_optimizer/vae_adamw.yaml
    shown = gentrain("--cfg", "job", "model=vae", "optimizer=sgd").out
    assert "lr: 0.1\n" in shown
    shown = gentrain("--cfg", "job", "optimizer.lr=0.5").out
    assert "lr: 0.5\n" in shown


def test_a_sweep_runs_every_job_and_goes_on_after_a_failure(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job diverges; the second one finishes; the command's status is that of a failure."""
    outcome = gentrain("-m", *tiny, "train.grad_clip=null", "optimizer=sgd", "optimizer.lr=1e30,1e-3")
    assert outcome.status == 1
    assert "training diverged at step" in outcome.err
    runs = sorted(Path("outputs/sweeps").glob("*/lr-*"))
    statuses = sorted((run / "result.json").read_text().split('"')[3] for run in runs)
    assert statuses == ["failed", "finished"]


def test_all_jobs_of_a_sweep_are_checked_first(gentrain: Command, tiny: list[str]) -> None:
    outcome = gentrain("-m", *tiny, "train.batch_size=4,0")
    assert outcome.status == 2
    assert "train.batch_size=0" in outcome.err
    assert not Path("outputs").exists()


def test_a_failure_of_ours_keeps_its_traceback(tmp_path: Path, tiny: list[str]) -> None:
    code = (
        "import gentrain.training.trainer, gentrain.cli\n"
        "def broken(*_): raise ValueError('our bug')\n"
        "gentrain.training.trainer.seed_step = broken\n"
        "gentrain.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *tiny], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "our bug" in done.stderr


HIDDEN = {
    "in what a sweep sweeps over": (
        ["-m"],
        "hydra: {sweeper: {params: {+hydra.callbacks.x: '{_target_: pathlib.Path.touch, self: SENTINEL}'}}}",
    ),
    "put together by interpolation": (
        [],
        "half: _tar\nhydra: {callbacks: {x: \"${oc.decode:'{${half}get_: pathlib.Path.touch, self: SENTINEL}'}\"}}",
    ),
    "imported for a log handler": (
        [],
        "hydra: {job_logging: {handlers: {x: {stream: 'ext://antigravity.x'}}}}",
    ),
    "a sweep switched on by the config": (
        [],
        "hydra: {mode: MULTIRUN, sweeper: {params: {train.max_step: '1,2'}}}",
    ),
}


@pytest.mark.parametrize("where", HIDDEN)
def test_what_a_preset_hides(where: str, gentrain: Command, tmp_path: Path) -> None:
    flags, text = HIDDEN[where]
    preset = tmp_path / "foreign/experiment/x.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\n" + text.replace("SENTINEL", str(tmp_path / "sentinel")))
    outcome = gentrain(*flags, "--config-dir", str(tmp_path / "foreign"), "experiment=x")
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "sentinel").exists()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("text", ["a: 1\n", "task: train\n", "- a\n", "{", ""])
def test_a_directory_with_some_other_config(text: str, gentrain: Command, tiny: list[str]) -> None:
    Path("other").mkdir()
    Path("other/config.yaml").write_text(text)
    for arguments in (["resume=other"], [*tiny, "run_dir=other"]):
        outcome = gentrain(*arguments)
        assert outcome.status == 2, outcome.err
        assert outcome.err.count("\n") == 1


PRINTING = [
    ["--version"],
    ["--help"],
    ["--hydra-help"],
    ["--cfg", "job"],
    ["--info", "config"],
    ["-sc", "install=bash"],
]


@pytest.mark.parametrize("arguments", PRINTING, ids=[" ".join(arguments) for arguments in PRINTING])
def test_what_only_prints_where_it_cannot(arguments: list[str], tmp_path: Path) -> None:
    """A reader that has gone away (| head) is no failure; a full disk is one, in a sentence."""
    command = [sys.executable, "-m", "gentrain", *arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "gentrain: stdout cannot be written to (No space left on device), so the answer is lost\n",
    )


ODD = [
    "1: x", "null: x", "true: x", "2.5: x", "? [a, b]\n: x", "2001-01-01: x", "'': x", "'a b': x", "!!binary aGk=: 1",
    "model: {1: 2}", "model: {null: 2}", "train: {2.5: 2}", "data: {'': 3}", "runs: {1: 2}", "hydra: {1: 2}",
    "hydra: null", "hydra: 3", "hydra: [1]", "hydra: {launcher: null}", "hydra: {mode: x}", "hydra: {job: null}",
    "hydra: {job: {env_copy: [NOPE]}}", "hydra: {callbacks: 3}", "hydra: {job_logging: null}", "hydra: {overrides: null}",
    "hydra: {searchpath: [x]}", "seed: ${hydra:job.num}", "seed: ${a.b}", "seed: ${oc.env:NOPE}", "seed: ${", "seed: ${nope:}",
    "model: ${model}", "model: null", "model: [1]", "defaults: [nope]", "defaults: 3", "defaults: [{1: 2}]", "defaults: [null]",
    "<<: 3", "seed: !!python/object/apply:os.getcwd []", "- a", "3", "\0", "\xff", "a: &a [*a]",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_an_odd_preset_gets_a_sentence(text: str, gentrain: Command, tmp_path: Path) -> None:
    """Whether it trains, is looked at, or is only printed: no traceback, and never "gentrain:" and nothing else."""
    preset = tmp_path / "mine/experiment/x.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_bytes(f"# @package _global_\n{text}\n".encode("latin-1"))
    for arguments in (["data=folder"], ["--cfg", "job"]):
        outcome = gentrain("--config-dir", str(tmp_path / "mine"), *arguments, "experiment=x")
        if outcome.status == 0:
            assert arguments[0].startswith("--"), outcome  # it may print what could not be run
            continue
        assert outcome.status == 2, outcome
        assert re.fullmatch(r"gentrain: \S.{10,}\n", outcome.err), outcome.err
        assert list(Path.cwd().iterdir()) == []


def test_the_refusal_on_resume_is_made_of_the_table(gentrain: Command, tiny: list[str]) -> None:
    assert gentrain(*tiny, "train.max_steps=1", "run_dir=run").status == 0
    outcome = gentrain("resume=run", "seed=5")
    assert outcome.status == 2
    said = outcome.err.partition("may change only ")[2].partition(";")[0]
    assert tuple(said.split(", ")) == MAY_CHANGE


@pytest.mark.parametrize("name", ["my_target_dir", "_target_", "{_target_: pathlib.Path.touch, self: x}"])
def test_what_reads_like_code_and_is_a_value(
    name: str, gentrain: Command, tiny: list[str], pictures: Path, tmp_path: Path
) -> None:
    """What the composed config holds decides, and there it is text: in a run, a sweep, on resume, for a task."""
    (tmp_path / name).symlink_to(pictures)
    command = [*tiny, f"data.root={quoted(tmp_path / name)}", "train.max_steps=1"]
    assert gentrain(*command, f"run_dir={quoted(name)}").status == 0
    assert gentrain(f"resume={quoted(name)}", "train.max_steps=2").status == 0
    assert gentrain("task=sample", f"run={quoted(name)}", "sample.count=1").status == 0
    assert gentrain("-m", *command, "seed=1", f"sweep_dir={quoted(f'{name} sweep')}").status == 0
    assert not Path("x").exists()
