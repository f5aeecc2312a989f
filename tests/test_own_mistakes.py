"""A mistake in our own code surfaces, whatever it raises: it is never taken for a damaged picture or archive.

In turn each function of the modules below is made to fail while pictures are read with data.on_bad=skip.
"""

from __future__ import annotations

import importlib
import inspect
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nasty import damaged, encoded, photo, with_exif
from omegaconf import OmegaConf
from PIL import Image

from gentrain.config.compose import CONFIG_DIR
from gentrain.data.build import open_data

MODULES = (
    "packed", "sources.folder", "sources.hub", "sources.huggingface",
    *(f"reading.{name}" for name in (
        "archives", "decode", "entries", "listing", "lists", "rows", "splitting", "tars", "walk",
    )),
)  # fmt: skip


class Mistake(AttributeError, TypeError, AssertionError, KeyError, IndexError, RuntimeError, ArithmeticError):
    """What mistakes raise, all in one."""


class MistakeOfValue(Mistake, ValueError):
    """Told from a library's ValueError only by where it is raised."""


CALLED_BY_A_LIBRARY = {
    "Forward.tell",
    "Forward.seek",
    "Forward.read",
}  # within tarfile, which raises ValueErrors
Function = Callable[..., Any]


def functions() -> dict[str, Function]:
    """Every function and method that these modules define, by a name that is unique here."""
    found = {}
    for path in MODULES:
        module, short = importlib.import_module(f"gentrain.data.{path}"), path.rpartition(".")[2]
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != module.__name__:
                continue
            if inspect.isfunction(thing):
                found[f"{short}.{name}"] = thing
            elif inspect.isclass(thing):
                for method, function in vars(thing).items():
                    # Not what dataclass made; and what __del__ raises Python only prints.
                    own = inspect.isfunction(function) and function.__code__.co_filename == module.__file__
                    if own and method != "__del__":
                        found[f"{short}.{name}.{method}"] = function
    return found


def homes(function: Function) -> list[tuple[Any, str]]:
    """Where in the package this function is to be found under a name."""
    found: list[tuple[Any, str]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("gentrain"):
            for own, thing in list(vars(module).items()):
                if thing is function:
                    found.append((module, own))
                elif inspect.isclass(thing) and thing.__module__ == name:
                    found += [(thing, method) for method, f in vars(thing).items() if f is function]
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Settings that read good and bad pictures of each kind from each kind of place."""
    root = tmp_path_factory.mktemp("own") / "pictures"
    root.mkdir()
    grey_16 = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    clear = photo(9, 9).convert("RGBA")
    clear.putalpha(100)
    for number in range(12):
        Image.fromarray(np.full((8, 8, 3), number * 20, np.uint8)).save(root / f"{number}.png")
    (root / "turned.jpg").write_bytes(encoded(photo(), "JPEG", exif=with_exif(6)))
    (root / "deep.png").write_bytes(encoded(grey_16, "PNG"))
    (root / "clear.png").write_bytes(encoded(clear, "PNG"))
    (root / "moving.gif").write_bytes(encoded(photo(9, 7), "GIF"))
    (root / "half.jpg").write_bytes(damaged()["truncated-jpeg.jpg"][0])
    (root / "out.png").symlink_to("/dev/null")
    (root / "folder").symlink_to(root)
    files = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file() and path.stem != "out"}
    with zipfile.ZipFile(root.with_name("x.zip"), "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    with tarfile.open(root.with_name("x.tgz"), "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (root / "list.csv").write_text("file,label\n" + "".join(f"{name},a\n" for name in sorted(files)))
    places = (root, root / "list.csv", root.with_name("x.zip"), root.with_name("x.tgz"))
    made: dict[str, dict[str, object]] = {
        place.name: {"name": "folder", "root": str(place), "verify": "content", "held_out": 0.3}
        for place in places
    }
    if importlib.util.find_spec("datasets") is not None:
        made["table"] = {"name": "huggingface", "repo": str(_table(root)), "held_out": 0.3}
    return made


def _table(root: Path) -> Path:
    import datasets

    rows = [path.read_bytes() for path in sorted(root.glob("*.png")) if path.is_file()]
    rows.append(damaged()["truncated-jpeg.jpg"][0])
    table = datasets.Dataset.from_dict({"image": [{"bytes": row, "path": None} for row in rows]})
    folder = root.with_name("table")
    (folder / "data").mkdir(parents=True)
    table.cast_column("image", datasets.Image()).to_parquet(folder / "data" / "train-0.parquet")
    return folder


def read(settings: dict[str, object]) -> Any:
    own = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "data" / f"{settings['name']}.yaml"))
    frame = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "config.yaml"), resolve=False)
    assert isinstance(own, dict) and isinstance(frame, dict)
    return open_data({**frame["data"], **own, "size": 8, "on_bad": "skip", **settings}, lambda *_: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of __del__
def test_a_mistake_of_ours_is_no_damage(
    sources: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = iter(range(10_000))
    reached, hidden = set(), {}
    for source, settings in sources.items():
        for name, function in functions().items():
            met = []

            def failing(*_: object, name: str = name, met: list[bool] = met, **__: object) -> Any:
                met.append(True)
                raise (Mistake if name.split(".", 1)[1] in CALLED_BY_A_LIBRARY else MistakeOfValue)(name)

            with monkeypatch.context() as patched:
                patched.setenv("GENTRAIN_CACHE", str(tmp_path / str(next(caches))))
                for home, own_name in homes(function):
                    patched.setattr(home, own_name, failing)
                try:
                    outcome = read(settings)
                except Mistake as surfaced:
                    outcome = surfaced
                except Exception as other:  # what became of the mistake is the question
                    outcome = other
            if met:
                reached.add(name)
                if not isinstance(outcome, Mistake):
                    hidden[f"{name} from {source}"] = repr(outcome)[:200]
    assert not hidden
    assert {"decode._arrange", "archives.ZipReader._read", "tars.Forward.read", "rows.Rows.append"} <= reached
    assert len(reached) > 60
