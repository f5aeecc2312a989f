"""Named data sets, read from files as their makers publish them; downloads by stand-ins."""

from __future__ import annotations

import ast
import gzip
import importlib.util
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from omegaconf import OmegaConf
from PIL import Image

from gentrain.config.compose import CONFIG_DIR
from gentrain.data.build import make_source, open_data
from gentrain.data.packed import Packed
from gentrain.data.reading.downloads import downloads_dir
from gentrain.data.sources import cifar10, digits, fashion_mnist, huggingface, idx
from gentrain.data.sources.celeba import ATTRIBUTES, PARTITION
from gentrain.errors import UserError
from gentrain.images import quantize

INSTALLED = fashion_mnist.DATA.installed
assert INSTALLED is not None


def quiet(_done: int, _total: int) -> None:
    pass


def section(name: str, **changed: object) -> dict[str, Any]:
    """The defaults of a source's YAML and of config.yaml, with changes."""
    own = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "data" / f"{name}.yaml"))
    frame = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "config.yaml"), resolve=False)
    assert isinstance(own, dict) and isinstance(frame, dict)
    return {**frame["data"], **own, **changed}


def opened(name: str, **changed: object) -> Packed:
    make_source(section(name, **changed)).check()
    return open_data(section(name, **changed), quiet)


def pixels(packed: Packed, split: str) -> set[bytes]:
    return {image.tobytes() for image in packed.split(split)}


def assert_no_leak(packed: Packed) -> None:
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert pixels(packed, one).isdisjoint(pixels(packed, other))


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of one's own, and no package installed."""
    monkeypatch.setenv("GENTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DATA", replace(fashion_mnist.DATA, installed=None))


