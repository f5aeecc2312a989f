"""What is said is not what a command is for: no way in which output can fail ends one, or changes its status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES
from PIL import Image
from surroundings import WAYS

from gentrain.config import registry
from gentrain.errors import Interrupted
from gentrain.runtime import signals
from gentrain.runtime.signals import HANGUP, OF_A_PERSON, WARNINGS, StopRequest
from gentrain.sweeps.jobs import FORGIVING

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of two steps on two classes of 8 px, whose names not all encodings have."""
    root, random = tmp_path_factory.mktemp("ünïcode"), np.random.default_rng(0)
    for name in ("ä", "ö"):
        (root / name).mkdir()
        for number in range(60):
            pixels = random.integers(0, 200, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return [
        "data=folder",
        f"data.root='{root}'",
        "data.size=8",
        "data.channels=1",
        *FAMILIES["vae"],
        "train.max_steps=2",
        "train.batch_size=8",
        "train.sample_count=4",
        "train.log_every_steps=1",
        "train.save_every_steps=1",
    ]


def statuses(cases: dict[str, tuple[str, list[str]]], folder: Path) -> dict[str, int]:
    """The exit status of each command, by the way in which its output fails; a traceback fails the test."""
    done = subprocess.run(
        [sys.executable, str(HERE / "surroundings.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    logs = {log.name: log.read_text() for log in folder.glob("*.log")}
    assert not logs, "\n".join(logs.values())
    return json.loads(done.stdout)


# Of each task: what it is given beside a run, and the file that it is for.
TASKS = {
    "sample": (["sample.count=4"], "run/sample/grid.png"),
    "evaluate": ([], "run/evaluation.json"),
    "interpolate": (["interpolate.pairs=1"], "run/interpolate"),
    "traverse": ([], "run/traverse"),
    "probe": (["probe.labels_per_class=[1]", "probe.draws=1", "probe.steps=1"], "run/probe/probe.json"),
    "complete": (["complete.count=2", "complete.draws=1"], "run/complete"),
    "compare": (["runs=run"], "compare/compare.json"),
    "inspect": (["run_dir=look"], "look/inspect.json"),
    "tune": (["tune.dir=study", "tune.trials=1", "tune.space.seed={low: 1, high: 2}"], "study/study.json"),
}


def trainings(settings: list[str]) -> dict[str, tuple[str, list[str]]]:
    """In every way; by each launcher of sweeps; and in a terminal that is closed in mid-run."""
    cases = {way: (way, [*settings, f"run_dir='{way} ü'"]) for way in WAYS}
    for launcher in ("basic", "parallel"):
        sweep = ["-m", f"hydra/launcher={launcher}", f"sweep_dir={launcher}", *settings]
        cases[launcher] = ("closed pipe", sweep)
    long = [*settings, "train.save_every_steps=null", "train.eval_every_steps=null"]
    cases["saved"] = ("hang up", [*long, "train.max_steps=100000", "run_dir=saved"])
    cases["goes on"] = ("hang up nohup", [*long, "train.max_steps=20", "run_dir='goes on'"])
    return cases


def tasks(settings: list[str]) -> dict[str, tuple[str, list[str]]]:
    assert {*TASKS, "train"} == set(registry.TASKS), "each task, the new one too"
    own = {"inspect": [text for text in settings if text.startswith("data")], "tune": settings, "compare": []}
    cases = {"run": ("closed pipe", [*settings, "run_dir=run"])}
    for task, (more, _) in TASKS.items():
        cases[task] = ("full device", [f"task={task}", *own.get(task, ["run=run"]), *more])
    return cases


def prints() -> dict[str, tuple[str, list[str]]]:
    """Mistakes, and what is only printed: for that a lost text is a failure; but who closes a pipe has read enough."""
    cases = {f"mistake, {way}": (way, ["train.max_step=5"]) for way in WAYS}
    cases |= {f"version, {way}": (way, ["--version"]) for way in WAYS}
    flags = {"config": ["--cfg", "job"], "help": ["--help"], "info": ["--info", "config"]}
    cases |= {name: ("full device", arguments) for name, arguments in flags.items()}
    cases["config, closed pipe"] = ("closed pipe", flags["config"])
    return cases


def expected(name: str) -> int:
    if name.startswith("mistake"):
        return 2
    lost = [f"version, {way}" for way in WAYS if way not in ("closed pipe", "ascii")]
    return 128 + signal.SIGHUP if name == "saved" else int(name in ("config", "help", "info", *lost))


def test_no_way_in_which_output_fails_ends_a_command(settings: list[str], tmp_path: Path) -> None:
    cases = trainings(settings) | tasks(settings) | prints()
    assert statuses(cases, tmp_path) == {name: expected(name) for name in cases}
    for _, file in TASKS.values():
        assert (tmp_path / file).exists(), file
    ended = {way: json.loads((tmp_path / f"{way} ü/result.json").read_text())["status"] for way in WAYS}
    assert ended == dict.fromkeys(WAYS, "finished")
    assert "run directory: ascii \\xfc\n" in (tmp_path / "ascii.txt").read_text(encoding="ascii")
    for launcher in ("basic", "parallel"):
        jobs = json.loads((tmp_path / launcher / "sweep.json").read_text())["jobs"]
        assert [job["status"] for job in jobs] == ["finished"]
    result = json.loads((tmp_path / "saved/result.json").read_text())
    assert result["status"] == "interrupted"
    assert (tmp_path / f"saved/checkpoints/step_{result['step']:08}.pt").is_file()
    assert json.loads((tmp_path / "goes on/result.json").read_text())["status"] == "finished"


# ---- signals

SENT = {
    "hung up twice, as by kernel and shell": ([signal.SIGHUP, signal.SIGHUP], 129),
    "a session that is ended": ([signal.SIGTERM, signal.SIGHUP], 143),
    "the other way round": ([signal.SIGHUP, signal.SIGTERM], 129),
    "warned": ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2], 138),
    "warned, and asked to": ([signal.SIGUSR1, signal.SIGINT], 138),
    "a person insists": ([signal.SIGINT, signal.SIGINT], None),
    "a person insists after a warning": ([signal.SIGUSR1, signal.SIGINT, signal.SIGTERM], None),
    "a person insists after the terminal was lost": ([signal.SIGHUP, signal.SIGTERM, signal.SIGTERM], None),
}


@pytest.mark.parametrize("case", SENT)
def test_what_only_asks_is_never_impatient(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    sent, status = SENT[case]
    with StopRequest() as stop:
        stop.graceful = True
        for number in sent[:-1]:
            os.kill(os.getpid(), number)
        if status is None:
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), sent[-1])
        else:
            os.kill(os.getpid(), sent[-1])
            assert stop.requested and stop.exit_status == status
    said = capsys.readouterr().err
    assert said.count("finishing this step") == 1
    assert ("once more stops at once" in said) == (sent[0] in OF_A_PERSON)


def test_each_signal_that_saves_is_forgiven_in_a_sweep_and_told_to_people() -> None:
    asked = {*OF_A_PERSON, *WARNINGS, *HANGUP}
    with StopRequest() as stop:
        taken = {
            number
            for number in signal.valid_signals()
            if getattr(signal.getsignal(number), "__self__", None) is stop
        }
    assert taken == asked
    assert set(FORGIVING) == {128 + number for number in asked}
    readme = (HERE.parent / "README.md").read_text()
    for number in asked:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        assert name in readme and str(128 + number) in readme, name


def test_torchrun_hangs_up_even_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert not signals.hangs_up()
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        assert signals.hangs_up()
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- Ctrl-C before a task begins

# Interrupts the process as a module is looked for.
AT = """
import os, signal, sys
class At:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, At())
sys.argv[:] = ["gentrain", *sys.argv[1:]]
from gentrain.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "name", ["gentrain.cli", "argparse", "hydra", "omegaconf", "gentrain.tasks.sample", "torch", "torch._C"]
)
def test_ctrl_c_at_any_import_leaves_no_traceback(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT, "task=sample", f"run={tmp_path}"],
        capture_output=True,
        text=True,
        env=os.environ | {"AT": name},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gentrain: interrupted\n")


def test_the_entry_imports_next_to_nothing() -> None:
    """Before it sees to Ctrl-C."""
    code = "import sys; before = set(sys.modules); import gentrain.__main__; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); {code}"], capture_output=True, text=True, check=True)  # fmt: skip
    new = set(json.loads(done.stdout.replace("'", '"')))
    assert {name for name in new if name.startswith("gentrain")} == {
        "gentrain",
        "gentrain.__main__",
        "gentrain.runtime",
        "gentrain.runtime.startup",
    }
    assert not new & {"typing", "pathlib", "importlib.metadata", "hydra"}, new
