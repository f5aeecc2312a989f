"""Sweeps that survive: names, what the same command does again, and failures that stop nothing else."""

from __future__ import annotations

import errno
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any

import filelock
import pytest
from conftest import Command
from families import FAMILIES, assert_same_run
from hydra.core.override_parser.overrides_parser import OverridesParser

from gentrain import cli
from gentrain.comparison.comparison import collect
from gentrain.config import compose
from gentrain.config.overrides import quoted
from gentrain.config.schema import NO_OTHER_RESULT, OF_THE_RECORD, flat, under
from gentrain.runs import checkpoint
from gentrain.runs.rundir import RunDir
from gentrain.sweeps import state as states
from gentrain.sweeps.jobs import Launch, _why
from gentrain.sweeps.naming import Job, digest, identity, job_name, readable, sweep_folder
from gentrain.sweeps.sweep import Sweep, _launch, _threads

VAE = FAMILIES["vae"]


def rows(folder: str | Path = "sweep") -> list[dict[str, Any]]:
    return json.loads((Path(folder) / "sweep.json").read_text())["jobs"]


def starts(run: str | Path) -> list[int]:
    """The step from which each session of a run has trained."""
    return [
        session["start_step"] for session in json.loads((Path(run) / "meta.json").read_text())["sessions"]
    ]


