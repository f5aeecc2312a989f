"""Data sets, their cache, their splits, and which images make up which batch."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gentrain import anime
from gentrain.config.settings import Preprocessing
from gentrain.data.augment import augment
from gentrain.data.batches import Batches
from gentrain.data.build import check_data, open_data
from gentrain.data.dataset import ImageSplit
from gentrain.data.fingerprints import Difference, compare
from gentrain.data.reading import splitting
from gentrain.data.reading.downloads import cache_dir
from gentrain.data.reading.rows import Rows, arrange, in_parallel, save_array
from gentrain.data.reading.splitting import split as split_up
from gentrain.data.sources.anime import HELD_OUT, grey_or_color
from gentrain.errors import RunFailed, UserError
from gentrain.runtime.seeding import generator

VIEW = {
    "levels": 256,
    "binarize": "threshold",
    "flip": False,
    "shift": 0,
    "on_bad": "fail",
    "allow_changed": False,
}
AS_IS = Preprocessing(**VIEW)  # type: ignore[arg-type]
ANIME = {"name": "anime", "size": 32, "channels": 3, "count": 300, "seed": 0} | VIEW
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
    batches = Batches(ImageSplit(numbered(10), AS_IS, CPU), batch_size, seed=3)
    steps = 20
    seen = torch.cat([batches.indices(step) for step in range(steps)])
    for epoch in seen.view(-1, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in seen.view(-1, 10)}) > 1


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images = ImageSplit(numbered(50), AS_IS, CPU)
    one, other = Batches(images, 8, seed=0), Batches(images, 8, seed=0)
    late = other.indices(1000)
    for step in range(1000):
        one.indices(step)
    assert torch.equal(one.indices(1000), late)
    assert not torch.equal(Batches(images, 8, seed=1).indices(0), one.indices(0))


def test_each_call_within_a_step_has_a_stream_of_its_own() -> None:
    batches = Batches(ImageSplit(numbered(50), AS_IS, CPU), 8, seed=0)
    next_batch = batches.at(5)
    first, second = next_batch().flatten(), next_batch().flatten()
    assert torch.equal(first.long(), batches.indices(5, 0))
    assert torch.equal(second.long(), batches.indices(5, 1))
    assert not torch.equal(first, second)


def test_the_last_short_chunk_counts() -> None:
    images = ImageSplit(numbered(10), AS_IS, CPU)
    assert [len(chunk) for chunk in images.chunks(4)] == [4, 4, 2]
    assert torch.cat([images.take(chunk) for chunk in images.chunks(4)]).flatten().tolist() == list(range(10))


def test_levels() -> None:
    images = ImageSplit(
        np.array([0, 127, 128, 255], np.uint8).reshape(-1, 1, 1, 1), replace(AS_IS, levels=2), CPU
    )
    assert images.take(torch.arange(4)).flatten().tolist() == [0, 0, 1, 1]


def test_dynamic_binarization_draws_anew_in_training_and_the_same_in_evaluation() -> None:
    grey = np.full((200, 1, 8, 8), 51, np.uint8)  # 51 / 255 = 0.2
    grey[0] = 0
    grey[1] = 255
    images = ImageSplit(grey, replace(AS_IS, levels=2, binarize="dynamic"), CPU)
    whole = images.take(torch.arange(200))
    assert whole.max() == 1
    assert (whole[0] == 0).all()
    assert (whole[1] == 1).all()
    assert abs(whole[2:].float().mean() - 0.2) < 4 * (0.16 / (198 * 64)) ** 0.5
    assert torch.equal(torch.cat([images.take(torch.tensor([i])) for i in range(200)]), whole)
    batches = Batches(images, 200, seed=0)
    first, again, second = batches.at(0)(), batches.at(0)(), batches.at(1)()
    assert torch.equal(first, again)
    assert not torch.equal(first[batches.indices(0).argsort()][2:], second[batches.indices(1).argsort()][2:])


def test_thresholds_are_at_the_middle_and_words_name_them() -> None:
    assert replace(AS_IS, levels=2).description == "2 levels (threshold at 128)"
    assert replace(AS_IS, levels=2, binarize="dynamic").description == "2 levels (dynamic binarization)"
    assert AS_IS.description == "256 levels"
    for wrong in ({"binarize": "dynamic"}, {"shift": 16}):
        with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))}"):
            check_data(ANIME | wrong)


# ---- moving pictures about


def test_flips_mirror_half_of_the_pictures() -> None:
    x = torch.randint(0, 256, (400, 3, 5, 4), dtype=torch.uint8, generator=generator(0, "x"))
    moved = augment(x, replace(AS_IS, flip=True), generator(1, "coins"))
    mirrored = (moved == x.flip(-1)).flatten(1).all(1)
    same = (moved == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 140 < mirrored.sum() < 260


def test_shifts_move_by_whole_pixels_and_repeat_the_border() -> None:
    x = torch.randint(0, 256, (300, 2, 6, 7), dtype=torch.uint8, generator=generator(0, "x"))
    moved = augment(x, replace(AS_IS, shift=2), generator(1, "coins"))
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        found = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if torch.equal(before[:, down : down + 6, right : right + 7], after)
        ]
        assert found
        seen |= set(found)
    assert len(seen) == 25


# ---- larger than memory


def test_what_does_not_fit_is_fetched_ahead_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 3, 9, 9), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")[7:]
    within = Batches(ImageSplit(mapped, AS_IS, CPU), 8, seed=5)
    assert within.images.resident
    monkeypatch.setattr("gentrain.data.dataset.FITS", 0)
    outside = Batches(ImageSplit(mapped, AS_IS, CPU), 8, seed=5)
    assert not outside.images.resident
    assert outside.images._map is not None
    assert outside.images._map._mmap is not None
    read: list[int] = []
    original = outside.images.fetch
    monkeypatch.setattr(
        outside.images, "fetch", lambda i: (read.append(threading.get_ident()), original(i))[1]
    )
    for step in [0, 1, 2, 3, 40, 7, 8]:  # in order, and with leaps
        one, other = within.at(step), outside.at(step)
        for _ in range(2):
            assert torch.equal(one(), other())
    assert threading.get_ident() not in read
    assert torch.equal(outside.images.take(torch.arange(90)), torch.from_numpy(pixels[7:]))


def test_rows_are_written_in_sequence_and_arranged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 4), np.uint8)
    rows = Rows(tmp_path / "rows", (3, 4, 4))
    assert [rows.append(image) for image in pixels] == list(range(30))
    order = np.random.default_rng(1).permutation(30)[:20]
    arranged = arrange(rows.close(), order, tmp_path / "images.npy")
    assert isinstance(arranged, np.memmap)
    assert np.array_equal(arranged, pixels[order])


def test_parallel_results_are_in_order_and_bounded() -> None:
    taken = []

    def items():  # type: ignore[no-untyped-def]
        for number in range(500):
            taken.append(number)
            yield number

    results = in_parallel(lambda number: number**2, items(), 2)
    assert next(results) == (0, 0)
    assert len(taken) < 50
    assert [result for _, result in results] == [number**2 for number in range(1, 500)]


# ---- splits


HASHES = np.random.default_rng(0).integers(0, 2**64, 400, np.uint64)


def test_adding_pictures_moves_no_old_one_to_another_split() -> None:
    before = split_up(HASHES[:300], None, 0.1, None, "x")
    after = split_up(HASHES, None, 0.1, None, "x")

    def home(parts) -> dict[int, str]:  # type: ignore[no-untyped-def]
        names = np.repeat(list(parts.counts), list(parts.counts.values()))
        return dict(zip(parts.order.tolist(), names.tolist(), strict=True))

    old, new = home(before), home(after)
    assert len(old) == 300
    assert all(new[row] == name for row, name in old.items())
    assert after.counts["train"] > before.counts["train"]


def test_a_sources_own_splits_are_kept_and_leaks_left_out() -> None:
    given = np.array([splitting.TRAIN] * 300 + [splitting.TEST] * 100)
    hashes = HASHES.copy()
    hashes[5] = hashes[350]  # a training picture that is in the test split too
    hashes[6] = hashes[7]  # and two equal ones in training
    parts = split_up(hashes, given, 0.1, None, "x")
    assert parts.counts["test"] == 100
    assert parts.counts["train"] + parts.counts["valid"] == 299
    assert 15 < parts.counts["valid"] < 50
    assert 5 not in parts.order
    assert set(parts.order[-100:]) == set(range(300, 400))
    assert parts.facts == {"duplicates": 1, "left_out": 1}
    own = given.copy()
    own[:40] = splitting.VALID
    assert split_up(hashes, own, 0.1, 10, "x").counts == {"train": 10, "valid": 39, "test": 100}


def test_an_empty_split_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"my pictures has 3 usable pictures.*the \w+ split.*data\.held_out"):
        split_up(HASHES[:3], None, 0.01, None, "my pictures")


def test_differences_count_by_pixels_first_and_names_next() -> None:
    def table(*rows: tuple[int, ...]) -> np.ndarray:
        return np.array([(*row, 0)[:3] for row in rows], np.uint64).reshape(-1, 3)

    old = table((1, 10), (2, 20), (3, 30), (4, 30), (5, 50))
    assert compare(old, old[::-1]) == Difference(0, 0, 0)
    assert compare(old, table((9, 10), (8, 20), (3, 30), (4, 30), (5, 50))) == Difference(0, 0, 0)  # renamed
    assert compare(old, table((1, 10), (2, 21), (3, 30), (5, 50), (6, 60))) == Difference(1, 1, 1)
    assert compare(old, table()) == Difference(0, 5, 0)
    assert compare(table((1, 10)), table((1, 10), (2, 10))) == Difference(1, 0, 0)  # a second copy
    moved = compare(old, table((1, 10, 2), (2, 20), (3, 30), (4, 30, 1), (5, 51)))
    assert moved == Difference(0, 0, 1, moved=2)
    assert str(moved) == "+0, -0, ~1 images, and 2 in another split,"


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
        "count": None,
        "fit": "crop",
        "background": "white",
        "held_out": 0.1,
        "verify": "times",
        "follow_links": False,
        **VIEW,
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
    with pytest.raises(UserError, match="3 of 83 pictures cannot be used") as raised:
        open_data(folder(copied), quiet)
    for name in ("empty.png", "text.jpg", "half.png"):
        assert name in str(raised.value)
    calls = []
    with pytest.raises(UserError, match="3 of 83"):  # at once: what could be decoded was kept
        open_data(folder(copied), lambda done, _total: calls.append(done))
    assert not calls
    skipped = open_data(folder(copied, on_bad="skip"), quiet)
    assert len(skipped.images) == 80
    assert skipped.facts["bad"] == 3
    assert {bad.name for bad in skipped.bad} == {"empty.png", "half.png", "text.jpg"}


def test_a_folder_without_pictures_or_with_too_few(tmp_path: Path, fresh_cache: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        open_data(folder(tmp_path), quiet)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"has 1 usable pictures, and none of them falls into the \w+ split"):
        open_data(folder(tmp_path), quiet)


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(path)


def test_another_folder_with_the_same_names_sizes_and_times_is_another(
    tmp_path: Path, fresh_cache: Path
) -> None:
    for folder_number in range(2):
        for number in range(60):
            path = tmp_path / f"{folder_number}" / f"{number}.bmp"
            save(path, number + 100 * folder_number)
            os.utime(path, ns=(1, 1))
    one, other = (open_data(folder(tmp_path / name), quiet) for name in ("0", "1"))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("wrapped", ["", "data/pets/"])
def test_own_splits_of_a_folder_are_found_in_wrapping_folders(
    wrapped: str, tmp_path: Path, fresh_cache: Path
) -> None:
    for number in range(60):
        split = ("Train", "Train", "test")[number % 3]
        save(tmp_path / wrapped / split / ("cat", "dog")[number % 2] / f"{number}.png", number)
    packed = open_data(folder(tmp_path), quiet)
    assert packed.counts["test"] == 20
    assert packed.counts["train"] + packed.counts["valid"] == 40
    assert set(packed.split("test")[:, 0, 0, 0] % 3) == {2}
    assert [label.name for label in packed.label_info] == ["class"]
    assert packed.label_info[0].choices == ("cat", "dog")
    assert np.array_equal(packed.labels[:, 0], packed.images[:, 0, 0, 0] % 2)
    save(tmp_path / wrapped / "preview.png", 200)
    with pytest.raises(UserError, match="splits of its own, but some pictures are in no folder"):
        open_data(folder(tmp_path), quiet)


def test_own_splits_of_a_list_and_a_lost_one(tmp_path: Path, fresh_cache: Path) -> None:
    lines = ["file,split,kind"]
    for number in range(60):
        save(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,{('train', 'train', 'val')[number % 3]},{number % 2}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    packed = open_data(folder(tmp_path / "list.csv"), quiet)
    assert packed.counts["valid"] == 20
    assert packed.counts["test"] > 0
    assert [label.name for label in packed.label_info] == ["kind"]
    assert np.array_equal(packed.labels[:, 0], packed.images[:, 0, 0, 0] % 2)
    for number in range(2, 60, 3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a valid split of its own, of which no picture can be used"):
        open_data(folder(tmp_path / "list.csv", on_bad="skip"), quiet)


def test_class_folders_in_a_wrapping_folder_are_labels(tmp_path: Path, fresh_cache: Path) -> None:
    for number in range(60):
        save(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.jfif.png", number)
        (tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.jfif.png").rename(
            tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.jfif"
        )
    packed = open_data(folder(tmp_path), quiet)
    assert packed.label_info[0].choices == ("cat", "dog")
    assert np.array_equal(packed.labels[:, 0], packed.images[:, 0, 0, 0] % 2)


def test_a_small_folder_names_its_bad_files_too(tmp_path: Path, fresh_cache: Path) -> None:
    save(tmp_path / "good.png", 1)
    for number in range(3):
        (tmp_path / f"bad{number}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"(?s)1 usable.*these are bad:.*bad0.png.*bad1.png.*bad2.png"):
        open_data(folder(tmp_path), quiet)


def test_what_could_not_be_read_for_a_moment_is_read_again(
    pictures: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def failing(path, flags, *rest, dir_fd=None):  # type: ignore[no-untyped-def]
        if str(path).endswith("a3.png"):
            raise OSError(5, "Input/output error")
        return original(path, flags, *rest, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr("gentrain.data.reading.entries.os.open", failing)
        with pytest.raises(UserError, match=r"1 of 80 pictures(?s:.*)a3.png \(cannot be read: input"):
            open_data(folder(pictures), quiet)
    assert len(open_data(folder(pictures), quiet).images) == 80


def test_a_full_disk_while_packing_is_a_sentence(
    pictures: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gentrain.data.packed.save_array", full)
    with pytest.raises(RunFailed, match="no space left in the cache"):
        open_data(folder(pictures), quiet)
    assert list(fresh_cache.iterdir()) == []


def test_arrays_are_saved_as_numpy_does(tmp_path: Path) -> None:
    for array in (np.arange(12.0).reshape(3, 4), np.zeros((0, 3), np.int64), np.ones((5, 2, 2), np.uint8)):
        save_array(tmp_path / "x.npy", array)
        back = np.load(tmp_path / "x.npy", allow_pickle=False)
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)
