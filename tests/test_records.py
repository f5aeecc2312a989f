"""Every file of a run, a sweep and a study beside the checkpoints, damaged: a sentence that names it, soon."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, run_command
from families import FAMILIES, assert_same_run

import gentrain as library
from gentrain import cli
from gentrain.errors import UserError
from gentrain.runs import checkpoint
from gentrain.runs.records import check_records, read_lines, read_meta, read_metrics, read_result
from gentrain.runs.tracking import cut_back
from gentrain.runtime.stored_files import Unreadable, check_lock
from gentrain.sweeps import state as states
from gentrain.sweeps.naming import Job
from gentrain.sweeps.report import write_report

# What may lie where a file of a run should be.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing in it": lambda file: file.write_bytes(b""),
    "no text": lambda file: file.write_bytes(b"\x80\x81\xff"),
    "cut off": lambda file: file.write_text('{"a": '),
    "a list": lambda file: file.write_text("[1, 2]"),
    "a number": lambda file: file.write_text("7"),
    "a huge number": lambda file: file.write_text('{"step": ' + "9" * 5000 + "}"),
    "deep": lambda file: file.write_text('{"a":' * 5000),
    "a folder": lambda file: file.mkdir(),
    "a pipe": lambda file: os.mkfifo(file),
    "a link to nothing": lambda file: file.symlink_to("nowhere"),
    "endless": lambda file: file.symlink_to("/dev/zero"),
}
NO_FILES = ("a folder", "a pipe", "a link to nothing", "endless")
OTHER_CONTENT: dict[str, list[Any]] = {
    "meta.json": [
        {}, {"sessions": 3}, {"sessions": [1]}, {"sessions": [{"processes": "two"}]}, {"sessions": [], "measured": 3},
    ],
    "result.json": [
        {"step": 3}, {"status": 3, "step": 3}, {"status": "finished"}, {"status": "finished", "step": "three"},
        {"status": "finished", "step": -1}, {"status": "finished", "step": True},
        {"status": "finished", "step": 1, "metrics": [1]},
    ],
}  # fmt: skip
READERS: dict[str, Callable[[Path], object]] = {
    "meta.json": read_meta,
    "result.json": read_result,
    "metrics.jsonl": lambda run: read_metrics(run / "metrics.jsonl"),
}


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    words = [
        "data=folder", f"data.root={pictures}", "data.size=8", *FAMILIES["vae"], "train.max_steps=2",
        "train.batch_size=8", "train.log_every_steps=1", "train.sample_count=1", f"run_dir={folder / 'run'}",
    ]  # fmt: skip
    run_command(*words)
    yield folder / "run"


@pytest.fixture
def run(trained: Path, gentrain: Command) -> Path:
    return Path(shutil.copytree(trained, "run"))


def damage(file: Path, kind: str) -> None:
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    DAMAGE[kind](file)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_each_reader_names_the_file(name: str, kind: str, tmp_path: Path) -> None:
    assert not READERS[name](tmp_path) or READERS[name](tmp_path) == {"sessions": []}, (
        "nothing there is no fault"
    )
    damage(tmp_path / name, kind)
    if name == "metrics.jsonl" and kind not in NO_FILES:
        assert READERS[name](tmp_path) == [], "a line that cannot be used is left out"
        return
    with pytest.raises(Unreadable, match=f"{name} cannot be read: "):
        READERS[name](tmp_path)
    with pytest.raises(Unreadable):
        check_records(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [(name, one) for name, all_ in OTHER_CONTENT.items() for one in all_]
)
def test_a_schema(name: str, content: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    if name == "result.json" and content == {}:
        return
    with pytest.raises(Unreadable, match=f"{name} cannot be read: .*remove it"):
        READERS[name](tmp_path)


def test_lines_are_numbers_and_a_null_is_one_that_was_not_finite(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    texts = [
        '{"step": 1, "a": 1.5, "b": null, "c": "text", "d": [1], "e": true, "f": NaN, "g": 1' + "0" * 90 + "}",
        "7", '{"a": 3}', '{"step": "2"}', '{"step": 2.5}', '{"step": -1}', '{"step": 1e400}', "\ufffd",
        '{"step": 9, "a": 2}', '{"step": 10, "a"',
    ]  # fmt: skip
    file.write_text("\n".join(texts))
    lines, bad = read_lines(file)
    assert bad == 7
    assert [line["step"] for line in lines] == [1, 9]
    assert lines[0].keys() == {"step", "a", "b", "f", "g"}
    assert math.isnan(lines[0]["b"])
    assert math.isnan(lines[0]["f"])
    assert lines[0]["g"] == 1e90
    assert [line["step"] for line in read_metrics(file, 8)] == [1]
    cut_back(file, 8)
    json.loads(file.read_text(), parse_constant=pytest.fail)


COMMANDS = {
    "compare": (["task=compare", "runs=run"], 0),
    "resume": (["resume=run", "train.max_steps=3"], 2),
    "sample": (["task=sample", "run=run", "sample.count=1"], 0),
    "evaluate": (["task=evaluate", "run=run", "evaluate.samples=null", "evaluate.iwae_samples=null"], 0),
}
# Which commands read a file, and so speak of it: all others must not mind.
READ_BY = {
    "meta.json": ("compare", "resume"),
    "result.json": ("compare", "resume"),
    "metrics.jsonl": ("compare", "resume", "evaluate"),
    ".lock": ("resume",),
    "evaluation.json": ("compare",),
    "probe/probe.json": ("compare",),
    "samples/step_00000002.png": ("compare",),
    "events.out.tfevents.odd": (),
    "data/x.npy": (),
    "checkpoints/step_other.pt": (),
}


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.parametrize("kind", ["no text", "a folder", "a pipe"])
def test_every_command_on_a_run_with_a_damaged_file(
    name: str, kind: str, run: Path, gentrain: Command
) -> None:
    damage(run / name, kind)
    only_as_no_file = kind not in NO_FILES and name in ("metrics.jsonl", ".lock")
    for task in ("compare", "sample", "resume"):
        words, status = COMMANDS[task]
        outcome = gentrain(*words)
        assert "Traceback" not in outcome.err
        reads = task in READ_BY[name] and not only_as_no_file
        assert outcome.status == (status if reads else 0), f"{task}: {outcome.err}{outcome.out}"
        if reads:
            assert name in outcome.out + outcome.err, task


def test_a_damaged_config_stops_no_compare_page_and_no_other_run(run: Path, gentrain: Command) -> None:
    for number, kind in enumerate(DAMAGE):
        shutil.copytree(run, f"bad{number}")
        damage(Path(f"bad{number}/config.yaml"), kind)
    outcome = gentrain("task=compare", "runs=[run,bad0,bad1,bad2,bad3,bad4,bad5,bad6,bad7,bad8,bad9,bad10]")
    assert outcome.status == 0, outcome.err
    rows = {
        Path(one["path"]).name: one for one in json.loads(Path("compare/compare.json").read_text())["runs"]
    }
    assert len(rows) == 12
    assert rows.pop("run")["problems"] == []
    assert all("config.yaml" in "".join(row["problems"]) for row in rows.values())
    for words in (["task=sample", "run=bad{}"], ["resume=bad{}"]):
        for number in range(len(DAMAGE)):
            outcome = gentrain(*(word.format(number) for word in words))
            assert outcome.status == 2, outcome.err
            assert "config.yaml" in outcome.err
            assert f"bad{number}" in outcome.err


def diverge(run: Path) -> None:
    path = run / "checkpoints/step_00000002.pt"
    stored = torch.load(path, weights_only=True)
    for part in ("model", "ema"):
        for value in stored["parts"][part].values():
            if value.is_floating_point():
                value.fill_(math.nan)
    stored.pop("format")
    checkpoint.save(path, checkpoint.Checkpoint(**stored))


def test_evaluate_on_weights_that_are_nan_writes_json(run: Path, gentrain: Command) -> None:
    diverge(run)
    outcome = gentrain("task=evaluate", "run=run", "evaluate.samples=null", "evaluate.iwae_samples=2")
    assert outcome.status == 0, outcome.err
    assert "not finite" in outcome.out
    written = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written["figures"]["bits_per_dim"]["mean"] is None
    assert gentrain("task=compare", "runs=run").status == 0


def test_no_module_writes_json_by_itself() -> None:
    """json.dump writes NaN, which is no JSON; stored_files.dump_json does not."""
    package = Path(cli.__file__).parent
    may = {"runtime/stored_files.py", "comparison/figures.py", "tuning/space.py"} | {
        f"data/{name}.py" for name in ("packed", "fingerprints")
    }
    for file in package.rglob("*.py"):
        if file.relative_to(package).as_posix() not in may:
            lines = [line for line in file.read_text().splitlines() if "json.dump" in line]
            assert all("sha256" in line or "allow_nan=False" in line for line in lines), file


def test_no_module_reads_stored_files_by_itself() -> None:
    """Each kind of file has one reader, upon stored_files."""
    package = Path(cli.__file__).parent
    may = {"runtime/stored_files.py", "data/packed.py"}
    for file in package.rglob("*.py"):
        if file.relative_to(package).as_posix() not in may:
            text = file.read_text()
            assert "json.load" not in text, file
            assert not ("OmegaConf.load" in text and file.name != "stored_config.py"), file


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_lock_that_is_no_file(kind: str, tmp_path: Path) -> None:
    damage(tmp_path / ".lock", kind)
    with pytest.raises(UserError, match=r"\.lock cannot be read: it is no regular file"):
        check_lock(tmp_path / ".lock")


@pytest.mark.parametrize("kind", DAMAGE)
def test_records_of_a_sweep(kind: str, tmp_path: Path) -> None:
    """They are beside the runs: what cannot be read of them is made anew."""
    job = Job("job", (), {"seed": "0"}, tmp_path / "run", True)
    damage(tmp_path / ".jobs/job.json", kind)
    damage(tmp_path / "sweep.json", kind)
    assert states.read_state(tmp_path, job) == states.JobState(states.NOT_STARTED)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0")
    for name in ("result.json", ".lock"):
        damage(tmp_path / "run" / name, kind)
    assert states.read_state(tmp_path, job).status == states.KILLED
    if kind != "a folder":  # nothing is renamed over one
        states.write_record(tmp_path, job, states.FAILED, 2.0, "why")
        assert states.read_record(tmp_path, job) == {"status": states.FAILED, "seconds": 2.0, "error": "why"}
        write_report(tmp_path, [job])
        assert json.loads((tmp_path / "sweep.json").read_text())["jobs"][0]["name"] == "job"


@pytest.mark.parametrize(
    "content",
    [
        {"seconds": "long", "status": 3, "error": [1]},
        {"seconds": math.nan},
        {"seconds": -1},
        {"seconds": 10**90},
    ],
)
def test_a_record_of_a_sweep_with_other_content(content: dict[str, Any], tmp_path: Path) -> None:
    job = Job("job", (), {"seed": "0"}, None, True)
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs/job.json").write_text(json.dumps(content))
    assert states.read_record(tmp_path, job) == {"status": states.NOT_STARTED, "seconds": None, "error": None}
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [{"name": [1]}, 3, {"name": "other"}]}))
    write_report(tmp_path, [job])
    assert [row["name"] for row in json.loads((tmp_path / "sweep.json").read_text())["jobs"]] == [
        "other",
        "job",
    ]


@pytest.mark.parametrize("name", ["tune.yaml", "study.journal", "study.sqlite", ".lock", "locks"])
@pytest.mark.parametrize("kind", ["no text", "a list", "a folder", "a pipe"])
def test_files_of_a_study(name: str, kind: str, gentrain: Command, tiny: list[str]) -> None:
    store = "sqlite" if name.endswith("sqlite") else "journal"
    words = [
        "task=tune",
        *tiny,
        *FAMILIES["vae"],
        "tune.space.optimizer.lr={choices:[0.001,0.002]}",
        "tune.trials=0",
    ]
    words = [*words, "tune.dir=study", f"tune.store={store}"]
    assert gentrain(*words).status == 0
    if name == "locks" and Path("study/locks").is_dir():
        Path("study/locks").rmdir()
    file = Path("study") / name
    damage(file, kind)
    if name.endswith("journal") and file.is_file():
        file.write_bytes(file.read_bytes() + b"\n")  # half a line is what a killed process leaves
    fine = (kind == "a folder" and name == "locks") or (name == ".lock" and kind not in NO_FILES)
    outcome = gentrain(*words)
    assert "Traceback" not in outcome.err
    assert outcome.status in (0, 2) if fine or name == "locks" else outcome.status == 2, outcome.out
    if outcome.status == 2:
        assert "study" in outcome.err


def test_odd_event_files_stop_no_run(run: Path, gentrain: Command) -> None:
    for name in ("events.out.tfevents.", "events.out.tfevents.x.y.z", "events.out.tfevents.²3.a"):
        (run / name).write_bytes(b"odd")
    (run / "events.out.tfevents.zzz").mkdir()
    outcome = gentrain("resume=run", "train.max_steps=3")
    assert outcome.status == 0, outcome.err


def test_a_run_that_is_read_stays_the_same_run(trained: Path, gentrain: Command) -> None:
    shutil.copytree(trained, "one")
    shutil.copytree(trained, "other")
    for name in ("one", "other"):
        assert gentrain(f"resume={name}", "train.max_steps=3").status == 0
    assert_same_run(Path("one"), Path("other"))
    assert library.load("one").remarks == []
