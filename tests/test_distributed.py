"""Several processes train one run: as one process would, under one name, and they end together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
from conftest import Command
from families import FAMILIES, assert_same_run, curves, newest

from gentrain.config import compose
from gentrain.runtime import distributed, ranks, seeding, signals
from gentrain.runtime.device import set_up
from gentrain.runtime.distributed import shard
from gentrain.runtime.ranks import shard_rows
from gentrain.runtime.signals import StopRequest
from gentrain.training.build import make_learner

ROOT = Path(__file__).resolve().parent.parent
VAE = FAMILIES["vae"]
Rows = dict[str, dict[str, float]]  # of a table, by the case's name
Agreement = dict[str, Rows]  # by precision


# ---- two processes against one


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    """What scripts/processes_agree.py prints: two processes against one, all families, float32 and float64."""
    script = ROOT / "scripts/processes_agree.py"
    done = subprocess.run(
        [sys.executable, script, "--steps", "3", "--json"], capture_output=True, text=True, env=_environment()
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def without_batch_statistics(rows: Rows) -> Rows:
    return {case: row for case, row in rows.items() if "batch statistics" not in case}


def test_every_family_is_compared(agreement: Agreement) -> None:
    assert {case.split(",")[0] for case in agreement["float64"]} == FAMILIES.keys()


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("float64", 1e-9)])
def test_two_processes_train_as_one(precision: str, most: float, agreement: Agreement) -> None:
    for case, row in without_batch_statistics(agreement[precision]).items():
        assert row["loss"] < most, (case, row)
        assert row["same_names"], case
        if precision == "float64":  # in float32 a picture may be told rightly in one and wrongly in the other
            assert row["metrics"] < most, (case, row)


def test_weights_figures_and_samples_are_those_of_one_process(
    agreement: Agreement,
) -> None:
    """In float64, for Adam's first steps are signs of gradients: what is rounding in these is not in weights."""
    for case, row in without_batch_statistics(agreement["float64"]).items():
        assert row["weights"] < 1e-7, (case, row)
        assert row["figures"] < 1e-7, (case, row)
        assert row["sample_values_that_differ"] == 0, (case, row)


def test_weights_are_equal_bit_for_bit_in_all_processes(
    agreement: Agreement,
) -> None:
    for rows in agreement.values():
        assert all(row["equal_in_all"] for row in rows.values())
        assert sum("batch statistics" in case for case in rows) == 1


