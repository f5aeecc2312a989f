"""However many files are wrong, a message names a few and how many more: it is read as a whole."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from nasty import encoded, photo
from test_sources import section

from gentrain.data.build import open_data
from gentrain.data.reading import decode
from gentrain.data.reading.entries import Bad, in_lines
from gentrain.errors import NAMED, UserError, few

MANY = 400


def bad_files(root: Path) -> Path:
    for number in range(MANY):
        (root / f"{number}.png").write_bytes(b"no picture")
    return root


def long_names(root: Path) -> Path:
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        for number in range(MANY):
            archive.writestr("n" * 20_000 + f"{number}.png", b"no picture")
    return root / "x.zip"


def many_suffixes(root: Path) -> Path:
    for number in range(MANY):
        (root / f"x.{number}").write_bytes(b"")
    return root


def missing_files(root: Path) -> Path:
    (root / "list.csv").write_text("".join(f"{number}.png\n" for number in range(MANY)))
    return root / "list.csv"


def many_columns(root: Path) -> Path:
    (root / "list.csv").write_text("file" + ",x" * MANY + "\na.png" + ",1" * MANY + "\n")
    return root / "list.csv"


@pytest.mark.parametrize("make", [bad_files, long_names, many_suffixes, missing_files, many_columns])
@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_messages_stay_short(
    make: Callable[[Path], Path], on_bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root").mkdir()
    root = make(tmp_path / "root")
    with pytest.raises(UserError) as raised:
        open_data(section("folder", root=str(root), size=8, on_bad=on_bad), lambda *_: None)
    said = str(raised.value)
    assert said.count("\n") <= NAMED + 1
    assert len(said) < 3000
    assert "more" in said


@pytest.mark.parametrize("name", ["pictures", "pictures/list.csv"])
def test_a_folder_that_vanishes_while_it_is_packed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(60):
        (root / f"{number}.png").write_bytes(encoded(photo(8, 8), "PNG"))
    (root / "list.csv").write_text("".join(f"{number}.png\n" for number in range(60)))
    decoded = decode.decode_known

    def removing(*given: object) -> object:
        shutil.rmtree(root, ignore_errors=True)
        return decoded(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("gentrain.data.sources.folder.decode_known", removing)
    with pytest.raises(UserError, match=r"is gone: it was removed or renamed while") as raised:
        open_data(section("folder", root=str(tmp_path / name), size=8, on_bad="skip"), lambda *_: None)
    assert "\n" not in str(raised.value)


def test_every_kind_of_reason_is_named_before_a_second_of_any() -> None:
    bad = [Bad(f"{number}.png", f"cut off after {number} bytes") for number in range(MANY)]
    said = in_lines([*bad, Bad("z.png", "an empty file")])
    assert "z.png (an empty file)" in said
    assert said.endswith(f"and {MANY + 1 - NAMED:,} more")
    assert in_lines([]) == ""
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(2000)], 2) == "0, 1, and 1,998 more"
