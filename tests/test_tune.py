"""task=tune: what is searched is checked first, trials are ordinary runs, and a study survives its processes."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Command
from families import FAMILIES, assert_same_run, newest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from gentrain.cli import check_jobs
from gentrain.config.compose import CONFIG_DIR
from gentrain.errors import Busy, UserError
from gentrain.runs.rundir import RunDir
from gentrain.runtime.seeding import derive
from gentrain.training.minimize import Minimize
from gentrain.tuning.search import headline, typed
from gentrain.tuning.space import Choices, Range, entries
from gentrain.tuning.store import _open, _pruner

STUDY = Path("study")


@pytest.fixture
def search(tiny: list[str]) -> list[str]:
    """A search whose trials take a tenth of a second: 6 steps, evaluated at every other one."""
    return [
        "task=tune",
        f"tune.dir={STUDY}",
        "tune.trials=4",
        "tune.startup_trials=2",
        *tiny,
        *FAMILIES["vae"],
        "train.eval_every_steps=2",
        "train.sample_every_steps=null",
    ]


def study(directory: Path = STUDY) -> dict[str, Any]:
    return json.loads((directory / "study.json").read_text())


def rows(directory: Path = STUDY) -> list[dict[str, Any]]:
    return study(directory)["rows"]


def sessions(row: dict[str, Any], directory: Path = STUDY) -> list[dict[str, Any]]:
    return json.loads((directory / row["run"] / "meta.json").read_text())["sessions"]


def validation(row: dict[str, Any]) -> dict[int, float]:
    """step -> valid/bits_per_dim, from the run's own curves."""
    lines = map(json.loads, (STUDY / row["run"] / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["valid/bits_per_dim"] for line in lines if "valid/bits_per_dim" in line}


# ---- the space ----------------------------------------------------------------------------------------

MISTAKES = {
    "no such setting": (["tune.space.optimizer.lrr={low: 1, high: 2}"], "optimizer.lrr is not a setting of optimizer=adamw (did you mean optimizer.lr?)"),
    "no such section": (["tune.space.modle.width={low: 1, high: 2}"], "modle.width cannot be searched (did you mean model?)"),
    "no range": (["tune.space.optimizer.lr=0.1"], "tune.space.optimizer.lr=0.1 is no range and no choice; give {low:"),
    "a word mistyped": (["tune.space.model.encoder_blocks={low: 1, hihg: 2}"], "tune.space.model.encoder_blocks.hihg is not known (did you mean high?)"),
    "half a range": (["tune.space.model.encoder_blocks={low: 1}"], "is no range and no choice"),
    "text for a number": (["tune.space.model.encoder_blocks={low: a, high: 2}"], "is no range and no choice"),
    "both": (["tune.space.model.encoder_blocks={low: 1, choices: [1, 2]}"], "must be a list of choices alone"),
    "upside down": (["tune.space.model.encoder_blocks={low: 9, high: 2}"], "low=9 must be below high=2"),
    "a fraction of a channel": (["tune.space.model.encoder_blocks={low: 1.5, high: 2}"], "is a whole number, so low, high and step must be"),
    "out of its range": (["tune.space.model.encoder_blocks={low: -1, high: 2}"], "tune.space.model.encoder_blocks: -1 is not possible; it must be a whole number between 0 and 1000"),
    "log from zero": (["tune.space.model.beta={low: 0, high: 2, log: true}"], "low=0 must be above 0 on a log scale"),
    "log and step": (["tune.space.model.beta={low: 1, high: 2, log: true, step: 1}"], "log and step cannot be combined"),
    "a step too large": (["tune.space.model.encoder_blocks={low: 1, high: 2, step: 3}"], "step=3 must be above 0 and at most high - low"),
    "a range of words": (["tune.space.model.likelihood={low: 1, high: 2}"], "has no range: it must be logistic_mixture or gaussian or bernoulli"),
    "a choice mistyped": (["tune.space.model.likelihood={choices: [gauss]}"], "gauss is not possible; it must be logistic_mixture or"),
    "a choice twice": (["tune.space.model.encoder_blocks={choices: [4, 4]}"], "is there twice"),
    "what does not go together": (["tune.space.model.likelihood={choices: [gaussian, bernoulli]}"], "tune.space.model.likelihood: with model.likelihood=bernoulli: "),
    "other pictures": (["tune.space.data.levels={choices: [2, 4]}"], "figures of different pictures cannot be compared"),
    "its own settings": (["tune.space.tune.store={low: 1, high: 2}"], "tune.store cannot be searched"),
    "nothing": (["space=none"], "tune.space is empty"),
    "searched and given": (["optimizer.lr=0.1"], "optimizer.lr=0.1 has no effect: optimizer.lr is searched"),
    "chosen on training": (["tune.metric=train/loss"], "must be a figure of the validation split"),
    "an endless grid": (["tune.sampler=grid"], "tune.sampler=grid cannot count tune.space.optimizer.lr"),
    "a grid that fills the memory": (["tune.sampler=grid", "tune.space.optimizer.lr=null", "tune.space.seed={low: 1, high: 2000000000}"], "tune.sampler=grid has 2000000000 combinations, and at most 10000"),
    "a run of its own": (["run_dir=x"], "run_dir=x has no meaning for task=tune"),
    "name and folder": (["tune.name=x"], "give either tune.name or tune.dir"),
    "an unsafe name": (["tune.dir=null", "tune.name=../x"], "tune.name=../x must be letters, digits"),
    "its own typo": (["tune.trial=3"], "tune.trial is not a setting (did you mean tune.trials?)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    case: str, gentrain: Command, search: list[str]
) -> None:
    arguments, sentence = MISTAKES[case]
    done = gentrain(*search, *arguments)
    assert done.status == 2 and sentence in done.err, done.err
    assert done.err.count("\n") == 1 and done.err.startswith("gentrain: ")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", [path.stem for path in (CONFIG_DIR / "space").glob("*.yaml")])
def test_every_space_of_ours_can_be_searched(name: str, tmp_path: Path) -> None:
    own = ["tune.space.train.grad_clip={low: 0.5, high: 2}"] if name == "none" else []
    check_jobs(["task=tune", f"space={name}", f"tune.dir={tmp_path}", *own], multirun=False, config_dir=None)


def test_entries_may_be_nested_and_later_ones_win() -> None:
    lr, width = {"low": 1, "high": 2}, {"choices": [1]}
    assert entries({"optimizer.lr": lr, "model": {"width": width}}) == {
        "optimizer.lr": lr,
        "model.width": width,
    }
    assert entries({"optimizer.lr": lr, "optimizer": {"lr": width}}) == {"optimizer.lr": width}
    assert entries({"optimizer.lr": lr, "model.width": width, "optimizer": {"lr": None}}) == {
        "model.width": width
    }
    both = {"optimizer": {"choices": ["sgd"], "lr": lr}}
    assert entries(both) == {"optimizer": {"choices": ["sgd"]}, "optimizer.lr": lr}
    with pytest.raises(UserError, match="empty"):
        entries({"optimizer.lr": lr, "optimizer": {"lr": None}})


def test_a_range_counts_its_values() -> None:
    assert Range(16, 48, True, step=8).first(9) == [16, 24, 32, 40, 48]
    assert Range(1, 4, True).first(9) == [1, 2, 3, 4]
    assert Range(0.1, 0.3, False, step=0.1).first(9) == pytest.approx([0.1, 0.2, 0.3])
    assert Range(0, 2**62, True).first(2) == [0, 1], "no list of all of them"
    assert Range(0.1, 0.3, False).count is None
    assert Range(1, 64, True, log=True).count is None
    assert Range(1, 64, True, log=True).first(9) == []
    assert Choices({"[8, 4]": [8, 4]}).ends == [[8, 4]]


@pytest.mark.parametrize(
    "value",
    [
        1,
        -3,
        0.1,
        1e-5,
        1.2345678901234567e-07,
        3e22,
        True,
        None,
        "adamw",
        "true",
        "1e-3",
        "it's",
        "end\\",
        "a b",
        "null",
        [8, 4],
        ["cutout", 0.5, None],
    ],
)
def test_what_is_typed_is_read_as_the_same_value(value: Any) -> None:
    read = OverridesParser.create().parse_override(typed("a.b", value)).value()
    assert read == value and type(read) is type(value)


def test_without_optuna_one_sentence(
    gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        "gentrain.tasks.tune.find_spec", lambda name: None if name == "optuna" else found(name)
    )
    done = gentrain(*search)
    assert (done.status, done.err) == (2, 'gentrain: task=tune needs Optuna; pip install "gentrain[tune]"\n')


def test_a_check_imports_no_optuna(search: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('optuna', 'plotly') if m in sys.modules]))\n"
        "from gentrain.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *search, "tune.metric=train/loss"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "[]\n", done.stderr