# ---- how work is dealt out, without processes


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    values = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "x", "MASTER_PORT": 1}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("batch", "parts", "world"), [(24, 1, 4), (24, 2, 3), (10, 3, 2), (16, 8, 2)])
def test_each_row_of_a_batch_is_one_process_s(
    batch: int, parts: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        rows.append(torch.tensor(shard_rows(batch, parts)))
    assert sorted(torch.cat(rows).tolist()) == list(range(batch))
    # Part by part, what the processes have together is the next stretch of the batch.
    taken = 0
    for dealt in zip(*(mine.tensor_split(parts) for mine in rows), strict=True):
        together = torch.cat(dealt).tolist()
        assert together == list(range(taken, taken + len(together)))
        taken += len(together)


def test_noise_is_that_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    def draws(n: int) -> list[torch.Tensor]:
        seeding.seed_step(3, "train", 7)
        return [
            seeding.normal_noise((n, 5), None, torch.empty(0)),
            seeding.whole_numbers(-2, 3, (n, 1), None, cpu),
            seeding.normal_noise_like(torch.empty(n, 2, 3, 3)),
        ]

    alone = draws(12)
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        for whole, mine in zip(alone, draws(4), strict=True):
            assert torch.equal(mine, whole[4 * rank : 4 * rank + 4])


def test_dropout_differs_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        seeding.seed_step(0, "train", 0)
        masks.append(torch.nn.functional.dropout(torch.ones(64)))
    assert not torch.equal(masks[0], masks[1])


def test_a_generator_s_noise_is_left_alone_but_for_the_rows_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_rank(monkeypatch, 1, 2)
    whole = torch.randn(7, 3, generator=seeding.generator(1, "x"))
    assert torch.equal(seeding.normal_noise((7, 3), seeding.generator(1, "x"), whole), whole)
    with seeding.rows_of(7, slice(3, 7)):
        assert torch.equal(seeding.normal_noise((4, 3), seeding.generator(1, "x"), whole), whole[3:])


def test_pieces_of_work_are_dealt_out_with_as_many_turns_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        dealt.append(shard(["a", "b", "c", "d"]))
    assert dealt == [[(0, "a"), (3, "d")], [(1, "b"), (4, None)], [(2, "c"), (5, None)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_of_few_pictures_some_processes_draw_none(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with hydra.initialize_config_dir(str(compose.CONFIG_DIR), version_base="1.3"):
        config = compose.plain(
            hydra.compose("config", [*FAMILIES[family], "data=folder", "data.size=8", "device=cpu"])
        )
    learner = make_learner(config, set_up(config["device"]))
    monkeypatch.setattr(distributed, "all_gather_rows", lambda rows: rows)
    counts = []
    for rank in range(4):
        as_rank(monkeypatch, rank, 4)
        drawn = distributed.sample(learner.sample, 3, seeding.image_streams(3, 0, "sample"))
        assert (drawn.dtype, drawn.shape[1:]) == (torch.uint8, (3, 8, 8))
        counts.append(len(drawn))
    assert counts == [0, 1, 1, 1]


def test_processes_ask_each_other_every_half_second_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0, 2)
    now, asked = 0.0, 0

    def largest(*numbers: float) -> list[float]:
        nonlocal asked
        asked += 1
        return list(numbers)

    def steps_that_ask(count: int, seconds: float) -> list[int]:
        nonlocal now
        found = []
        for step in range(1, count + 1):
            now, before = now + seconds, asked
            stop.agree_after_step()
            found += [step] * (asked - before)
        return found

    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(signals, "all_reduce_max", largest)
    stop = StopRequest()
    assert steps_that_ask(22, 0.09) == [1, 3, 7, 12, 17, 22]
    for _ in range(3):  # the batches of an evaluation, which are faster than steps
        now += 0.001
        stop.agree()
    assert steps_that_ask(3, 2.0) == [1, 2, 3]


# ---- mistakes


def test_a_mistake_is_said_by_rank_0(
    gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, 0, 3)
    told = gentrain(*tiny, *VAE, "run_dir=run")
    assert told.status == 2
    assert told.err == (
        "gentrain: train.batch_size=8 is over all processes and cannot be split evenly among 3; take a "
        "multiple of 3, such as train.batch_size=6\n"
    )
    assert not Path("run").exists()
    assert (
        "train.accumulate_steps=4"
        in gentrain(*tiny, *VAE, "train.batch_size=9", "train.accumulate_steps=4").err
    )
    assert "task=sample is for one process; torchrun starts 3" in gentrain("task=sample", "run=run").err
    sweep = gentrain("-m", *tiny, *VAE, "seed=1,2").err
    assert "a sweep (-m) is for one process, and torchrun has started 3" in sweep
    assert "hydra/launcher=slurm_nodes" in sweep


def test_the_others_are_silent_while_rank_0_has_time_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", waited.append)
    as_rank(monkeypatch, 0, 2)
    assert ranks.may_speak() and not waited
    as_rank(monkeypatch, 1, 2)
    assert ranks.may_speak() and waited == [10.5]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE=two in the environment is no whole number"),
        ("MASTER_PORT", "http", "MASTER_PORT=http in the environment is no whole number"),
        ("RANK", "2", "RANK=2 in the environment is not among WORLD_SIZE=2 processes"),
    ],
)
def test_variables_that_make_no_sense(
    name: str, value: str, said: str, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, 0, 2)
    monkeypatch.setenv(name, value)
    told = gentrain("model=vae")
    assert (told.status, told.err) == (2, f"gentrain: {said}\n")


@pytest.mark.parametrize("missing", ["RANK", "MASTER_PORT"])
def test_without_all_five_variables_a_process_is_alone(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 1, 2)
    assert (ranks.rank(), ranks.world_size()) == (1, 2)
    monkeypatch.delenv(missing)
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)


# ---- the command


def _environment(**more: object) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | {name: str(value) for name, value in more.items()}


