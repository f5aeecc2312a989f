"""data.follow_links: links that lead out of the folder, each folder once, and no end of circles."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_sources import section

from gentrain.config.registry import DATA
from gentrain.config.schema import MAY_CHANGE
from gentrain.data.build import make_source, open_data
from gentrain.data.reading.listing import list_pictures
from gentrain.errors import UserError


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of links, as git-annex, DVC and people make them, with circles."""
    root, store = tmp_path / "root", tmp_path / "store"
    save(root / "own" / "0.png", 0)
    for number in range(1, 4):
        save(store / "deep" / f"{number}.png", number)
    save(root / ".annex" / "object.png", 9)
    (root / "annexed.png").symlink_to(".annex/object.png")
    (root / "file.png").symlink_to(store / "deep" / "1.png")
    (root / "b").symlink_to(store)
    (root / "a").symlink_to(store / "deep")
    (root / "again").symlink_to(store)
    (root / "inside").symlink_to("own")
    (store / "circle").symlink_to(store)
    (store / "home").symlink_to(root)
    (store / "deep" / "up").symlink_to(tmp_path)
    (root / "device.png").symlink_to("/dev/zero")
    return root


def test_each_folder_is_read_once(root: Path) -> None:
    listing = list_pictures(root, follow_links=True)
    names = [entry.name for entry in listing.entries]
    assert names == ["a/1.png", "a/2.png", "a/3.png", "annexed.png", "file.png", "own/0.png"]
    assert {bad.name: bad.reason for bad in listing.bad} == {
        "a/up": "a link to a folder that holds it",
        "again/circle": "a link to a folder that holds it",
        "again/home": "a link to a folder that holds it",
        "device.png": "a device, not a regular file",
    }
    # deep in again, which a has; b, which is again; and inside, which is own.
    assert listing.ignored["links to folders"] == 3
    assert all(isinstance(read(), bytes) for _, read in listing.contents())


def test_without_it_they_are_bad_and_the_setting_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    assert [entry.name for entry in list_pictures(root).entries] == ["annexed.png", "own/0.png"]
    with pytest.raises(UserError, match=r"links out of the folder are followed with data\.follow_links=true"):
        open_data(section("folder", root=str(root), size=8, held_out=0), lambda *_: None)
    followed = section("folder", root=str(root), size=8, held_out=0, follow_links=True, on_bad="skip")
    assert sum(open_data(followed, lambda *_: None).counts.values()) == 6


def test_lists_follow_them_too(root: Path) -> None:
    (root / "list.csv").write_text("file.png\nb/deep/2.png\nown/0.png\n")
    assert len(list_pictures(root / "list.csv").entries) == 1
    assert len(list_pictures(root / "list.csv", follow_links=True).entries) == 3


def test_every_source_of_folders_has_it_and_keeps_its_key_without(root: Path) -> None:
    assert {name for name in DATA if "follow_links" in section(name)} == {
        "folder", "celeba", "anime_faces", "huggingface",
    }  # fmt: skip
    assert "data.follow_links" in MAY_CHANGE
    key = make_source(section("folder", root=str(root))).key()
    assert "follow_links" not in key  # else all pictures of older versions would be decoded anew
    assert make_source(section("folder", root=str(root), follow_links=True)).key()["follow_links"] is True
