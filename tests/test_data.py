"""Data sets, their cache, their splits, and which images make up which batch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gentrain import anime
from gentrain.data import open_data
from gentrain.data.anime import HELD_OUT, grey_or_color
from gentrain.data.batches import Batches, Images
from gentrain.data.folder import decode
from gentrain.data.packed import cache_dir
from gentrain.errors import UserError

ANIME = {"name": "anime", "size": 32, "channels": 3, "levels": 256, "count": 300, "seed": 0}
CPU = torch.device("cpu")


def quiet(_done: int, _total: int) -> None:
    pass


def numbered(count: int) -> np.ndarray:
    """Images that say which they are."""
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- batches


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 25])
def test_every_image_once_an_epoch(batch_size: int) -> None:
    batches = Batches(Images(numbered(10), 256, CPU), batch_size, seed=3)
    steps = 20
    seen = torch.cat([batches.indices(step) for step in range(steps)])
    for epoch in seen.view(-1, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in seen.view(-1, 10)}) > 1


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images = Images(numbered(50), 256, CPU)
    one, other = Batches(images, 8, seed=0), Batches(images, 8, seed=0)
    late = other.indices(1000)
    for step in range(1000):
        one.indices(step)
    assert torch.equal(one.indices(1000), late)
    assert not torch.equal(Batches(images, 8, seed=1).indices(0), one.indices(0))


def test_each_call_within_a_step_has_a_stream_of_its_own() -> None:
    batches = Batches(Images(numbered(50), 256, CPU), 8, seed=0)
    next_batch = batches.at(5)
    first, second = next_batch().flatten(), next_batch().flatten()
    assert torch.equal(first.long(), batches.indices(5, 0))
    assert torch.equal(second.long(), batches.indices(5, 1))
    assert not torch.equal(first, second)


def test_the_last_short_chunk_counts() -> None:
    images = Images(numbered(10), 256, CPU)
    assert [len(chunk) for chunk in images.chunks(4)] == [4, 4, 2]
    assert torch.cat([images.take(chunk) for chunk in images.chunks(4)]).flatten().tolist() == list(range(10))


def test_levels() -> None:
    images = Images(np.array([0, 127, 128, 255], np.uint8).reshape(-1, 1, 1, 1), 2, CPU)
    assert images.take(torch.arange(4)).flatten().tolist() == [0, 0, 1, 1]


# ---- anime


def test_anime_is_its_own_drawings_with_labels() -> None:
    packed = open_data(ANIME, quiet)
    assert packed.counts == {"train": 300, "valid": HELD_OUT, "test": HELD_OUT}
    assert packed.images.shape == (2300, 3, 32, 32)
    assert packed.images.dtype == np.uint8
    assert np.array_equal(anime.decode(packed.split("test")[:50]), packed.labels[packed.rows("test")][:50])
    assert [label.name for label in packed.label_info] == [factor.name for factor in anime.FACTORS]
    assert packed.facts["entropy_bits"] == anime.ENTROPY_BITS >= 24
    assert "entropy_bits" not in open_data(ANIME | {"levels": 8}, quiet).facts


def test_anime_splits_share_no_face_and_do_not_depend_on_the_count() -> None:
    small, large = open_data(ANIME, quiet), open_data(ANIME | {"count": 400}, quiet)
    for split in ("valid", "test"):
        assert np.array_equal(small.split(split), large.split(split))
    assert np.array_equal(small.split("train"), large.split("train")[:300])
    faces = {row.tobytes() for row in large.labels}
    assert len(faces) == len(large.labels)


def test_grey_faces_are_what_pillow_makes_of_them() -> None:
    color = open_data(ANIME, quiet).split("valid")[:4]
    grey = grey_or_color(np.asarray(color), 1)
    for image_CHW, grey_CHW in zip(color, grey, strict=True):
        expected = np.asarray(Image.fromarray(image_CHW.transpose(1, 2, 0)).convert("L"))
        assert np.array_equal(grey_CHW[0], expected)
    assert "entropy_bits" not in open_data(ANIME | {"channels": 1, "count": 1}, quiet).facts


# ---- the cache


def test_the_cache_is_used_and_made_again_when_damaged(fresh_cache: Path) -> None:
    calls = []
    first = open_data(ANIME, lambda done, _total: calls.append(done))
    pixels = first.images.copy()  # the file under the map is about to be cut
    assert calls
    calls.clear()
    again = open_data(ANIME, lambda done, _total: calls.append(done))
    assert not calls
    assert again.fingerprint == first.fingerprint
    (entry,) = fresh_cache.iterdir()
    data = (entry / "images.npy").read_bytes()
    (entry / "images.npy").write_bytes(data[: len(data) // 2])
    mended = open_data(ANIME, lambda done, _total: calls.append(done))
    assert calls
    assert np.array_equal(mended.images, pixels)
    assert [path.name for path in fresh_cache.iterdir()] == [entry.name]


def test_settings_have_entries_of_their_own_and_levels_do_not(fresh_cache: Path) -> None:
    for changed in ({}, {"levels": 8}, {"seed": 1}, {"count": 2}):
        open_data(ANIME | {"count": 1} | changed, quiet)
    assert len(list(fresh_cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="GENTRAIN_CACHE"):
        open_data(ANIME | {"count": 1}, quiet)
    assert cache_dir() == tmp_path / "file" / "cache"


# ---- folders


def folder(root: Path, **changed: object) -> dict[str, object]:
    return {
        "name": "folder",
        "root": str(root),
        "size": 8,
        "channels": 3,
        "levels": 256,
        "count": None,
    } | changed


def test_a_folder_is_split_without_losing_a_picture(pictures: Path, fresh_cache: Path) -> None:
    packed = open_data(folder(pictures), quiet)
    assert sum(packed.counts.values()) == 80
    assert all(count > 0 for count in packed.counts.values())
    few = open_data(folder(pictures, count=5), quiet)
    assert few.counts == packed.counts | {"train": 5}
    assert np.array_equal(few.split("test"), packed.split("test"))


def test_equal_pictures_are_in_one_split_and_stay_there(
    pictures: Path, tmp_path: Path, fresh_cache: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(pictures, copied)
    for file in sorted(pictures.glob("*.png")):
        shutil.copy(file, copied / f"copy-{file.name}")
    once, twice = open_data(folder(pictures), quiet), open_data(folder(copied), quiet)

    def where(packed) -> dict[bytes, set[str]]:  # type: ignore[no-untyped-def]
        found: dict[bytes, set[str]] = {}
        for split in packed.counts:
            for image in packed.split(split):
                found.setdefault(image.tobytes(), set()).add(split)
        return found

    assert len(twice.images) > len(once.images)
    assert where(once) == where(twice)
    assert all(len(splits) == 1 for splits in where(twice).values())


def test_a_changed_folder_is_decoded_anew(pictures: Path, tmp_path: Path, fresh_cache: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(pictures, copied)
    before = open_data(folder(copied), quiet)
    os.utime(next(copied.glob("*.png")), ns=(1, 1))
    calls = []
    open_data(folder(copied), lambda done, _total: calls.append(done))
    assert calls
    next(copied.glob("*.png")).unlink()
    assert len(open_data(folder(copied), quiet).images) == len(before.images) - 1


def test_every_unreadable_picture_is_named(pictures: Path, tmp_path: Path, fresh_cache: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(pictures, copied)
    (copied / "empty.png").write_bytes(b"")
    (copied / "text.jpg").write_text("no picture")
    whole = next(copied.glob("*.png")).read_bytes()
    (copied / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="3 of 83 pictures cannot be read") as raised:
        open_data(folder(copied), quiet)
    for name in ("empty.png", "text.jpg", "half.png"):
        assert name in str(raised.value)
    assert not list(fresh_cache.glob("*/images.npy"))


def test_a_folder_without_pictures_or_with_too_few(tmp_path: Path, fresh_cache: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        open_data(folder(tmp_path), quiet)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"holds 1 pictures, and none of them falls into the \w+ split"):
        open_data(folder(tmp_path), quiet)


def test_decoding(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (200, 100, 50)
    Image.fromarray(wide).save(path)
    square = decode(path, 10, 3)
    assert isinstance(square, np.ndarray)
    assert square.shape == (3, 10, 10)
    assert np.array_equal(square[:, 5, 5], [200, 100, 50])
    assert np.array_equal(square[:, 0, 0], [200, 100, 50])  # the central square, not the borders
    Image.new("RGBA", (9, 9), (10, 20, 30, 0)).save(path)
    transparent = decode(path, 8, 1)
    assert isinstance(transparent, np.ndarray)
    assert transparent.shape == (1, 8, 8)
    assert (transparent == 255).all()
    halves = np.zeros((64, 64), np.uint8)
    halves[:, ::2] = 255
    Image.fromarray(halves).save(path)
    small = decode(path, 8, 1)
    assert isinstance(small, np.ndarray)
    assert abs(small.astype(float).mean() - 127.5) < 3  # antialiased: stripes become grey
    assert small.std() < 20