def two_processes(*arguments: str, before: str = "") -> list[subprocess.CompletedProcess[str]]:
    """`gentrain arguments` as ranks 0 and 1, in each of which the code `before` is run first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        f"import os, signal\nrank = int(os.environ['RANK'])\n{before}\nfrom gentrain.cli import main\nmain()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=_environment(
                RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = []
    try:
        for child in children:
            out, err = child.communicate(timeout=120)
            done.append(subprocess.CompletedProcess(child.args, child.returncode, out, err))
    finally:
        for child in children:
            child.kill()  # if one hangs
    return done


# Rank 1 sends itself a signal in its step after `step` others.
SIGNALLED = """
from gentrain.training.minimize import Minimize
original = Minimize.train_step
def train_step(self, next_batch, step):
    if step == {step} and rank == 1: os.kill(os.getpid(), signal.{name})
    return original(self, next_batch, step)
Minimize.train_step = train_step
"""
# A gradient of rank 1 alone is not finite in the third step: what is averaged is not finite in both.
DIVERGES = """
from gentrain.models.vae import VAE
loss_of, broken = VAE.train_loss, [step for step in (2,) if rank == 1]
def train_loss(self, x, step):
    loss, figures = loss_of(self, x, step)
    return (loss * float('nan') if step in broken and not broken.remove(step) else loss), figures
VAE.train_loss = train_loss
"""


@pytest.fixture
def whole(gentrain: Command, tiny: list[str]) -> list[str]:
    """A run by one process, in the folder "whole", and its settings."""
    settings = [*tiny, *VAE, "optimizer.schedule=constant"]
    assert gentrain(*settings, "run_dir=whole").status == 0
    return settings


def assert_close_runs(left: Path, right: Path) -> None:
    one, other = newest(left), newest(right)
    assert one["step"] == other["step"]
    for part in ("model", "ema"):
        for name, value in one["parts"][part].items():
            assert torch.allclose(value.double(), other["parts"][part][name].double(), atol=1e-4), name
    for first, second in zip(curves(left), curves(right), strict=True):
        assert first.keys() == second.keys()
        for tag, value in first.items():
            assert second[tag] == pytest.approx(value, rel=1e-4), (first["step"], tag)
    assert one["best"]["step"] == other["best"]["step"]


def test_torchrun_goes_on_with_two_where_one_has_begun(whole: list[str], gentrain: Command) -> None:
    assert gentrain(*whole, "train.max_steps=2", "run_dir=run").status == 0
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "gentrain",
            "resume=run",
            "train.max_steps=6",
        ],
        capture_output=True,
        text=True,
        env=_environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("going on from step 2 in run") == 1
    assert done.stdout.count("finished at step 6") == 1
    assert "going on with 2 processes, where the last session had 1: sums" in done.stdout
    assert "weights will not be equal bit for bit" in done.stdout
    sessions = json.loads(Path("run/meta.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [1, 2]
    assert json.loads(Path("run/result.json").read_text())["status"] == "finished"
    assert len(list(Path("run").glob("events.out.tfevents.*"))) == 2, "one a session"
    assert sorted(path.name for path in Path().iterdir()) == ["run", "whole"]
    # The first two steps also evaluated at their end; the curves are else those of the one process.
    steps = [line["step"] for line in curves(Path("run")) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert {key: value.shape for key, value in newest(Path("run"))["parts"]["model"].items()} == {
        key: value.shape for key, value in newest(Path("whole"))["parts"]["model"].items()
    }
    for name, value in newest(Path("whole"))["parts"]["model"].items():
        assert torch.allclose(newest(Path("run"))["parts"]["model"][name], value, atol=1e-4), name
    assert (Path("run/samples/step_00000006.png")).is_file()


def test_a_signal_to_one_stops_both_after_the_same_step_and_one_goes_on(
    whole: list[str], gentrain: Command
) -> None:
    done = two_processes(*whole, "run_dir=run", before=SIGNALLED.format(name="SIGTERM", step=2))
    assert [one.returncode for one in done] == [143, 143], done[0].stderr + done[1].stderr
    assert done[0].stderr.count("SIGTERM: finishing this step and saving") == 1
    assert done[1].stdout == done[1].stderr == "", "rank 0 alone speaks"
    assert "go on:   torchrun ... -m gentrain resume=run" in done[0].stdout
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    assert 3 <= newest(Path("run"))["step"] < 6
    went_on = gentrain("resume=run")
    assert went_on.status == 0
    assert "going on with 1 process, where the last session had 2" in went_on.out
    assert_close_runs(Path("whole"), Path("run"))


def test_two_processes_that_were_stopped_end_bit_for_bit_as_two_that_were_not(
    tiny: list[str], gentrain: Command
) -> None:
    """`gentrain` is for its empty folder."""
    settings = [*tiny, *VAE, "model.dropout=0.1"]
    done = [
        *two_processes(*settings, "run_dir=whole"),
        *two_processes(*settings, "run_dir=run", before=SIGNALLED.format(name="SIGTERM", step=2)),
    ]
    assert [one.returncode for one in done] == [0, 0, 143, 143], [one.stderr for one in done]
    assert newest(Path("run"))["step"] < 6
    done = two_processes("resume=run")
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert "going on with" not in done[0].stdout, "as many processes as before"
    assert_same_run(Path("whole"), Path("run"))


def test_what_only_one_process_cannot_do_ends_all(tiny: list[str], gentrain: Command) -> None:
    """While the others wait for it without a limit, and before there is a run."""
    no_folder = """