# ---- the files of MNIST and Fashion-MNIST


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(
    folder: Path, train: int = 200, test: int = 30, packed: bool = True, seed: int = 0
) -> list[np.ndarray]:
    """Four files as MNIST has them; returns what they hold."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name, count in zip(idx.FILES, (train, train, test, test), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        arrays.append(random.integers(0, 256 if "images" in name else 10, shape, np.uint8))
        data = idx_bytes(arrays[-1])
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data, 1) if packed else data)
    return arrays


@pytest.mark.skipif(not INSTALLED.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_what_debian_ships(tmp_path: Path) -> None:
    def plainly(name: str, skip: int) -> np.ndarray:
        with gzip.open(INSTALLED / f"{name}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=skip)

    packed = opened("fashion_mnist", root=str(INSTALLED))
    assert packed.counts["test"] == 10_000
    assert packed.counts["train"] + packed.counts["valid"] == 60_000
    assert 5_500 < packed.counts["valid"] < 6_500
    images = packed.images.reshape(70_000, 784)
    for names, rows in ((idx.FILES[:2], slice(0, 60_000)), (idx.FILES[2:], slice(60_000, 70_000))):
        expected = np.hstack([plainly(names[0], 16).reshape(-1, 784), plainly(names[1], 8)[:, None]])
        found = np.hstack([images[rows], packed.labels[rows].astype(np.uint8)])
        assert sorted(map(bytes, expected)) == sorted(map(bytes, found))  # each picture, with its label
    assert packed.label_info[0].choices[9] == "Ankle boot"
    assert_no_leak(packed)


@pytest.mark.parametrize("layout", ["flat", "torchvision"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_found_in_either_layout(name: str, layout: str, packed: bool, tmp_path: Path) -> None:
    folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    arrays = write_idx(
        tmp_path / "r" / folder / "raw" if layout == "torchvision" else tmp_path / "r", packed=packed
    )
    data = opened(name, root=str(tmp_path / "r"))
    assert pixels(data, "test") == {image.tobytes() for image in arrays[2]}
    assert pixels(data, "train") | pixels(data, "valid") == {image.tobytes() for image in arrays[0]}
    assert data.counts["test"] == 30
    by_pixels = {image.tobytes(): label for image, label in zip(arrays[2], arrays[3], strict=True)}
    for image, label in zip(data.split("test"), data.labels[data.rows("test")], strict=True):
        assert by_pixels[image.tobytes()] == label[0]
    assert_no_leak(data)


def test_the_packages_folder_is_found_without_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "installed", test=3)
    write_idx(tmp_path / "own", test=4)
    monkeypatch.setattr(fashion_mnist, "DATA", replace(fashion_mnist.DATA, installed=tmp_path / "installed"))
    assert opened("fashion_mnist").counts["test"] == 3
    assert opened("fashion_mnist", root=str(tmp_path / "own")).counts["test"] == 4


def test_the_test_split_is_kept_and_count_cuts_training_alone(tmp_path: Path) -> None:
    write_idx(tmp_path / "r")
    whole, few = (opened("mnist", root=str(tmp_path / "r"), count=count) for count in (None, 20))
    assert few.counts == {**whole.counts, "train": 20}
    assert np.array_equal(few.split("test"), whole.split("test"))
    assert np.array_equal(few.split("train"), whole.split("train")[:20])


def test_other_sizes_and_channels_are_pillows(tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / "r", test=1)
    data = opened("mnist", root=str(tmp_path / "r"), size=32, channels=3)
    wanted = np.asarray(Image.fromarray(arrays[2][0]).resize((32, 32), Image.Resampling.LANCZOS))
    assert data.images.shape[1:] == (3, 32, 32)
    assert np.array_equal(data.split("test")[0], np.stack([wanted] * 3))
    colour = opened("mnist", root=str(tmp_path / "r"), channels=3)
    assert np.array_equal(colour.split("test")[0], np.stack([arrays[2][0]] * 3))


IMAGES = idx_bytes(np.zeros((5, 28, 28), np.uint8))
DAMAGE: dict[str, tuple[str, bytes, str]] = {
    "cut": ("train-images-idx3-ubyte", IMAGES[:-1], "says 3,920 bytes, and it holds only 3,919"),
    "too long": ("train-images-idx3-ubyte", IMAGES + b"x", "and it holds more"),
    "header alone": ("train-images-idx3-ubyte", IMAGES[:9], "ends within its header"),
    "empty": ("train-images-idx3-ubyte", b"", "begins with nothing"),
    "web page": ("train-images-idx3-ubyte", b"<html>not found</html>", "begins with 3c68746d, not 00000803"),
    "labels for images": ("train-images-idx3-ubyte", idx_bytes(np.zeros(5, np.uint8)), "not 00000803"),
    "floats": ("train-images-idx3-ubyte", b"\0\0\x0d\3" + IMAGES[4:], "not 00000803"),
    "bomb": ("train-images-idx3-ubyte", b"\0\0\x08\3" + b"\xff" * 12, "its header says 4294967295"),
    "no pictures": ("train-images-idx3-ubyte", idx_bytes(np.zeros((0, 28, 28), np.uint8)), "0 x 28 x 28"),
    "size": ("train-images-idx3-ubyte", idx_bytes(np.zeros((200, 32, 28), np.uint8)), "28 x 32 pixels; those of MNIST"),
    "count": ("train-images-idx3-ubyte", IMAGES, "holds 5 pictures and .* 200 labels"),
    "label": ("train-labels-idx1-ubyte", idx_bytes(np.full(200, 10, np.uint8)), "holds the label 10"),
    "gz of nothing": ("train-images-idx3-ubyte.gz", b"", "begins with nothing"),
    "gz cut": ("train-images-idx3-ubyte.gz", gzip.compress(np.random.default_rng(0).bytes(99))[:50], "not 00000803"),
    "gz cut later": ("train-images-idx3-ubyte.gz", gzip.compress(IMAGES)[:-12], "damaged or no idx file"),
    "gz checksum": ("train-images-idx3-ubyte.gz", gzip.compress(IMAGES)[:-8] + b"\0" * 8, "CRC check failed"),
    "no gz": ("train-images-idx3-ubyte.gz", IMAGES, "Not a gzipped file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_idx_files_are_sentences(kind: str, tmp_path: Path) -> None:
    name, data, words = DAMAGE[kind]
    write_idx(tmp_path / "r", packed=False)
    (tmp_path / "r" / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as raised:
        opened("mnist", root=str(tmp_path / "r"))
    assert name in str(raised.value)


def test_a_root_with_some_of_the_files_names_the_others(tmp_path: Path) -> None:
    write_idx(tmp_path / "r")
    (tmp_path / "r" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="lacks t10k-labels-idx1-ubyte; place it there"):
        make_source(section("mnist", root=str(tmp_path / "r"))).check()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_a_root_that_does_not_exist(name: str, tmp_path: Path, gentrain: Command) -> None:
    outcome = gentrain(f"data={name}", f"data.root={tmp_path / 'nowhere'}")
    assert outcome.status == 2
    assert "nowhere does not exist" in outcome.err
    assert "Traceback" not in outcome.err


# ---- downloads, by stand-ins of torchvision


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, constructor: Callable[..., object]) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets, name, constructor)


NO_NETWORK = {
    "mnist": ("MNIST", RuntimeError("Error downloading\nTried x, got:\nno network"), "train-images-idx3-ubyte.gz, .*t10k-labels-idx1-ubyte.gz in .*MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", OSError("no network"), "t10k-images-idx3-ubyte.gz.* Debian's package dataset-fashion-mnist"),
    "cifar10": ("CIFAR10", OSError("no network"), "cifar-10-binary.tar.gz"),
    "celeba": ("CelebA", RuntimeError("no network; pip install gdown"), "img_align_celeba.zip .*list_eval_partition.txt and list_attr_celeba.txt in .*celeba"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_NETWORK)
def test_without_a_network_one_sentence_says_what_to_place_where(
    name: str, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    constructor, error, words = NO_NETWORK[name]

    def fail(root: Path, download: bool) -> None:
        (Path(root) / "half").write_bytes(b"of it")
        raise error

    stand_in(monkeypatch, constructor, fail)
    outcome = gentrain(f"data={name}", "train.max_steps=1")
    assert outcome.status == 2
    assert re.search(f"cannot be downloaded \\(.*no network.*\\); place .*{words}", outcome.err), outcome.err
    assert "Traceback" not in outcome.err
    assert list(downloads_dir().iterdir()) == []


def test_a_download_is_used_and_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(root: Path, download: bool) -> None:
        calls.append(root)
        write_idx(Path(root) / "MNIST" / "raw", test=7)

    stand_in(monkeypatch, "MNIST", download)
    assert opened("mnist").counts["test"] == 7
    assert opened("mnist", size=8).counts["test"] == 7
    assert len(calls) == 1
    assert [path.name for path in downloads_dir().iterdir()] == ["MNIST"]


def test_a_partial_download_is_not_taken_as_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, download: bool) -> None:
        write_idx(Path(root) / "MNIST" / "raw", packed=False)
        file = Path(root) / "MNIST" / "raw" / idx.FILES[0]
        file.write_bytes(file.read_bytes()[:-5])

    stand_in(monkeypatch, "MNIST", download)
    for _ in range(2):  # the second try does not find the first one's files
        with pytest.raises(UserError, match=r"cannot be downloaded .*is damaged.*place"):
            opened("mnist")
    assert list(downloads_dir().iterdir()) == []


def test_a_damaged_folder_of_downloads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "MNIST", lambda root, download: write_idx(Path(root) / "MNIST" / "raw"))
    opened("mnist")
    (downloads_dir() / "MNIST" / "raw" / f"{idx.FILES[1]}.gz").unlink()
    with pytest.raises(UserError, match="MNIST is not whole; remove it to download it again"):
        opened("mnist")


# ---- CIFAR-10


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The binary version, 20 records a file; returns all records."""
    monkeypatch.setattr(cifar10, "RECORDS", 20)
    folder.mkdir(parents=True)
    records = np.random.default_rng(1).integers(0, 256, (6, 20, cifar10.RECORD), np.uint8)
    records[..., 0] %= 10
    for name, batch in zip(cifar10.BATCHES, records, strict=True):
        (folder / name).write_bytes(batch.tobytes())
    return records


