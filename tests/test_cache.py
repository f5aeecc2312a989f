"""An entry of the cache that is not whole, in whatever way, is made again with a word; none is trusted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_sources import section

from gentrain.data.build import open_data
from gentrain.data.cache_files import NotWhole, read_meta
from gentrain.data.fingerprints import Label, label_hashes, pictures_of
from gentrain.data.packed import Packed
from gentrain.data.reading.entries import SPLITS
from gentrain.errors import UserError

FILES = ("images.npy", "labels.npy", "identities.npy", "meta.json")
ARRAYS = FILES[:3]
WRONG: tuple[Any, ...] = (None, True, -1, 1e300, "x", "", [], {}, [1], [["a", "b", "c"]], {"train": "many"})
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        (root / f"{number % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 255 - number, 9)).save(root / f"{number % 2}" / f"{number}.png")
    (root / "0" / "bad.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda _: None)  # a hundred entries are written
    return tmp_path / "cache"


def opened(pictures: Path) -> tuple[Packed, bool]:
    """What is packed, and whether anything was decoded for it."""
    calls: list[int] = []
    settings = section("folder", root=str(pictures), size=8, on_bad="skip", held_out=0.3)
    packed = open_data(settings, lambda done, _: calls.append(done))
    return packed, bool(calls)


def replaced(make: Callable[[Path], object]) -> Damage:
    def damage(file: Path) -> None:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        make(file)

    return damage


OF_ANY_FILE: dict[str, Damage] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "garbage": lambda file: file.write_bytes(b"\xff\x00garbage" * 9),
    "zip": lambda file: file.write_bytes(b"PK\x03\x04" + bytes(99)),
    "folder": replaced(lambda file: file.mkdir()),
    "pipe": replaced(os.mkfifo),
    "dangling": replaced(lambda file: file.symlink_to("nothing")),
    "device": replaced(lambda file: file.symlink_to("/dev/zero")),
}
HEADERS = (
    "(" * 4000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 3)}",
    "{'descr': 'q' * 9}",
    "[]",
)
OF_ANY_ARRAY: dict[str, Damage] = {
    "no images": lambda file: np.save(file, np.load(file)[:0]),
    "one less": lambda file: np.save(file, np.load(file)[1:]),
    "flat": lambda file: np.save(file, np.load(file).ravel()),
    "scalar": lambda file: np.save(file, np.uint8(3)),
    "another type": lambda file: np.save(file, np.load(file).astype(np.float32)),
    "objects": lambda file: np.save(file, np.array([{"a": 1}], object), allow_pickle=True),
    "other numbers": lambda file: np.save(file, np.load(file) + np.array(77, np.load(file).dtype)),
} | {
    f"header {number}": lambda file, text=text: file.write_bytes(  # type: ignore[misc]
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    )
    for number, text in enumerate(HEADERS)
}
OF_THE_ENTRY: dict[str, Damage] = {
    "a file": replaced(lambda entry: entry.write_text("")),
    "a dangling link": replaced(lambda entry: entry.symlink_to("nothing")),
    "a pipe": replaced(os.mkfifo),
    "an empty folder": replaced(lambda entry: entry.mkdir()),
}


def same(one: Packed, other: Packed) -> bool:
    return (
        np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.identities, other.identities)
        and (one.counts, one.label_info) == (other.counts, other.label_info)
        and one.fingerprint == other.fingerprint
    )


def test_whatever_is_damaged_is_made_again(
    pictures: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, made = opened(pictures)
    assert made and not opened(pictures)[1]
    (entry,) = cache.iterdir()
    kept = cache.with_name("kept")
    shutil.copytree(entry, kept)
    cases = [(name, damage, entry) for name, damage in OF_THE_ENTRY.items()]
    cases += [(name, damage, entry / file) for name, damage in OF_ANY_FILE.items() for file in FILES]
    cases += [(name, damage, entry / file) for name, damage in OF_ANY_ARRAY.items() for file in ARRAYS]
    for name, damage, place in cases:
        if (name, place.name) == ("other numbers", "images.npy"):
            continue  # pixels are not read to see whether they are still the same
        damage(place)
        capfd.readouterr()
        again, made = opened(pictures)
        said = capfd.readouterr().out
        assert made, (name, place)
        assert same(again, whole), (name, place)
        assert f"the cache's entry {entry} is not whole (" in said, (name, place)
        assert said.count("\n") == 1 and "it is made again" in said
        assert [path.name for path in cache.iterdir()] == [entry.name]
    # Nothing of this was for want of a whole entry: that one is taken as it is.
    shutil.rmtree(entry)
    kept.rename(entry)
    assert not opened(pictures)[1]


def test_metadata_that_means_nothing_is_made_again(pictures: Path, cache: Path) -> None:
    opened(pictures)
    (entry,) = cache.iterdir()
    file = entry / "meta.json"
    text = file.read_text()

    def places(value: Any) -> list[tuple[Any, Any]]:
        inside = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        return [(value, key) for key, _ in inside] + [
            place for _, below in inside for place in places(below)
        ]  # fmt: skip

    count = len(places({key: value for key, value in json.loads(text).items() if key != "key"}))
    assert count > 20
    for number in range(count):
        for wrong in (*WRONG, KeyError):
            meta = json.loads(text)
            container, key = places({k: v for k, v in meta.items() if k != "key"})[number]
            top = meta if key in meta and container.keys() == meta.keys() - {"key"} else container
            if wrong is KeyError:
                del top[key]
            else:
                top[key] = wrong
            file.write_text(json.dumps(meta))
            try:
                counts, info, facts, bad, _ = read_meta(file)
            except NotWhole as fault:
                assert str(fault).startswith("meta.json: ")
                continue
            # What was put there is of the right kind.
            assert list(counts) == list(SPLITS) and all(type(count) is int for count in counts.values())
            assert all(isinstance(choice, str) for label in info for choice in label.choices)
            assert all(isinstance(one.name, str) and isinstance(one.reason, str) for one in bad)
            assert set(map(type, facts.get("originals", {}).values())) <= {list, int}
    for content in ("[" * 100_000, '{"counts": 1' + "0" * 5000 + "}", "[]", "3", '{"counts": NaN}'):
        file.write_text(content)
        assert opened(pictures)[1]


def test_an_entry_that_cannot_be_removed_is_a_sentence(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(pictures)
    (entry,) = cache.iterdir()
    (entry / "meta.json").write_text("")

    remove = shutil.rmtree

    def refuse(path: Path, *_: object, **rest: object) -> None:
        if Path(path) == entry:
            raise PermissionError(13, "Permission denied")
        remove(path, ignore_errors=True)

    monkeypatch.setattr("gentrain.data.packed.shutil.rmtree", refuse)
    with pytest.raises(UserError, match=r"is not whole and cannot be removed \(Permission denied\)"):
        opened(pictures)


def test_hashes_of_labels_go_by_names() -> None:
    two = (Label("kind", ("cat", "dog")), Label("left", ("no", "yes")))
    labels = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]])
    hashes = label_hashes(labels, two)
    assert len(set(hashes.tolist())) == 4
    assert hashes[0] == hashes[4]
    other = (Label("kind", ("ant", "cat", "dog")), two[1])
    assert np.array_equal(label_hashes(labels + np.array([1, 0]), other), hashes)
    assert not np.array_equal(label_hashes(labels, other), hashes)
    assert label_hashes(np.zeros((3, 0), np.int64), ()).tolist() == [0, 0, 0]
    assert pictures_of("f00d-beef") == pictures_of("f00d") == "f00d"
