"""scripts/reproduce.py: its table, and that Ctrl-C leaves a command the time to save. It trains nothing here."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parents[1] / "scripts" / "reproduce.py"

SLOW_TO_SAVE = """
import pathlib, sys, time
pathlib.Path("ready").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.6)  # longer than subprocess.run would wait
    pathlib.Path("saved").touch()
    sys.exit(130)
"""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    return module


def test_ctrl_c_waits_for_the_command_to_save(tmp_path: Path) -> None:
    """In the place of gentrain a command that takes its time to save; both get the signal, as from a terminal."""
    (tmp_path / "gentrain").mkdir()
    (tmp_path / "gentrain" / "__init__.py").touch()
    (tmp_path / "gentrain" / "__main__.py").write_text(SLOW_TO_SAVE)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # some shells ignore it
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\nimport reproduce\nreproduce._gentrain('x=1')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    until = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)  # it is in its long sleep now
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=30) == 130
    assert (tmp_path / "saved").exists()


def test_the_table_names_its_protocol(tmp_path: Path) -> None:
    reproduce = load_script()
    shared = {"run": "r", "step": 5, "weights": "averaged weights", "split": "test", "images": 50}
    shared |= {"levels": 256, "pictures": "256 levels", "seed": 0, "data_fingerprint": "0123456789"}
    of_features = {"extractor": "domain@1", "samples": 70, "against": "70 of 90 test images"}
    figures = {
        "bits_per_dim": {"mean": 5.25, "meaning": "upper bound on -log2 p(x) / (C*H*W)"},
        "frechet_distance[domain@1]": {
            "mean": 3.0, "meaning": "", "floor": {"train": 1.25}, "protocol": of_features,
        },
    }  # fmt: skip
    run = tmp_path / "vae"
    run.mkdir()
    content = {"protocol": shared, "figures": figures, "cost": {"parameters": 1_500_000}}
    (run / "evaluation.json").write_text(json.dumps(content))
    row = reproduce.read_row(run)
    assert row == ["vae", "≤ 5.25", "", "3 (1.2)", "", "", "", "", "1.50 M"]
    assert reproduce.markdown([row]).count("\n") == 3
    said = reproduce.protocol(run, "anime")
    assert said.startswith(
        "test split; 50 images; 256 levels; seed 0; data=anime (01234567); extractor=domain@1"
    )
    assert "samples=70; against=70 of 90 test images. In brackets: training pictures" in said
    assert "averaged" not in said