def test_cifar10_binary_in_a_folder_and_in_its_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_cifar(tmp_path / "r" / cifar10.BINARY, monkeypatch)
    found = opened("cifar10", root=str(tmp_path / "r"))
    flat = opened("cifar10", root=str(tmp_path / "r" / cifar10.BINARY))
    (tmp_path / "t").mkdir()
    with tarfile.open(tmp_path / "t" / cifar10.BINARY_TAR, "w:gz") as tar:
        tar.add(tmp_path / "r" / cifar10.BINARY, cifar10.BINARY)
    archive = opened("cifar10", root=str(tmp_path / "t"))
    assert found.fingerprint == flat.fingerprint == archive.fingerprint
    assert pixels(found, "test") == {record[1:].tobytes() for record in records[5]}
    assert pixels(found, "train") | pixels(found, "valid") == {
        r[1:].tobytes() for r in records[:5].reshape(100, -1)
    }
    labels = {record[1:].tobytes(): record[0] for record in records.reshape(120, -1)}
    assert all(
        labels[image.tobytes()] == k for image, k in zip(found.images, found.labels[:, 0], strict=True)
    )
    assert found.label_info[0].choices[3] == "cat"
    data = (tmp_path / "t" / cifar10.BINARY_TAR).read_bytes()
    (tmp_path / "t" / cifar10.BINARY_TAR).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is damaged"):
        opened("cifar10", root=str(tmp_path / "t"))