def trained(run: str | Path) -> list[int]:
    """The steps in its curves of training."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "train/loss" in line]


# ---- names


NASTY = [
    "../../../etc/passwd",
    "..",
    "/",
    "/abs/olute",
    "a\0b",
    "~root/x",
    "x" * 5000,
    "日本語/ünïcode",
    "\u202egnp.exe",
    "a\nb\tc",
    "con:|?*<>\"'",
    "$(touch me)`id`",
    "",
    ".hidden",
    "-rf",
]


@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_a_value_plays_no_tricks_with_paths(value: str) -> None:
    code = digest({"data.root": value})
    for name in (job_name({"data.root": value}, code), job_name({"a.b": value, value: "x"}, code)):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*-[0-9a-f]{16}", name), name
        assert ".." not in name
        assert len(name) <= 80
        assert (Path("sweep") / name).resolve().parent == Path("sweep").resolve()


def test_values_that_read_alike_have_other_names() -> None:
    names = {
        job_name({"x": value}, digest({"x": value})).lower() for value in ("a/b", "a_b", "a b", "A b", "a\0b")
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    "text", ["plain", "it's", "a\\'b", "end\\", "a,b=[c]{d}", 'say "x"', "日本 語", "\\\\'\\"]
)
def test_a_folder_of_any_name_is_one_value_to_hydra(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"run_dir={quoted(text)}"])
    assert parsed.value() == text
    assert not parsed.is_sweep_override()


def test_what_a_job_is(tmp_path: Path) -> None:
    """Everything that a config has, but where it lies and what the table says makes no other result."""
    with compose.engine(None):
        config = compose.compose_again(["model=gan", "data=folder", f"data.root={tmp_path}"])
    code = digest(identity(config, []))
    for key in flat(config):
        section, _, name = key.rpartition(".")
        other = (
            {**config, section: {**config[section], name: "other"}} if section else {**config, key: "other"}
        )
        same = under(key, ("run_dir", "sweep_dir", *NO_OTHER_RESULT))
        assert (digest(identity(other, [])) == code) is same, key
        assert digest(identity(other, [key])) != digest(identity(config, [key])), key
        rolls = {**other, "train": {**other["train"], "on_alarm": "rollback"}}
        if key in OF_THE_RECORD:  # a rollback goes back to what was saved and kept
            assert digest(identity(rolls, [])) != digest(
                identity({**rolls, "train": {**config["train"], "on_alarm": "rollback"}}, [])
            ), key


def test_a_job_is_the_same_while_its_pictures_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    away = identity({"data": {"root": "pictures", "repo": "someone/faces"}}, [])
    Path("pictures").mkdir()
    there = identity({"data": {"root": "pictures", "repo": "someone/faces"}}, [])
    assert away == there == {"data.root": str(tmp_path / "pictures"), "data.repo": "someone/faces"}


def test_the_folder_is_that_of_the_jobs_in_any_order() -> None:
    one = sweep_folder(None, ["optimizer.lr", "seed"], ["b", "a"])
    assert one == sweep_folder(None, ["optimizer.lr", "seed"], ["a", "b"])
    assert one != sweep_folder(None, ["optimizer.lr", "seed"], ["a", "c"])
    assert one.parent == Path("outputs/sweeps")
    assert one.name.startswith("lr_seed-")
    assert readable(["a" * 100]) == "a" * 60


# ---- the command


MISTAKES = {
    "no sweep": (["sweep_dir=x"], "sweep_dir= has no meaning here"),
    "the same job twice": (["-m", "seed=1,1"], "two jobs of this sweep are the same (seed=1)"),
    "the same number twice": (["-m", "optimizer.lr=1e-3,0.001"], "two jobs of this sweep are the same"),
    "hydra's own folder": (["-m", "seed=1,2", "hydra.sweep.dir=x"], "name the folder of a sweep with sweep_dir="),
    "no SLURM": (["-m", "seed=1,2", "hydra/launcher=slurm"], "finds no srun here"),
    "a launcher's typo": (["-m", "seed=1,2", "hydra/launcher=parallel", "hydra.launcher.njobs=2"], "njobs"),
    "no end of values": (["-m", "optimizer.lr=interval(1e-4,1e-2)"], "is no list of values; list them, or search with task=tune"),
    "an unknown launcher": (["-m", "seed=1,2", "hydra/launcher=paralel"], "paralel"),
    "no job at a time": (["-m", "seed=1,2", "hydra/launcher=parallel", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0 is not possible; it must be how many jobs run at a time"),
    "jobs in words": (["-m", "seed=1,2", "hydra/launcher=parallel", "hydra.launcher.n_jobs=two"], "hydra.launcher.n_jobs=two is not possible"),
    "a name too long": (["-m", "seed=1,2", f"sweep_dir={'x' * 300}"], "cannot be used: File name too long"),
    "two tasks, one run": (["-m", "task=train", "seed=1,2", "run_dir=x"], "two jobs of this sweep have run_dir=x"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, gentrain: Command) -> None:
    arguments, sentence = MISTAKES[mistake]
    outcome = gentrain(*arguments)
    assert outcome.status == 2, outcome.err
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "setting",
    ["+hydra.launcher.setup=[touch sentinel]", "+hydra.launcher.teardown=[touch sentinel]",
     "hydra.launcher.comment='x\ntouch sentinel\n'",
     "+hydra.launcher.additional_parameters.x='y\ntouch sentinel\n'"],
)  # fmt: skip
def test_a_setting_gets_no_command_into_a_job(setting: str, gentrain: Command) -> None:
    outcome = gentrain("-m", "seed=1,2", "hydra/launcher=slurm", setting)
    assert outcome.status == 2
    assert "is refused: it would put commands into the script of a job" in outcome.err


@pytest.mark.parametrize(
    ("launcher", "package", "extra"),
    [
        ("parallel", "hydra_joblib_launcher", "gentrain[parallel]"),
        ("slurm", "hydra_submitit_launcher", "gentrain[slurm]"),
        ("slurm_nodes", "hydra_submitit_launcher", "gentrain[slurm]"),
    ],
)
def test_an_extra_that_is_not_installed(
    launcher: str, package: str, extra: str, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if package in name else found(name, *more)
    )
    outcome = gentrain("-m", "seed=1,2", f"hydra/launcher={launcher}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert f"pip install '{extra}'" in outcome.err


def test_a_preset_for_sweeps_may_name_their_folder(gentrain: Command, tmp_path: Path) -> None:
    """Each job in a process of its own is a command that composes the preset, too."""
    preset = tmp_path / "it's mine/experiment/wide.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\nsweep_dir: wide\n")
    mine = str(tmp_path / "it's mine")
    sweep = cli.check_jobs(["experiment=wide", "seed=1,2"], multirun=True, config_dir=mine).sweep
    assert sweep is not None and sweep.folder == Path("wide")
    for job in sweep.jobs:
        again = cli.check_jobs([*job.overrides, "hydra.mode=RUN"], multirun=False, config_dir=mine)
        assert again.sweep is None
        assert again.config == {**job.config, "sweep_dir": "wide"}


def test_a_glob_is_every_choice_that_fits() -> None:
    sweep = cli.check_jobs(["model=glob(p*)"], multirun=True, config_dir=None).sweep
    assert sweep is not None
    assert [job.settings["model"] for job in sweep.jobs] == ["pixelcnn", "pixelrnn"]


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_starts_without_launchers(flag: str, tmp_path: Path) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted({'joblib', 'submitit', 'ray', 'torch'} & set(sys.modules))))\n"
        "from gentrain.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def in_a_fork(arguments: list[str], number: int, at_step: int, what: signal.Signals) -> int:
    """The command in a copy of this process, which sends itself a signal in that step of its nth job; its status."""

    def child() -> None:
        from gentrain.training.minimize import Minimize

        original, current, jobs = Minimize.train_step, Launch.current, []

        def counted(launch: Launch) -> Job:
            jobs.append(current(launch))
            return jobs[-1]

        def train_step(self: Minimize, next_batch: Any, step: int) -> Any:
            if (len(jobs), step) == (number, at_step):
                os.kill(os.getpid(), what)
            return original(self, next_batch, step)

        Launch.current, Minimize.train_step = counted, train_step  # type: ignore[method-assign]
        sys.argv = ["gentrain", *arguments]
        cli.main()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def test_eight_jobs_two_killed_one_diverging(gentrain: Command, tiny: list[str]) -> None:
    """The sweep's process is killed in the third job, again in the sixth; the same command ends it."""
    values = "1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,1e-2,1e30"
    command = ["-m", *tiny, *VAE, "train.grad_clip=null", "optimizer=sgd", "train.sample_every_steps=null",
               f"optimizer.lr={values}", "sweep_dir=sweep"]  # fmt: skip
    for number in (3, 4):  # of those that are left: the killed one is the first of them
        assert in_a_fork(command, number, 3, signal.SIGKILL) == -signal.SIGKILL
    before = {row["name"]: row for row in rows()}
    assert len(before) == 8

    ended = gentrain(*command)
    assert ended.status == 1
    statuses = [row["status"] for row in rows()]
    assert statuses == ["finished"] * 7 + ["failed"]
    assert [starts(row["run"]) for row in rows()] == [[0], [0], [0, 2], [0], [0], [0, 2], [0], [0]]
    assert all(trained(row["run"]) == [1, 2, 3, 4, 5, 6] for row in rows()[:7]), "each step once"
    assert ended.out.count("already finished at step 6") == 5
    assert "7 of 8 jobs finished" in ended.out
    assert "training diverged at step" in rows()[7]["error"]

    again = gentrain(*command)
    assert again.status == 1
    assert again.out.count("already finished at step 6") == 7
    assert [starts(row["run"]) for row in rows()] == [[0], [0], [0, 2], [0], [0], [0, 2], [0], [0]]
    (attempt,) = rows()[7]["earlier_attempts"]  # what had failed began anew, and the failed run is kept
    assert starts(Path("sweep") / attempt) == [0]

    # A job is the same whether it ran in a sweep, killed and gone on with, or alone.
    alone = [text for text in command[1:] if not text.startswith(("optimizer.lr", "sweep_dir"))]
    gentrain(*alone, "optimizer.lr=5e-4", "run_dir=alone")
    assert_same_run(Path("alone"), Path(rows()[2]["run"]))

    assert gentrain("task=compare", "runs=sweep").status == 0
    comparison = collect(["sweep"], 4)
    assert len(comparison.runs) == 8
    ((folder, words),) = comparison.groups
    assert (folder, words.split()[:2]) == ("sweep", ["gentrain", "-m"])