# ---- trials ------------------------------------------------------------------------------------------


def test_trials_are_ordinary_runs_and_the_median_prunes(gentrain: Command, search: list[str]) -> None:
    more = ["tune.trials=10", "tune.prune_after_trials=2", "tune.sampler=random", "tune.prune_after_steps=3"]
    done = gentrain(*search, *more)
    assert done.status == 0, done.err
    assert [row["number"] for row in rows()] == list(range(10))
    finished: list[dict[int, float]] = []
    for row in rows():
        values = validation(row)
        # The rule, by hand: worse at its best than the median of the finished trials at the same step.
        bad = [
            step
            for step in (4,)
            if len(finished) >= 2
            and min(values[s] for s in values if s <= step) > statistics.median(f[step] for f in finished)
        ]
        assert row["state"] == ("pruned" if bad else "finished"), row
        assert row["step"] == (bad[0] if bad else 6)
        assert row["valid/bits_per_dim"] == values[row["step"]]
        result = json.loads((STUDY / row["run"] / "result.json").read_text())
        assert (result["status"], result["step"]) == (row["state"], row["step"])
        if not bad:
            finished.append(values)
    assert study()["states"]["pruned"] >= 1
    best = min(
        (row for row in rows() if row["state"] == "finished"), key=lambda row: row["valid/bits_per_dim"]
    )
    assert study()["best"]["number"] == best["number"]

    command = study()["best"]["command"]
    assert command in done.out
    assert gentrain(*shlex.split(command)[1:], "run_dir=by_hand").status == 0
    assert_same_run(STUDY / best["run"], Path("by_hand"))

    pruned = next(row for row in rows() if row["state"] == "pruned")
    assert newest(STUDY / pruned["run"])["step"] == pruned["step"]
    gentrain(f"resume={STUDY / pruned['run']}")  # goes on to the end, as if nobody had pruned it
    settings = [part for part in shlex.split(command)[1:] if not part.startswith("optimizer.lr=")]
    gentrain(*settings, f"optimizer.lr={pruned['optimizer.lr']!r}", "run_dir=not_pruned")
    assert_same_run(STUDY / pruned["run"], Path("not_pruned"))