def test_cifar10_cut_short_or_mislabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_cifar(tmp_path / "r", monkeypatch)
    last = tmp_path / "r" / "test_batch.bin"
    last.write_bytes(records[5].tobytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch.bin .* has 61,459 bytes, not 61,460"):
        opened("cifar10", root=str(tmp_path / "r"))
    records[5, 0, 0] = 10
    last.write_bytes(records[5].tobytes())
    with pytest.raises(UserError, match="holds the label 10"):
        opened("cifar10", root=str(tmp_path / "r"))


def test_cifar10_python_is_unpickled_by_torchvision_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(2).integers(0, 256, (60, 32, 32, 3), np.uint8)
    calls = []

    class StandIn:
        def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
            calls.append((train, download, (Path(root) / cifar10.PYTHON_TAR).is_file()))
            self.data = images[:50] if train else images[50:]
            self.targets = [number % 10 for number in range(len(self.data))]
            if download:
                (Path(root) / cifar10.PYTHON).mkdir()
                for name in cifar10.PYTHON_BATCHES:
                    (Path(root) / cifar10.PYTHON / name).write_bytes(b"pickle")

    stand_in(monkeypatch, "CIFAR10", StandIn)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / cifar10.PYTHON_TAR).write_bytes(b"placed by hand")
    data = opened("cifar10", root=str(tmp_path / "r"))
    assert calls == [(True, True, True), (True, False, False), (False, False, False)]
    assert pixels(data, "test") == {image.transpose(2, 0, 1).tobytes() for image in images[50:]}


def test_cifar10_files_with_another_checksum_are_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / cifar10.PYTHON).mkdir()
    for name in cifar10.PYTHON_BATCHES:
        (tmp_path / cifar10.PYTHON / name).write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")
    with pytest.raises(UserError, match="has not the checksum of CIFAR-10"):
        opened("cifar10", root=str(tmp_path))


# ---- CelebA


