"""The pictures of a run, made ready for a page: checked, cut to one number of cells, as data: URIs."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from gentrain.runs.step_names import newest_first
from gentrain.runtime.stored_files import Unreadable, read_bytes

GAP = 2  # pixels between the pictures of a grid, see tracking.py
LARGEST = 256 * 2**20  # bytes of a picture's file
WIDEST = 1600  # pixels of a picture on the page
# What Pillow raises for files that are damaged, or no pictures at all.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
GRIDS = ("samples", "reconstructions", "interpolation")  # folders of step_*.png, written during training
SKIPPED = ("checkpoints", "data", *GRIDS)


@dataclass(frozen=True)
class Picture:
    """`share`: how wide it is beside the widest of its kind, so that single pictures are equally large."""

    kind: str
    source: str
    uri: str
    share: float


def read_pictures(run: Path, size: int | None, cells: int) -> tuple[list[Picture], list[str]]:
    """The last grids of training, and every picture that a task left; with sentences for what is damaged.

    `size`: of a single picture in pixels, if known: then grids are cut to `cells` x `cells` of them.
    """
    pictures, problems = [], []
    for kind, file in _files(run):
        source = file.relative_to(run).as_posix()
        cut = size if kind in GRIDS or source == "sample/grid.png" else None
        try:
            pictures.append(_read(kind, source, file, cut, cells))
        except Unreadable as error:
            problems.append(f"{source} is no picture that can be shown: {error.fault}")
        except DAMAGE as error:
            problems.append(f"{source} is no picture that can be shown: {' '.join(str(error).split())[:120]}")
    return pictures, problems


def _files(run: Path) -> list[tuple[str, Path]]:
    files = []
    for kind in GRIDS:
        files += [(kind, file) for file in newest_first(run / kind, ".png")[:1]]
    for file in sorted(run.glob("*/*.png")):
        if (
            file.parent.name not in SKIPPED and not file.stem.isdecimal() and file.is_file()
        ):  # numbers: samples
            files.append((f"{file.parent.name}/{file.stem}", file))
    return files


def _read(kind: str, source: str, file: Path, size: int | None, cells: int) -> Picture:
    content = read_bytes(file, LARGEST)
    with Image.open(BytesIO(content), formats=("png",)) as opened:
        image = opened.convert("RGB")
    share, cell = 1.0, (size or 0) + GAP
    if size and (image.width - GAP) % cell == (image.height - GAP) % cell == 0:
        columns, rows = (min(cells, (side - GAP) // cell) for side in image.size)
        image = image.crop((0, 0, columns * cell + GAP, rows * cell + GAP))
        share = image.width / (cells * cell + GAP)
    if image.width > WIDEST:
        image.thumbnail((WIDEST, WIDEST))
    buffer = BytesIO()
    image.save(buffer, "png", optimize=True)
    return Picture(kind, source, f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}", share)