from gentrain.errors import UserError
from gentrain.training import run as train
original = train.open_data
def open_data(section, progress):
    if rank == 1: raise UserError("there is no such folder here")
    return original(section, progress)
train.open_data = open_data
"""
    done = two_processes(*tiny, *VAE, "run_dir=run", before=no_folder)
    assert done[1].returncode == 2
    assert done[1].stderr == "gentrain: there is no such folder here\n"
    assert (done[0].returncode, done[0].stdout, done[0].stderr) == (1, "", "")
    assert not Path("run").exists()


def test_all_processes_must_mean_the_same(whole: list[str], gentrain: Command) -> None:
    """A run that the other machine does not see is a new one there."""
    unseen = "import gentrain.training.resume as plans\nif rank == 1: plans.is_run = lambda path: False\n"
    unseen += "if rank == 1: plans.may_begin = lambda path: True\n"
    done = two_processes(*whole, "run_dir=whole", before=unseen)
    assert [one.returncode for one in done] == [2, 2]
    said = (
        "gentrain: the processes of this run do not agree on what to do; give all the same command, and a run "
        "directory that is seen from all machines\n"
    )
    assert sorted(one.stderr for one in done) == ["", said]


def test_all_processes_must_have_the_same_pictures(tiny: list[str], gentrain: Command) -> None:
    other_pictures = """
from dataclasses import replace
from gentrain.training import run as train
original = train.open_data
def open_data(section, progress):
    return replace(original(section, progress), fingerprint=f"of machine {rank}")
train.open_data = open_data
"""
    done = two_processes(*tiny, *VAE, "run_dir=run", before=other_pictures)
    assert [one.returncode for one in done] == [2, 2]
    said = (
        "gentrain: data=folder has other pictures or labels on one machine than on another; "
        "give all processes of a run the same ones\n"
    )
    assert sorted(one.stderr for one in done) == ["", said]
    assert not Path("run").exists()


def test_a_finished_run_is_said_and_written_to_be_finished_by_rank_0(
    whole: list[str], gentrain: Command
) -> None:
    """One that was killed between its last checkpoint and its last word."""
    Path("whole/result.json").unlink()
    rank_0_writes = """
from gentrain.runs.rundir import RunDir
if rank != 0: del RunDir.write_result
"""
    done = two_processes("resume=whole", before=rank_0_writes)
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    assert "is already finished, at step 6" in done[0].stdout
    assert done[1].stdout == ""
    assert json.loads(Path("whole/result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("killed", [1])
def test_a_killed_process_ends_all_with_one_sentence(killed: int, tiny: list[str], gentrain: Command) -> None:
    """And before that both went back together, after a figure that was not finite."""
    options = ["train.on_alarm=rollback", "run_dir=run"]
    done = two_processes(*tiny, *VAE, *options, before=DIVERGES + SIGNALLED.format(name="SIGKILL", step=4))
    assert done[0].stdout.count("Going back to step 2") == 1
    assert done[killed].returncode == -signal.SIGKILL
    assert done[0].returncode == 1
    assert re.fullmatch(
        r"gentrain: one of the 2 processes of this run has ended or does not answer, so all stop \([^\n]+ peer"
        r"[^\n]*\); to go on from the last checkpoint: torchrun ... -m gentrain resume=run\n",
        done[0].stderr,
    ), done[0].stderr
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    assert newest(Path("run"))["step"] == 4
    assert newest(Path("run"))["rollbacks"] == 1