def write_celeba(folder: Path, count: int = 30, archive: bool = False) -> dict[str, np.ndarray]:
    """Pictures of noise with the lists of CelebA; returns the decoded pictures."""
    random = np.random.default_rng(3)
    (folder / "img_align_celeba").mkdir(parents=True)
    decoded = {}
    for number in range(count):
        small = random.integers(0, 256, (9, 9, 3), np.uint8)
        name = f"{number + 1:06}.jpg"
        buffer = io.BytesIO()
        Image.fromarray(small).resize((178, 218)).save(buffer, "jpeg")
        (folder / "img_align_celeba" / name).write_bytes(buffer.getvalue())
        decoded[name] = np.asarray(Image.open(buffer))
    if archive:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as made:
            for file in sorted((folder / "img_align_celeba").iterdir()):
                made.write(file, f"img_align_celeba/{file.name}")
    homes = [0 if number < count - 10 else 1 if number < count - 5 else 2 for number in range(count)]
    lines = [f"{name} {home}" for name, home in zip(decoded, homes, strict=True)]
    (folder / PARTITION).write_text("\n".join(lines) + "\n")
    rows = [
        f"{name} {1 if number % 2 else -1} {-1 if number % 3 else 1}" for number, name in enumerate(decoded)
    ]
    (folder / ATTRIBUTES).write_text("\n".join([str(count), "Smiling Young", *rows]) + "\n")
    return decoded


@pytest.mark.parametrize("archive", [False, True])
def test_celeba_has_its_own_splits_attributes_and_crop(archive: bool, tmp_path: Path) -> None:
    decoded = write_celeba(tmp_path / "r" / "celeba", archive=archive)
    data = opened("celeba", root=str(tmp_path / "r"), size=148)
    assert data.counts == {"train": 20, "valid": 5, "test": 5}
    crops = {name: image[35:183, 15:163].transpose(2, 0, 1).tobytes() for name, image in decoded.items()}
    names = list(crops)
    assert pixels(data, "test") == {crops[name] for name in names[25:]}
    numbers = {crop: number for number, crop in enumerate(crops.values())}
    for image, labels in zip(data.images, data.labels, strict=True):
        number = numbers[image.tobytes()]
        assert labels.tolist() == [number % 2, int(number % 3 == 0)]
    assert [label.name for label in data.label_info] == ["Smiling", "Young"]
    small = opened("celeba", root=str(tmp_path / "r"))
    face = (
        Image.fromarray(decoded[names[-1]])
        .crop((15, 35, 163, 183))
        .resize((64, 64), Image.Resampling.LANCZOS)
    )
    closest = min(
        np.abs(image.astype(int) - np.asarray(face).transpose(2, 0, 1)).max() for image in small.split("test")
    )
    assert closest == 0
    assert opened("celeba", root=str(tmp_path / "r"), size=8, channels=1).images.shape == (30, 1, 8, 8)