def test_the_page_and_the_comparison(gentrain: Command, search: list[str]) -> None:
    more = ["tune.prune_after_trials=1", "tune.space.model.encoder_blocks={choices: [0, 1]}"]
    done = gentrain(*search, *more)
    assert done.status == 0, done.err
    page = (STUDY / "tune.html").read_text()
    assert page.count("Plotly.newPlot(") == 6
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)=", page), "it needs no network"
    with (STUDY / "trials.csv").open() as file:
        assert (
            file.readline()
            == "number,state,valid/bits_per_dim,step,seconds,optimizer.lr,model.encoder_blocks,run,why\n"
        )
    assert gentrain("task=compare", f"runs={STUDY}").status == 0
    compared = json.loads(Path("compare/compare.json").read_text())["runs"]
    assert sorted(run["status"] for run in compared) == sorted(row["state"] for row in rows())
    assert all(run["problems"] == [] for run in compared)


def test_halving_lets_one_in_so_many_go_on_from_the_first_evaluation() -> None:
    """Worked out by hand: of those who have come so far the best third goes on, the best of fewer than six."""
    settings = SimpleNamespace(pruner="halving", prune_after_steps=0, reduction_factor=3)
    config = {"train": {"eval_every_steps": 500}}
    pruner = _pruner(SimpleNamespace(settings=settings, config=config))  # type: ignore[arg-type]
    trials = optuna.create_study(pruner=pruner)
    seen: list[float] = []
    let_pass = 0
    for value in np.random.default_rng(0).permutation(60).tolist():
        trial = trials.ask()
        trial.report(value, 500)
        seen.append(value)
        passes = value <= sorted(seen)[max(0, len(seen) // 3 - 1)]
        assert trial.should_prune() == (not passes)
        let_pass += passes
        trials.tell(
            trial,
            state=TrialState.COMPLETE if passes else TrialState.PRUNED,
            values=value if passes else None,
        )
    assert let_pass >= 12, "a third, and not only those that were the best of all"


def test_a_failing_trial_is_recorded_and_the_search_goes_on(gentrain: Command, search: list[str]) -> None:
    more = ["tune.sampler=grid", "tune.space.optimizer.lr={choices: [1.0e-3, 1.0e+30]}"]
    done = gentrain(
        *search, *more, "tune.space.model.encoder_blocks={low: 0, high: 1}", "optimizer.warmup_steps=0"
    )
    assert done.status == 0, done.err
    assert sorted((row["optimizer.lr"], row["model.encoder_blocks"]) for row in rows()) == [
        (1e-3, 0), (1e-3, 1), (1e30, 0), (1e30, 1),
    ]  # fmt: skip
    for row in rows():
        assert row["state"] == ("failed" if row["optimizer.lr"] > 1 else "finished")
        assert ("diverged" in row["why"]) == (row["state"] == "failed")
    assert study()["best"]["settings"]["optimizer.lr"] == 1e-3


def test_too_many_failures_in_a_row_stop_the_search(gentrain: Command, search: list[str]) -> None:
    more = ["tune.space.optimizer.lr={low: 1.0e+29, high: 1.0e+30}", "tune.failures_in_a_row=2"]
    done = gentrain(*search, *more, "optimizer.warmup_steps=0")
    assert done.status == 1 and "2 trials in a row have failed" in done.err
    assert [row["state"] for row in rows()] == ["failed", "failed"]


def test_choices_of_groups_lists_and_a_metric_to_maximize(gentrain: Command, search: list[str]) -> None:
    more = [
        "space=none",
        "tune.sampler=grid",
        "tune.trials=9",
        "tune.space.optimizer={choices: [adamw, sgd]}",
        "tune.space.optimizer.lr={choices: [1.0e-3]}",
        "tune.metric=valid/psnr_db",
        "tune.direction=maximize",
        "tune.store=sqlite",
        "tune.pruner=halving",
    ]
    done = gentrain(*search, *more)
    assert done.status == 0, done.err
    assert sorted(row["optimizer"] for row in rows()) == ["adamw", "sgd"]
    assert (STUDY / "study.sqlite").is_file() and not (STUDY / "study.journal").exists()
    best = max(rows(), key=lambda row: row["valid/psnr_db"])
    assert study()["best"]["number"] == best["number"]
    assert gentrain(*shlex.split(study()["best"]["command"])[1:], "run_dir=by_hand").status == 0
    assert_same_run(STUDY / best["run"], Path("by_hand"))


def test_a_figure_that_is_not_measured(gentrain: Command, search: list[str]) -> None:
    done = gentrain(*search, "tune.metric=valid/beauty")
    assert done.status == 2
    assert "valid/beauty is not measured during training of model=vae, which has valid/nats" in done.err


# ---- a study survives its processes -------------------------------------------------------------------------


def test_another_search_is_refused_and_more_trials_are_not(gentrain: Command, search: list[str]) -> None:
    assert gentrain(*search, "tune.trials=1").status == 0
    for change, said in {
        "tune.space.optimizer.lr={low: 1.0e-4, high: 3.0e-2, log: true}": "tune.space.optimizer.lr.high (0.02 -> 0.03)",
        "tune.metric=valid/mse": "tune.metric (valid/bits_per_dim -> valid/mse)",
        "train.max_steps=8": "train.max_steps (6 -> 8)",
        "model.beta=0.5": "model.beta (1.0 -> 0.5)",
        "train.frechet_samples=100": "train.frechet_samples (None -> 100)",
        "tune.store=sqlite": "tune.store (journal -> sqlite)",
    }.items():
        done = gentrain(*search, change)
        assert done.status == 2, change
        assert f"was made with other settings: {said}; choose another tune.name" in done.err
    assert gentrain(*search, "tune.trials=2", "tune.sampler=random", "train.save_every_steps=3").status == 0
    assert len(rows()) == 2
    shown = gentrain(*search, "tune.trials=0")
    assert shown.status == 0 and "step " not in shown.out and "2 finished" in shown.out


def test_other_pictures_are_no_trials_of_this_study(
    gentrain: Command, search: list[str], pictures: Path
) -> None:
    shutil.copytree(pictures, "mine")
    command = [*search, "tune.pruner=none", "tune.sampler=random"]
    assert gentrain(*command, "data.root=mine", "tune.trials=1").status == 0
    Path("mine").rename("moved")
    assert gentrain(*command, "data.root=moved", "tune.trials=2").status == 0, "the same ones elsewhere"
    next(Path("moved").glob("*.png")).unlink()
    done = gentrain(*command, "data.root=moved", "tune.trials=3")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "the pictures of data=folder are not those of the study in study" in done.err
    assert len(rows()) == 2


def test_a_full_disk_is_one_sentence_and_the_search_goes_on(
    gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    command = [*search, "tune.trials=1"]
    with monkeypatch.context() as patch:
        patch.setattr("gentrain.tuning.report.write_atomically", full)
        done = gentrain(*command)
    assert (done.status, done.err.count("\n")) == (1, 1), done.err
    assert "no space left to write study/trials.csv" in done.err
    assert gentrain(*command).status == 0
    assert [len(sessions(row)) for row in rows()] == [1]


def test_a_trial_that_a_person_has_just_resumed_has_not_failed(
    gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise Busy("another process is running in it")

    command = [*search, "tune.trials=1"]
    with monkeypatch.context() as patch:
        patch.setattr("gentrain.training.run.run", busy)
        done = gentrain(*command)
    assert (done.status, done.err) == (2, "gentrain: another process is running in it\n")
    assert gentrain(*command).status == 0
    assert [row["state"] for row in rows()] == ["finished"]


def test_half_a_line_of_another_process_is_joined_to_nothing(tmp_path: Path) -> None:
    """What it leaves in the journal when its disk is full, while this process goes on."""
    file = tmp_path / "study.journal"
    study = optuna.create_study(storage=_open(file), study_name="a")
    with file.open("ab") as opened:
        opened.write(b'{"op_code": 5, "worker_')
    study.ask()
    assert len(optuna.load_study(storage=_open(file), study_name="a").trials) == 1


KILLED = """
import os, signal, sys
from gentrain.training.minimize import Minimize
original, calls = Minimize.train_step, 0
def train_step(self, next_batch, step):
    global calls
    calls += 1
    if calls == 10: os.kill(os.getpid(), signal.SIGKILL)
    return original(self, next_batch, step)
Minimize.train_step = train_step
from gentrain.cli import main
main()
"""


def check_gone_on_with(gentrain: Command, command: list[str], from_step: int) -> None:
    """Of three trials the second was interrupted: the same command ends as if that had never been."""
    again = gentrain(*command)
    assert again.status == 0, again.err
    assert "trial 1 of 3 goes on" in again.out
    assert [row["state"] for row in rows()] == ["finished"] * 3
    assert [[s["start_step"] for s in sessions(row)] for row in rows()] == [[0], [0, from_step], [0]]
    for row in rows():
        alone = optuna.create_study(
            sampler=RandomSampler(seed=derive(0, "tune", row["number"]) % 2**32)
        ).ask()
        drawn = alone.suggest_float("optimizer.lr", 1e-4, 2e-2, log=True)
        assert row["optimizer.lr"] == drawn, "a function of (seed, number), whichever process draws"
    lr = rows()[1]["optimizer.lr"]
    by_hand = [part for part in command if not part.startswith(("task=", "tune."))]
    assert gentrain(*by_hand, f"optimizer.lr={lr!r}", "run_dir=by_hand").status == 0
    assert_same_run(STUDY / rows()[1]["run"], Path("by_hand"))


def test_a_killed_trial_is_gone_on_with(gentrain: Command, search: list[str]) -> None:
    command = [*search, "tune.sampler=random", "tune.pruner=none", "tune.trials=3"]
    child = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    check_gone_on_with(gentrain, command, from_step=2)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_trial(
    number: signal.Signals, status: int, gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*search, "tune.sampler=random", "tune.pruner=none", "tune.trials=3"]
    original, calls = Minimize.train_step, itertools.count(1)

    def train_step(self: Minimize, next_batch: Any, step: int) -> Any:
        if next(calls) == 10:
            os.kill(os.getpid(), number)
        return original(self, next_batch, step)

    monkeypatch.setattr(Minimize, "train_step", train_step)
    done = gentrain(*command)
    assert done.status == status and "the search goes on, this trial too, with the same command" in done.out
    check_gone_on_with(gentrain, command, from_step=4)


def test_a_look_at_the_study_says_how_far_a_killed_trial_has_come(
    gentrain: Command, search: list[str]
) -> None:
    """Before its first evaluation only its checkpoints know: the study has not been told a thing."""
    command = [*search, "tune.pruner=none", "tune.trials=3", "train.eval_every_steps=null"]
    child = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    looked = gentrain(*search, "tune.pruner=none", "tune.trials=0", "train.eval_every_steps=null")
    assert looked.status == 0, looked.err
    assert [(row["state"], row["step"]) for row in rows()] == [("finished", 6), ("interrupted", 2)]
    with (STUDY / "trials.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["6", "2"]


class Killed(BaseException):
    """Stands for SIGKILL where only what is on disk matters: nothing catches it."""


def test_killed_while_the_study_is_made(
    gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("gentrain.tuning.store.optuna.create_study", die)
        gentrain(*search)
    assert gentrain(*search, "tune.trials=1").status == 0
    assert [row["state"] for row in rows()] == ["finished"]


def test_killed_between_the_end_of_a_run_and_the_study(
    gentrain: Command, search: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunDir, "write_result", die)
        gentrain(*search)
    with (STUDY / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 5, "worker_')  # half a line, as a full disk leaves it
    done = gentrain(*search, "tune.trials=1")
    assert done.status == 0, done.err
    assert [(row["state"], row["step"]) for row in rows()] == [("finished", 6)]
    assert len(sessions(rows()[0])) == 1, "nothing was trained twice"
    assert json.loads((STUDY / rows()[0]["run"] / "result.json").read_text())["status"] == "finished"


def test_two_processes_share_a_study(gentrain: Command, search: list[str]) -> None:
    """At once, one of them killed: the other goes on with its trial, and the number of trials is exact."""
    command = [*search, "tune.trials=6", "tune.pruner=none"]
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    other = subprocess.run(
        [sys.executable, "-m", "gentrain", *command], capture_output=True, text=True, env=os.environ
    )
    assert other.returncode == 0, other.stderr
    killed.communicate(timeout=60)
    assert gentrain(*command).status == 0  # for what the killed one may have left at the very end
    assert [row["number"] for row in rows()] == list(range(6))
    assert {row["state"] for row in rows()} == {"finished"}
    assert len({row["optimizer.lr"] for row in rows()}) == 6, "no two processes draw the same"
    assert len(list(STUDY.glob("trial_*"))) == 6
    starts = [[s["start_step"] for s in sessions(row)] for row in rows()]
    assert sum(len(steps) > 1 for steps in starts) <= 1, "only what was killed is begun twice"
    assert all(math.isfinite(row["valid/bits_per_dim"]) for row in rows())


def test_models_without_a_headline_in_common() -> None:
    assert headline(["vae", "pixelcnn"]) == "valid/bits_per_dim"
    with pytest.raises(UserError, match=r"no headline in common \(vae valid/bits_per_dim, ae valid/mse\)"):
        headline(["vae", "ae"])
