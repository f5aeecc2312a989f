"""data=cifar10: 60,000 small colour photographs of ten kinds, 32 x 32. Krizhevsky 2009.

Preferred is the binary version, which is plain bytes: in each record a label and 3 x 32 x 32 values. The
Python version is pickled, so torchvision alone reads it, once each file has the MD5 sum that it knows.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Packed, Progress
from gentrain.data.reading.downloads import downloads_dir, fetch, root_of
from gentrain.data.reading.entries import signature
from gentrain.data.sources.arrays import Native, pack_native
from gentrain.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY, BINARY_TAR = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
PYTHON, PYTHON_TAR = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
PYTHON_BATCHES = tuple(name.removesuffix(".bin") for name in BATCHES)
RECORD = 1 + 3 * 32 * 32
RECORDS = 10_000  # in each file
Part = tuple[np.ndarray, np.ndarray]  # images (N, 3, 32, 32) and classes (N,)


@dataclass(frozen=True)
class CIFAR10:
    """The keys of configs/data/cifar10.yaml."""

    root: str | None
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    held_out: Annotated[float, AtLeast(0), Below(0.5)]

    def check(self) -> None:
        root_of(self.root)

    def key(self) -> dict[str, Any]:
        path = self._found
        names = {BINARY: BATCHES, PYTHON: PYTHON_BATCHES}
        files = [path] if path.is_file() else [path / name for name in names.get(path.name, BATCHES)]
        stamps = [(str(file.resolve()), *signature(file)) for file in files]
        return {**asdict(self), "root": None, "files": stamps}

    @cached_property
    def _found(self) -> Path:
        given = root_of(self.root)
        path = _in(given or downloads_dir())
        if path is not None:
            return path
        place = given or downloads_dir()
        if given and not (given / PYTHON_TAR).is_file():
            raise UserError(f"{given} holds no CIFAR-10; place {BINARY_TAR} (or {PYTHON_TAR}) as it is in it")
        advice = f"place {BINARY_TAR} (or {PYTHON_TAR}) as it is in {place}"
        fetched = fetch(
            "CIFAR-10", PYTHON, lambda temporary: _download(temporary, place / PYTHON_TAR), advice
        )
        if _in(fetched.parent) is None:
            raise UserError(f"{fetched} is not whole; remove it to download it again")
        return fetched

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        path = self._found
        train, test = _read_python(path.parent) if path.name == PYTHON else _read_binary(path)
        return pack_native(Native.of_two(train, test, CLASSES), self, "CIFAR-10", scratch, progress)


def _in(folder: Path) -> Path | None:
    """The folder or tar of the binary version, else torchvision's folder; None if there is neither."""
    for path in (folder / BINARY, folder):
        if all((path / name).is_file() for name in BATCHES):
            return path
    if (folder / BINARY_TAR).is_file():
        return folder / BINARY_TAR
    if all((folder / PYTHON / name).is_file() for name in PYTHON_BATCHES):
        return folder / PYTHON
    return None


def _download(temporary: Path, packed: Path) -> None:
    """The Python version into a root; from a tar that the user placed, if torchvision finds it whole."""
    import torchvision  # here: the command must start without it

    if packed.is_file():
        shutil.copyfile(packed, temporary / PYTHON_TAR)  # torchvision overwrites one that is damaged
    torchvision.datasets.CIFAR10(temporary, download=True)


def _read_python(root: Path) -> tuple[Part, Part]:
    import torchvision

    parts: list[Part] = []
    for train in (True, False):
        try:
            loaded = torchvision.datasets.CIFAR10(root, train=train, download=False)
        except RuntimeError as error:  # torchvision's, when a checksum is wrong; nothing was unpickled then
            raise UserError(
                f"{root / PYTHON} is damaged: a file has not the checksum of CIFAR-10; remove it, and place "
                f"{BINARY_TAR} there instead or download it again"
            ) from error
        parts.append((loaded.data.transpose(0, 3, 1, 2), np.array(loaded.targets)))
    return parts[0], parts[1]


def _read_binary(path: Path) -> tuple[Part, Part]:
    contents = _from_tar(path) if path.is_file() else {name: _bytes(path / name) for name in BATCHES}
    parts = [_batch(contents[name], f"{name} of {path}") for name in BATCHES]
    train = parts[:-1]
    return (np.concatenate([p[0] for p in train]), np.concatenate([p[1] for p in train])), parts[-1]


def _bytes(file: Path) -> bytes:
    """One byte more than there should be at most."""
    try:
        with file.open("rb") as opened:
            return opened.read(RECORDS * RECORD + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); make it readable") from error


def _from_tar(path: Path) -> dict[str, bytes]:
    """The six files by their names, read in place; nothing is unpacked to disk."""
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                opened = tar.extractfile(member) if name in BATCHES and member.isreg() else None
                if opened is not None:
                    contents[name] = opened.read(RECORDS * RECORD + 1)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} is damaged ({error}); place a whole one there") from error
    missing = [name for name in BATCHES if name not in contents]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; place a whole one there")
    return contents


def _batch(content: bytes, what: str) -> Part:
    if len(content) != RECORDS * RECORD:
        found = f"{len(content):,} bytes" if len(content) < RECORDS * RECORD else "more bytes"
        raise UserError(f"{what} has {found}, not {RECORDS * RECORD:,}; place a whole one there")
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise UserError(f"{what} holds the label {records[:, 0].max()}; CIFAR-10 has 0 .. 9")
    return records[:, 1:].reshape(RECORDS, 3, 32, 32), records[:, 0]