def test_a_part_of_celeba_is_refused(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 30 pictures of .*, the first 000002\.jpg"):
        opened("celeba", root=str(tmp_path))
    (tmp_path / PARTITION).unlink()
    with pytest.raises(UserError, match=r"lacks list_eval_partition\.txt"):
        opened("celeba", root=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (PARTITION, "000001.jpg 3\n", "line 1 of .* should be a picture's name and 0, 1 or 2"),
        (PARTITION, "000001.jpg 0\n", "puts no picture into the valid split"),
        (ATTRIBUTES, "", "line 1 of .* the number of pictures"),
        (ATTRIBUTES, "2\nA B\n000001.jpg 1 -1\n", "has 1 pictures and says 2"),
        (ATTRIBUTES, "1\nA B\n000001.jpg 1\n", "line 3 of .* 2 times 1 or -1"),
    ],
)
def test_damaged_lists_of_celeba(name: str, text: str, words: str, tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        opened("celeba", root=str(tmp_path))


def test_bad_pictures_of_celeba_are_named(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba" / "000003.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1 of 30 pictures cannot be used.*\n.*000003\.jpg"):
        opened("celeba", root=str(tmp_path))
    assert opened("celeba", root=str(tmp_path), on_bad="skip").counts["train"] == 19


# ---- digits


def test_digits_keep_their_seventeen_levels() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    import torch

    data = opened("digits")
    original = sklearn_datasets.load_digits()
    assert sum(data.counts.values()) + data.facts["left_out"] == 1797
    levels = quantize(torch.tensor(np.asarray(data.images)), 17).numpy()
    known = {
        image.astype(np.uint8).tobytes(): k for image, k in zip(original.images, original.target, strict=True)
    }
    assert all(known[image.tobytes()] == k for image, k in zip(levels, data.labels[:, 0], strict=True))
    assert_no_leak(data)


@pytest.mark.parametrize(
    ("name", "library", "extra"), [("digits", "sklearn", "digits"), ("huggingface", "datasets", "hub")]
)
def test_a_missing_extra_is_a_sentence(
    name: str, library: str, extra: str, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def without(asked: str) -> object:
        return None if asked == library else found(asked)

    monkeypatch.setattr({"digits": digits, "huggingface": huggingface}[name], "find_spec", without)
    outcome = gentrain(f"data={name}", *(["data.repo=a/b"] if name == "huggingface" else []))
    assert outcome.status == 2
    assert f'pip install "gentrain[{extra}]"' in outcome.err


# ---- Hugging Face


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as a Hub repository: parquet files of a train and a test split."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    write_hub(tmp_path / "repo", 60)
    return tmp_path / "repo"


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write_hub(folder: Path, count: int) -> None:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
        }
    )
    folder.mkdir(exist_ok=True)
    for split, start, length in (("train", 0, count), ("test", 1000, 10)):
        numbers = range(start, start + length)
        cells = [{"bytes": png(number), "path": None} for number in numbers]
        table = {"image": cells, "label": [n % 2 for n in numbers], "caption": [f"c{n}" for n in numbers]}
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(folder / f"{split}-0.parquet"))


def decoded(number: int) -> bytes:
    return np.asarray(Image.open(io.BytesIO(png(number)))).transpose(2, 0, 1).tobytes()


def test_a_hub_folder_with_its_own_test_split(hub: Path) -> None:
    given = {"repo": str(hub), "test_split": "test", "label_column": "label", "size": 8}
    data = opened("huggingface", **given)
    assert data.counts["test"] == 10
    assert data.counts["train"] + data.counts["valid"] == 60
    assert pixels(data, "test") == {decoded(number) for number in range(1000, 1010)}
    parity = {decoded(number): number % 2 for number in (*range(60), *range(1000, 1010))}
    assert all(parity[image.tobytes()] == k for image, k in zip(data.images, data.labels[:, 0], strict=True))
    assert data.label_info[0].choices == ("cat", "dog")
    carved = opened("huggingface", repo=str(hub), size=8)
    assert sum(carved.counts.values()) == 60
    assert carved.labels.shape == (60, 0)
    assert_no_leak(carved)


def test_a_changed_hub_folder_is_packed_anew_and_an_unchanged_one_is_not(hub: Path) -> None:
    calls = []
    config = section("huggingface", repo=str(hub), size=8)
    for _ in range(2):
        open_data(config, lambda done, _total: calls.append(done))
    assert len(calls) == 60
    write_hub(hub, 70)
    assert sum(open_data(config, quiet).counts.values()) == 70


