"""What is shipped: configs in the wheel and in the sdist, and a command that works from anywhere."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel, built from an sdist, built from this checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_configs_are_in_both(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(configs) > 10
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"gentrain/{path}" for path in configs} <= packed
    assert {"gentrain/comparison/page.css", "gentrain/comparison/page.js"} <= packed
    assert "gentrain/metrics/domain.safetensors" in packed
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    shipped = {"README.md", "LICENSE", "tests/test_package.py", "gentrain/metrics/domain.safetensors"}
    assert configs | shipped <= names


def test_the_wheel_gives_help_in_a_fresh_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """With hydra-core and rich alone: no torch."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "hydra-core>=1.3.8,<1.5", "rich"], check=True, capture_output=True)
    subprocess.run([*pip, "--no-deps", str(built[0])], check=True, capture_output=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = subprocess.run(
        [python.with_name("gentrain"), "--help"], capture_output=True, text=True, cwd=empty
    )
    assert shown.returncode == 0, shown.stderr
    assert "data: anime, anime_faces, " in shown.stdout
    assert list(empty.iterdir()) == []
