"""data=celeba: 202,599 faces of celebrities with 40 attributes. Liu et al. 2015, arXiv 1411.7766.

Of each aligned picture, 178 x 218, the central square of 148 pixels is taken and resized, as most papers on
generative models do since ALI (arXiv 1606.00704): the background goes, the face stays. The data set's own
partition into train, valid and test is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from gentrain.config.ranges import AtLeast, Between
from gentrain.data.packed import Label, Packed, Progress
from gentrain.data.reading import splitting
from gentrain.data.reading.decode import decode, frame
from gentrain.data.reading.downloads import FAILURES, downloads_dir, fetch, root_of
from gentrain.data.reading.entries import Bad, Entry, Read, refuse_vanished, signature
from gentrain.data.reading.listing import list_pictures
from gentrain.data.reading.rows import arrange, decode_all, hash64
from gentrain.data.sources.attributes import Attributes, read_attributes, read_partition
from gentrain.errors import UserError

FOLDER = "celeba"  # torchvision's name
PICTURES = ("img_align_celeba.zip", "img_align_celeba")  # the zip first, for one stat tells if it has changed
PARTITION, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
WIDTH, CROP = 178, 148  # pixels
BLACK = (0, 0, 0)  # never seen: the crop is square


@dataclass(frozen=True)
class Files:
    pictures: Path  # a zip or a folder
    partition: Path
    attributes: Path


@dataclass(frozen=True)
class CelebA:
    """The keys of configs/data/celeba.yaml."""

    root: str | None
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    follow_links: bool

    def check(self) -> None:
        _on_disk(self.root)

    def key(self) -> dict[str, Any]:
        files = self._files
        if files.pictures.is_file():
            pictures: object = _stamp(files.pictures)
        else:
            entries = list_pictures(files.pictures, self.follow_links).entries
            found = [(entry.name, entry.size, entry.stamp) for entry in entries]
            pictures = [str(files.pictures.resolve()), hash64(repr(found).encode())]
        stamps = [_stamp(files.partition), _stamp(files.attributes), pictures]
        own = {
            key: value for key, value in asdict(self).items() if key != "follow_links" or value
        }  # as in folder.py
        return {**own, "root": None, "files": stamps}

    @cached_property
    def _files(self) -> Files:
        return _on_disk(self.root) or _download(self.root)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        files = self._files
        homes, attributes = read_partition(files.partition), read_attributes(files.attributes)
        listing = list_pictures(files.pictures, self.follow_links)
        _refuse_missing(listing.entries, homes, attributes, files)
        decoded = decode_all(
            partial(_read, size=self.size, channels=self.channels),
            (pair for pair in listing.contents() if _name(pair[0]) in homes),
            scratch / "rows",
            (self.channels, self.size, self.size),
            lambda done: progress(done, len(homes)),
        )
        refuse_vanished(files.pictures, str(files.pictures))
        names = decoded.extras
        given = np.array([homes[name] for name in names], np.int64)
        splitting.refuse_lost(set(homes.values()), given, "CelebA")
        parts = splitting.split(decoded.hashes_N, given, 0, self.count, "CelebA")
        chosen = [names[row] for row in parts.order]
        return Packed(
            arrange(decoded.rows_NCHW, parts.order, scratch / "images.npy"),
            parts.counts,
            attributes.of(chosen),
            tuple(Label(name, ("no", "yes")) for name in attributes.names),
            parts.facts,
            tuple(listing.bad + decoded.bad),
            tuple(chosen),
        )


def _stamp(file: Path) -> tuple[str, int, int]:
    return str(file.resolve()), *signature(file)


def _name(entry: Entry) -> str:
    """A picture's name in the lists, however deep the folder or the zip holds it."""
    return PurePosixPath(entry.name).name


def _read(item: tuple[Entry, Read], size: int, channels: int) -> tuple[np.ndarray, str] | Bad:
    """A face, and its name in the lists."""
    entry, read = item
    data = read()
    if isinstance(data, Bad):
        return data
    square = decode(data, WIDTH, channels)  # at its own size: cut, not resized
    if isinstance(square, str):
        return Bad(entry.name, square)
    edge = (WIDTH - CROP) // 2
    face_CHW = square[:, edge : edge + CROP, edge : edge + CROP]
    pixels = face_CHW[0] if channels == 1 else face_CHW.transpose(1, 2, 0)
    face = Image.fromarray(np.ascontiguousarray(pixels))
    return frame(face, size, channels, "stretch", BLACK), _name(entry)


def _refuse_missing(
    entries: Sequence[Entry], homes: dict[str, int], attributes: Attributes, files: Files
) -> None:
    """A part of the pictures is not CelebA: UserError."""
    for what, held in (
        (files.pictures, {_name(entry) for entry in entries}),
        (files.attributes, attributes.rows),
    ):
        missing = sorted(homes.keys() - held)
        if missing:
            raise UserError(
                f"{what} lacks {len(missing)} of the {len(homes)} pictures of {files.partition.name}, "
                f"the first {missing[0]}; place the whole data set"
            )


def _in(folder: Path, strict: bool) -> Files | None:
    """The files in a folder, or None; `strict`: UserError if only some of them are there."""
    pictures = next((folder / name for name in PICTURES if (folder / name).exists()), None)
    lists = [folder / name for name in (PARTITION, ATTRIBUTES)]
    missing = [path.name for path in lists if not path.is_file()]
    if pictures is not None and not missing:
        return Files(pictures, lists[0], lists[1])
    if strict and (pictures is not None or len(missing) < len(lists)):
        lacks = [*([PICTURES[0]] if pictures is None else []), *missing]
        raise UserError(f"{folder} lacks {' and '.join(lacks)}; place what is missing there")
    return None


def _on_disk(root: str | None) -> Files | None:
    """Looked for in data.root (torchvision's layout, then flat) if it is given, else in the downloads."""
    given = root_of(root)
    for folder in [given / FOLDER, given] if given else []:
        found = _in(folder, strict=True)
        if found is not None:
            return found
    if given:
        raise UserError(f"{given} holds no CelebA; place {PICTURES[0]}, {PARTITION} and {ATTRIBUTES} in it")
    return _in(downloads_dir() / FOLDER, strict=False)


def _download(root: str | None) -> Files:
    place = root_of(root) or downloads_dir() / FOLDER
    advice = f"place {PICTURES[0]} (or its folder {PICTURES[1]}), {PARTITION} and {ATTRIBUTES} in {place}"
    found = _in(fetch("CelebA", FOLDER, _through_torchvision, advice, _failures()), strict=True)
    if found is None:
        raise UserError(f"the download of CelebA lacks files; {advice}")
    return found


def _through_torchvision(temporary: Path) -> None:
    import torchvision  # here: the command must start without it

    torchvision.datasets.CelebA(temporary, download=True)


def _failures() -> tuple[type[Exception], ...]:
    """Those of gdown too, by which torchvision fetches CelebA if it is installed."""
    if find_spec("gdown") is None:
        return FAILURES
    from gdown.exceptions import FileURLRetrievalError

    return (*FAILURES, FileURLRetrievalError)