def test_any_exception_is_one_jobs_own(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gentrain.training import trainer

    original = trainer.seed_step

    def broken(seed: int, *purpose: Any) -> None:
        if seed == 2:
            raise ValueError("our bug")
        original(seed, *purpose)

    monkeypatch.setattr(trainer, "seed_step", broken)
    command = ["-m", *tiny, *VAE, "train.max_steps=1", "seed=1,2,3", "device.threads=2"]
    outcome = gentrain(*command)
    assert outcome.status == 1
    assert "Traceback" in outcome.err
    assert "our bug" in outcome.err
    (folder,) = Path("outputs/sweeps").iterdir()
    assert folder.name.startswith("seed-")
    assert [row["status"] for row in rows(folder)] == ["finished", "failed", "finished"]
    assert rows(folder)[1]["error"] == "ValueError: our bug"
    monkeypatch.undo()


def test_a_job_that_found_the_disk_full_goes_on(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed, but nothing is wrong with its run: what it had reached is not thrown away."""
    original, once = checkpoint.write_atomically, iter([True])

    def write(path: Path, *content: bytes) -> None:
        if path.name == "step_00000004.pt" and next(once, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, *content)

    monkeypatch.setattr(checkpoint, "write_atomically", write)
    command = ["-m", *tiny, *VAE, "seed=1,2", "sweep_dir=sweep"]
    assert gentrain(*command).status == 1
    assert [row["status"] for row in rows()] == ["failed", "finished"]
    assert "no space left" in rows()[0]["error"]
    assert gentrain(*command).status == 0
    assert [starts(row["run"]) for row in rows()] == [[0, 2], [0]]
    assert rows()[0]["earlier_attempts"] == []


def test_what_cannot_be_noted_stops_nothing(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for module in ("state", "report"):
        monkeypatch.setattr(f"gentrain.sweeps.{module}.write_atomically", full)
    done = gentrain("-m", *tiny, *VAE, "train.max_steps=1", "seed=1,2", "sweep_dir=sweep")
    assert (done.status, "2 of 2 jobs finished" in done.out) == (0, True), done.err
    assert "gentrain: no space left to write sweep/sweep.json" in done.err
    assert "Traceback" not in done.err


def test_why_a_job_failed_is_said_by_its_last_session(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("gentrain: training diverged at step 5\n")
    with (tmp_path / "log").open("ab") as log:
        before = log.tell()
        log.write(b"Traceback (most recent call last):\nValueError: our bug\n")
        log.flush()
        assert _why(1, log, before) == "ValueError: our bug"
        log.write(b"gentrain: out of memory\nand more\n")
        log.flush()
        assert _why(1, log, before) == "out of memory"
        assert _why(-9, log, before) == "killed by SIGKILL"


def test_ctrl_c_saves_the_running_job_and_the_same_command_goes_on(
    gentrain: Command, tiny: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *tiny, *VAE, "seed=1,2,3", "sweep_dir=sweep"]
    assert in_a_fork(command, 2, 3, signal.SIGTERM) == 143
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert [row["status"] for row in rows()] == ["finished", "interrupted", "not started"]
    assert "1 of 3 jobs finished" in out
    assert gentrain(*command).status == 0
    assert [starts(row["run"]) for row in rows()] == [[0], [0, 4], [0]]
    assert gentrain(*command).status == 0, "nothing left to do"
    more = gentrain(*[text for text in command if not text.startswith("seed")], "seed=3,4,2")
    assert more.out.count("already finished") == 2, (
        "jobs are known in a named folder, whatever else is asked for"
    )
    assert len(rows()) == 4


def test_a_job_that_another_process_runs_is_left_to_it(gentrain: Command, tiny: list[str]) -> None:
    command = ["-m", *tiny, *VAE, "train.max_steps=2", "seed=1,2", "sweep_dir=sweep"]
    assert gentrain(*command).status == 0
    first = Path(rows()[0]["run"])
    (first / "result.json").unlink()  # as while it runs
    with filelock.FileLock(first / ".lock"):
        outcome = gentrain(*command)
    assert outcome.status == 0
    assert "running in another process" in outcome.out
    assert [row["status"] for row in rows()] == ["running", "finished"]


def test_a_look_at_a_run_keeps_nobody_out(tmp_path: Path) -> None:
    """Who asks whether a directory is locked has its lock for a moment."""
    look = filelock.FileLock(tmp_path / ".lock", thread_local=False)
    look.acquire()
    Timer(0.05, look.release).start()
    run = RunDir(tmp_path)
    run.lock()
    assert states.locked(tmp_path)
    run.unlock()
    assert not states.locked(tmp_path)


def test_what_has_failed_before_it_could_go_on_keeps_what_it_had(tmp_path: Path) -> None:
    """Only a run that has failed itself begins anew; one whose pictures were away goes on."""
    job = Job("seed-1-0123456789abcdef", (), {"seed": "1"}, tmp_path / "seed-1-0123456789abcdef", True)
    assert states.read_state(tmp_path, job).status == "not started"
    states.write_record(tmp_path, job, "failed", 1.5, "no pictures")
    states.write_record(tmp_path, job, "failed", 2.0, "no pictures")
    state = states.read_state(tmp_path, job)
    assert (state.status, state.seconds, state.error, state.spent) == ("failed", 3.5, "no pictures", False)
    run = tmp_path / job.name
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/step_00000007.pt").touch()
    (run / "config.yaml").touch()
    state = states.read_state(tmp_path, job)
    assert (state.status, state.step, state.spent) == ("failed", 7, False)
    assert states.set_aside(tmp_path, job) is None
    (run / "result.json").write_text('{"status": "failed", "step": 9, "metrics": {}}')
    assert states.read_state(tmp_path, job).spent
    with filelock.FileLock(run / ".lock"):
        assert states.set_aside(tmp_path, job) is None
    put = states.set_aside(tmp_path, job)
    assert put is not None and (put / "checkpoints/step_00000007.pt").is_file()
    assert json.loads((put / "job.json").read_text())["error"] == "no pictures"
    assert states.read_state(tmp_path, job).status == "not started"
    assert states.earlier(tmp_path, job) == [put]
    put.rename(put.with_suffix(".2"))  # as if of two earlier attempts the first had been deleted
    run.mkdir()
    (run / "result.json").write_text('{"status": "failed", "step": 1, "metrics": {}}')
    assert states.set_aside(tmp_path, job) == put.with_suffix(".3")


def test_tasks_on_runs_sweep_as_before(gentrain: Command, tiny: list[str]) -> None:
    """Each time anew; in the directories of the runs."""
    for name in ("a", "b"):
        gentrain(*tiny, *VAE, "train.max_steps=1", f"run_dir={name}")
    command = ["-m", "task=sample", "run=a,b", "sample.count=2"]
    for _ in range(2):
        outcome = gentrain(*command)
        assert outcome.status == 0, outcome.err
        assert "2 of 2 jobs finished" in outcome.out
    assert Path("a/sample/grid.png").is_file() and Path("b/sample/grid.png").is_file()
    longer = gentrain("-m", "resume=a,b", "train.max_steps=2", "sweep_dir=more")
    assert longer.status == 0, longer.err
    assert [(row["run"], row["step"]) for row in rows("more")] == [("a", 2), ("b", 2)]
    assert json.loads(Path("more/sweep.json").read_text())["command"].startswith("gentrain -m resume=a,b ")


# ---- side by side


def test_jobs_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    expected = {(2, 8): "4", (3, 8): "2", (-1, 3): "2", (-1, 100): "1", (16, 100): "1", (4, 1): "8"}
    for (asked, jobs), threads in expected.items():
        assert _threads({"n_jobs": asked}, jobs)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _threads({"n_jobs": 2}, 8) == {}, "the user has said how many"


def test_what_is_left_of_a_sweep_has_the_threads_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's bits depend on them: one that goes on alone must not take all processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launched: list[Launch] = []
    monkeypatch.setattr(
        "gentrain.sweeps.sweep._with_hydra",
        lambda _sweep, _jobs, carry_out: launched.append(*carry_out.args),
    )
    jobs = tuple(Job(f"seed-{n}", (), {"seed": str(n)}, tmp_path / str(n), True) for n in range(4))
    launcher = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": 2}
    for left in (jobs, jobs[3:]):
        _launch(Sweep(tmp_path, jobs, (), (), launcher), left, lambda *_: None)
    assert [launch.environment["OMP_NUM_THREADS"] for launch in launched] == ["4", "4"]


# The run with seed 1 is killed in step 4; that with seed 2 tells the sweep's process (SWEEP) to stop in step 3.
ONE_DIES = """
import os, signal, sys, time
from pathlib import Path
if any(argument.startswith("run_dir=") for argument in sys.orig_argv):
    from gentrain.training.minimize import Minimize
    original, once = Minimize.train_step, Path(os.environ["ONCE"])
    def train_step(self, next_batch, step):
        if step == 3 and "seed=1" in sys.orig_argv and not (once / "1").exists():
            (once / "1").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 3 and "seed=2" in sys.orig_argv and not (once / "2").exists():
            (once / "2").touch()
            os.kill(int((once / "pid").read_text()), signal.SIGINT)
            time.sleep(1)
        return original(self, next_batch, step)
    Minimize.train_step = train_step
"""


def test_jobs_side_by_side_outlive_a_kill_and_stop_together(
    gentrain: Command, tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ONE_DIES)
    command = [
        "-m",
        "hydra/launcher=parallel",
        "hydra.launcher.n_jobs=1",
        *tiny,
        *VAE,
        "seed=1,2",
        "sweep_dir=sweep",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "gentrain", *command],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "ONCE": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "pid").write_text(str(child.pid))
    out, _ = child.communicate(timeout=300)
    assert child.returncode == 130, out
    assert [row["status"] for row in rows()] == ["killed", "interrupted"]
    assert rows()[0]["error"] == "killed by SIGKILL"
    assert [row["step"] for row in rows()] == [2, 4]
    # Finished by the launcher of one process: the same jobs.
    done = gentrain(*[text for text in command if "hydra" not in text])
    assert done.status == 0, done.err
    assert [starts(row["run"]) for row in rows()] == [[0, 2], [0, 4]]


def test_a_run_that_is_about_to_begin_in_another_process_is_running(tmp_path: Path) -> None:
    """It has its directory and its lock, and no config.yaml yet: a sweep typed twice at once sees it so."""
    job = states.Job("one", (), {}, tmp_path / "one", True, {})
    assert job.directory is not None
    job.directory.mkdir()
    states.write_record(tmp_path, job, states.RUNNING, 0.0, None)
    assert states.read_state(tmp_path, job).status == states.KILLED
    run = RunDir(job.directory)
    run.lock()
    assert states.read_state(tmp_path, job).status == states.RUNNING
    run.unlock()
    assert states.read_state(tmp_path, job).status == states.KILLED
