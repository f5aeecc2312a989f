"""Lists as people and programs write them: what is between the columns, paths, and cells without a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image
from test_sources import section

from gentrain.data.build import open_data
from gentrain.data.packed import Packed
from gentrain.data.reading.listing import list_pictures
from gentrain.data.reading.lists import ABSENT
from gentrain.errors import UserError

COUNT = 40


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures sub/0.png ... whose red is their number."""
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda _: None)
    (tmp_path / "list" / "sub").mkdir(parents=True)
    for number in range(COUNT):
        Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(tmp_path / "list" / "sub" / f"{number}.png")
    return tmp_path / "list"


def opened(root: Path, text: str, name: str = "list.csv") -> Packed:
    (root / name).write_bytes(text.encode())
    return open_data(section("folder", root=str(root / name), size=8, held_out=0.2), lambda *_: None)


def text_of(
    delimiter: str = ",", header: str = "file,kind", path: str = "sub/{}.png", cell: str = "{}"
) -> str:
    lines = [header.replace(",", delimiter)] if header else []
    lines += [
        f"{path.format(n)}{delimiter}{cell.format('even' if n % 2 == 0 else 'odd')}" for n in range(COUNT)
    ]
    return "\n".join(lines)


def assert_right(packed: Packed, label: str = "kind") -> None:
    """All are there, each with its label."""
    assert sum(packed.counts.values()) == COUNT
    assert [(one.name, one.choices) for one in packed.label_info] == [(label, ("even", "odd"))]
    assert np.array_equal(packed.labels[:, 0], packed.images[:, 0, 0, 0] % 2)


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["file,kind", "", "\ufeffFile,kind"])
def test_any_delimiter_in_either_kind_of_file(name: str, delimiter: str, header: str, root: Path) -> None:
    assert_right(opened(root, text_of(delimiter, header), name), "kind" if header else "label")


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("sub\\{}.png", "{}"),
        (".\\sub\\{}.png", "{}"),
        ("./sub//{}.png", "{}"),
        (" sub/{}.png ", " {} "),
        ('"sub/{}.png"', '"{}"'),
        ("ROOT/sub/{}.png", "{}"),
        ("ROOT\\sub\\{}.png", "{}"),
        ("REAL/sub/{}.png", "{}"),
    ],
)
def test_paths_as_other_systems_and_programs_write_them(path: str, cell: str, root: Path) -> None:
    linked = root.with_name("linked")
    linked.symlink_to(root)
    path = path.replace("ROOT", str(linked)).replace("REAL", str(root))
    assert_right(opened(linked, text_of(path=path, cell=cell)))


def test_names_that_hold_a_delimiter_a_backslash_or_blanks(root: Path) -> None:
    odd = ["a;b.png", "a\\b.png", " a.png", "a\tb.png", "a.png;0.png", "plain.png"]
    for number, name in enumerate(odd):
        (root / "sub" / f"{number}.png").rename(root / name)
    (root / "list.csv").write_text("\n".join(["file", *odd]))
    listing = list_pictures(root / "list.csv")
    assert len(listing.entries) == len(odd) and not listing.bad
    (root / "list.csv").write_text("a;b.png\nplain.png\n")  # no header; neither is "a" a picture's name
    assert [entry.name for entry in list_pictures(root / "list.csv").entries] == ["a;b.png", "plain.png"]


def test_a_list_of_which_nothing_is_found_says_how_it_was_read(root: Path) -> None:
    with pytest.raises(UserError) as raised:
        opened(root, "\n".join(f"sub/{number}.png|odd" for number in range(COUNT)))
    said = str(raised.value)
    assert f"none of the {COUNT} pictures that {root}/list.csv names can be used" in said
    assert "commas between columns and paths in column 1, relative to" in said
    assert "sub/0.png|odd (no such file or directory)" in said
    with pytest.raises(UserError, match="an absolute path out of the list's folder"):
        opened(root, "/elsewhere/a.png\n")


@pytest.mark.parametrize("absent", sorted(ABSENT))
def test_a_column_without_a_value_for_each_is_no_label(absent: str, root: Path) -> None:
    lines = ["file,kind,left"]
    lines += [
        f"sub/{n}.png,{('even', 'odd')[n % 2]},{absent if n in (3, 5) else n % 3}" for n in range(COUNT)
    ]
    packed = opened(root, "\n".join(lines))
    assert_right(packed)
    (remark,) = packed.facts["remarks"]
    assert remark.startswith(
        f"the column left is no label: it has no value ({absent or 'an empty cell'}) for"
    )
    assert remark.endswith(f"for 2 of {COUNT} pictures, the first sub/3.png")


@pytest.mark.parametrize("absent", sorted(ABSENT))
def test_a_split_that_is_absent_is_a_sentence(absent: str, root: Path) -> None:
    lines = ["file,split"] + [f"sub/{n}.png,{absent if n == 9 else 'train'}" for n in range(COUNT)]
    with pytest.raises(UserError, match=r"(?s)column split of .* the first sub/9.png; write train, valid or"):
        opened(root, "\n".join(lines))


def test_another_word_for_a_split_names_a_picture(root: Path) -> None:
    lines = ["file,split"] + [f"sub/{n}.png,{'dev' if n == 9 else ' Train '}" for n in range(COUNT)]
    with pytest.raises(
        UserError, match=r"are dev by its column instead of one of train, .*: 1, the first sub/9"
    ):
        opened(root, "\n".join(lines))


@pytest.mark.parametrize("value", ["none", "na", "no", "0", "Null", "nothing"])
def test_words_that_may_be_values_are(value: str, root: Path) -> None:
    lines = ["file,kind"] + [f"sub/{n}.png,{value if n < 5 else 'hat'}" for n in range(COUNT)]
    packed = opened(root, "\n".join(lines))
    assert set(packed.label_info[0].choices) == {value, "hat"}
    signs = ["file,sign"] + [f"sub/{n}.png,{'-' if n < 5 else '+'}" for n in range(COUNT)]
    assert opened(root, "\n".join(signs)).label_info[0].choices == ("+", "-")


def test_what_is_no_label_is_said_before_training_and_by_inspect(gentrain: Command, root: Path) -> None:
    captions = "\n".join(["file,left"] + [f"sub/{n}.png,{'' if n else 1}" for n in range(COUNT)])
    (root / "list.csv").write_text(captions)
    data = ["data=folder", f"data.root={root / 'list.csv'}", "data.size=8", "data.held_out=0.2"]
    for command in (
        ["task=inspect"],
        ["model=gmm", "model.components=1", "train.max_steps=1", "train.batch_size=4"],
    ):
        outcome = gentrain(*command, *data)
        assert "the column left is no label: it has no value (an empty cell) for 39 of 40" in outcome.out
