"""data=folder: any folder of pictures, decoded once.

Each picture is turned upright, laid on white where it is transparent, cut to its central square and
resized with antialiasing. A hash of the resulting pixels decides its split, so equal pictures are never in
two splits, and a picture stays where it is when others are added.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps

from gentrain.data.packed import Packed, Progress
from gentrain.errors import UserError
from gentrain.ranges import AtLeast, Between

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
HELD_OUT = 0.1  # share of the validation split, and again of the test split


@dataclass(frozen=True)
class Folder:
    """The keys of configs/data/folder.yaml."""

    root: str
    size: Annotated[int, Between(8, 512)]
    channels: Annotated[int, Between(1, 3)]
    levels: Annotated[int, Between(2, 256)]
    count: Annotated[int, AtLeast(1)] | None

    def check(self) -> None:
        if self.channels == 2:
            raise UserError("data.channels=2 is not possible; it must be 1 (grey) or 3 (colour)")
        if not Path(self.root).expanduser().is_dir():
            raise UserError(f"data.root={self.root} is no folder; give the folder that holds the pictures")

    def key(self) -> dict[str, Any]:
        """Settings, and the name, size and time of every file: a changed folder is decoded anew."""
        stats = [(str(path), path.stat()) for path in self._files()]
        listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        digest = hashlib.sha256(repr(listing).encode()).hexdigest()
        return {**asdict(self), "root": None, "levels": None, "files": digest}

    def _files(self) -> list[Path]:
        root = Path(self.root).expanduser()
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            endings = " ".join(sorted(SUFFIXES))
            raise UserError(f"data.root={self.root} holds no pictures; looked for {endings} in it and below")
        return files

    def pack(self, progress: Progress) -> Packed:
        files = self._files()
        pictures, bad = [], []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda path: decode(path, self.size, self.channels), files)
            for number, (path, result) in enumerate(zip(files, decoded, strict=True), start=1):
                if isinstance(result, str):
                    bad.append(f"{path} ({result})")
                else:
                    pictures.append(result)
                progress(number, len(files))
        if bad:
            listing = "\n  ".join(bad)
            raise UserError(
                f"{len(bad)} of {len(files)} pictures cannot be read; mend or remove them:\n  {listing}"
            )
        return self._split(np.stack(pictures))

    def _split(self, images: np.ndarray) -> Packed:
        """By hash: below 0.1 test, below 0.2 valid, else train; within a split in the order of the hashes."""
        hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
        order = sorted(range(len(images)), key=hashes.__getitem__)
        shares = [int.from_bytes(hashes[i][:8], "big") / 2**64 for i in order]
        test = [i for i, share in zip(order, shares, strict=True) if share < HELD_OUT]
        valid = [i for i, share in zip(order, shares, strict=True) if HELD_OUT <= share < 2 * HELD_OUT]
        train = [i for i, share in zip(order, shares, strict=True) if share >= 2 * HELD_OUT]
        counts = {"train": len(train[: self.count]), "valid": len(valid), "test": len(test)}
        for name, count in counts.items():
            if count == 0:
                raise UserError(
                    f"data.root={self.root} holds {len(images)} pictures, and none of them falls into the "
                    f"{name} split; add more pictures"
                )
        chosen = train[: self.count] + valid + test
        return Packed(images[chosen], counts, np.zeros((len(chosen), 0), np.uint8))


def decode(path: Path, size: int, channels: int) -> np.ndarray | str:
    """A file -> uint8 (channels, size, size), or why it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image, np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