def test_bad_pictures_of_a_table_are_named(hub: Path, tmp_path: Path) -> None:
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (hub / "test-0.parquet").unlink()
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(5))
    bad = {
        3: {"bytes": b"<html>", "path": None},
        4: None,
        5: {"bytes": None, "path": str(outside)},
        6: {"bytes": None, "path": str(hub / "nothing.png")},
    }
    cells = [bad.get(number, {"bytes": png(number), "path": None}) for number in range(60)]
    pq.write_table(
        pyarrow.table({"image": cells}), hub / "train-0.parquet"
    )  # without the library's own header
    with pytest.raises(UserError, match="4 of 60 pictures cannot be used") as raised:
        opened("huggingface", repo=str(hub), size=8)
    for words in (
        "train[3] (an HTML page is no PNG",
        "train[4] (no picture in this row)",
        "train[5] (a path out of the data set)",
        "train[6] (cannot be read",
    ):
        assert words in str(raised.value)
    assert sum(opened("huggingface", repo=str(hub), size=8, on_bad="skip").counts.values()) == 56


def test_an_image_folder_is_read_through_the_library(tmp_path: Path, hub: Path) -> None:
    for number in range(40):
        file = tmp_path / "pictures" / "train" / ("a", "b")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    data = opened("huggingface", repo=str(tmp_path / "pictures"), label_column="label", size=8)
    assert {image.tobytes() for image in data.images} == {decoded(number) for number in range(40)}
    assert data.label_info[0].choices == ("a", "b")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"split": "nope"}, r'Unknown split "nope". Should be one of \[.train., .test.\]'),
        ({"column": "picture"}, "data.column=picture .* does not exist; its columns are image, label, caption, and pictures are in image"),
        ({"column": "caption"}, "data.column=caption .* holds no pictures"),
        ({"label_column": "kind"}, "data.label_column=kind .* does not exist; its columns are image, label"),
        ({"test_split": "train"}, "data.test_split=train is data.split too"),
        ({"repo": "./nowhere"}, "is neither a folder that exists nor OWNER/NAME"),
        ({"background": "none"}, "is no colour"),
    ],
)  # fmt: skip
def test_mistakes_with_a_table_are_sentences(changed: dict[str, str], words: str, hub: Path) -> None:
    with pytest.raises(UserError, match=words):
        opened("huggingface", **{"repo": str(hub), "size": 8, **changed})


def test_an_unreachable_hub_is_a_sentence(
    hub: Path, gentrain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fail(*_: object, **settings: object) -> None:
        assert "trust_remote_code" not in settings
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    outcome = gentrain("data=huggingface", "data.repo=a/b", "train.max_steps=1")
    assert outcome.status == 2
    assert "cannot be fetched (Couldn't reach 'a/b' on the Hub" in outcome.err
    assert "hf download" in outcome.err
    assert "Traceback" not in outcome.err


def test_damaged_and_missing_tables_are_sentences(hub: Path, tmp_path: Path) -> None:
    (hub / "train-0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be used: Parquet magic bytes not found"):
        opened("huggingface", repo=str(hub), size=8)
    whole = (hub / "test-0.parquet").read_bytes()
    (hub / "train-0.parquet").write_bytes(whole[:4] + bytes(500) + whole[504:])
    with pytest.raises(UserError, match="is damaged or no table of pictures"):
        opened("huggingface", repo=str(hub), size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be used"):
        opened("huggingface", repo=str(tmp_path / "empty"), size=8)


# ---- anime faces


def test_anime_faces_come_from_a_folder_or_a_repository(hub: Path, pictures: Path) -> None:
    faces = opened("anime_faces", root=str(pictures))
    assert faces.images.shape[1:] == (3, 64, 64)
    assert faces.fingerprint == opened("folder", root=str(pictures), size=64).fingerprint
    table = opened("anime_faces", repo=str(hub), size=8)
    assert table.fingerprint == opened("huggingface", repo=str(hub), size=8).fingerprint


def test_anime_faces_are_not_bundled(gentrain: Command) -> None:
    for both in ([], ["data.root=a", "data.repo=a/b"]):
        outcome = gentrain("data=anime_faces", *both)
        assert outcome.status == 2
        assert "needs one of data.root=FOLDER" in outcome.err


# ---- all of them


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    for file in Path(idx.__file__).parent.glob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            names = [name.name for name in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"torchvision", "sklearn", "datasets"}, (
                file
            )
