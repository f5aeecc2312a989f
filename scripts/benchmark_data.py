"""What gentrain's way with pictures gains: packing, opening again, and feeding, against the usual ways.

    python scripts/benchmark_data.py                    # 10,000 JPEG files of 256 x 256
    python scripts/benchmark_data.py --width 640 --height 480 --count 2000

Packing is measured against a plain Pillow loop over the same files, feeding against torchvision's
ImageFolder with a DataLoader of 2 workers, in rounds one after the other; printed are medians and ratios.
Feeding from the memory map is measured with the file in the page cache, and just dropped from it.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from gentrain.data import dataset as images_module
from gentrain.data.batches import Batches
from gentrain.data.build import open_data, preprocessing_of
from gentrain.data.dataset import ImageSplit

BATCH = 64
CPU = torch.device("cpu")


def make_files(root: Path, count: int, width: int, height: int) -> int:
    """Smooth colours with grain, as photographs are for a JPEG codec; returns the bytes written."""
    random, total = np.random.default_rng(0), 0
    (root / "class").mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-12, 13, (height, width, 1), np.int16)
        file = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
        (root / "class" / f"{number:06d}.jpg").write_bytes(file.getvalue())
        total += len(file.getvalue())
    return total


def plain_loop(root: Path, size: int) -> np.ndarray:
    pictures = []
    for file in sorted((root / "class").iterdir()):
        image = Image.open(file).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        pictures.append(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1))
    return np.stack(pictures)


def section(root: Path, size: int) -> dict[str, object]:
    folder = {"name": "folder", "root": str(root), "size": size, "channels": 3, "count": None, "fit": "crop"}
    folder |= {"background": "white", "held_out": 0.01, "verify": "times"}
    view = {"levels": 256, "binarize": "threshold", "flip": False, "shift": 0, "on_bad": "fail"}
    return folder | view | {"allow_changed": False}


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def feed(images: ImageSplit, steps: int) -> float:
    """Images per second of `steps` batches."""
    batches = Batches(images, BATCH, seed=0)
    batches.at(0)()
    return steps * BATCH / seconds(lambda: [batches.at(step)() for step in range(1, steps + 1)])


def feed_folder(root: Path, size: int) -> float:
    """Images per second of torchvision's ImageFolder and a DataLoader with 2 workers, over one epoch."""
    transform = Compose([Resize(size), CenterCrop(size), ToTensor()])
    loader = DataLoader(ImageFolder(str(root), transform), BATCH, shuffle=True, num_workers=2)
    start, count = time.perf_counter(), 0
    for x_BCHW, _ in loader:
        count += len(x_BCHW)
    return count / (time.perf_counter() - start)


def forget(file: Path) -> None:
    """Drop a file from the page cache (it must not be mapped)."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def packing(root: Path, cache: Path, size: int, rounds: int) -> None:
    plain, packed, openings = [], [], []
    for number in range(rounds):
        os.environ["GENTRAIN_CACHE"] = str(cache / str(number))
        plain.append(seconds(lambda: plain_loop(root, size)))
        packed.append(seconds(lambda: open_data(section(root, size), lambda *_: None)))
        openings += [seconds(lambda: open_data(section(root, size), lambda *_: None)) for _ in range(5)]
    ratio = median(a / b for a, b in zip(plain, packed, strict=True))
    print(f"packing: plain Pillow loop {median(plain):.2f} s, gentrain {median(packed):.2f} s")
    print(f"  median ratio {ratio:.2f} over {rounds} rounds, hashing, splitting and writing included")
    print(f"opening again: {1000 * median(openings):.1f} ms")


def feeding(root: Path, size: int, rounds: int) -> None:
    data = open_data(section(root, size), lambda *_: None)
    images = ImageSplit(data.split("train"), preprocessing_of(section(root, size)), CPU)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(feed_folder(root, size))
        ours.append(feed(images, 2000))
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"feeding batches of {BATCH}: ImageFolder and DataLoader with 2 workers {median(theirs):,.0f}")
    print(f"  images/s, gentrain {median(ours):,.0f} images/s, median ratio {ratio:.0f}")


def from_the_map(cache: Path, mebibytes: int, rounds: int) -> None:
    """A packed array that counts as too large for memory: in the page cache, and just dropped from it."""
    count = mebibytes * 2**20 // (3 * 64 * 64)
    file = cache / "large.npy"
    large = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 3, 64, 64))
    random = np.random.default_rng(0)
    for start in range(0, count, 4096):
        large[start : start + 4096] = random.integers(0, 256, large[start : start + 4096].shape, np.uint8)
    large.flush()
    del large
    view = preprocessing_of(section(cache, 64))
    steps = min(2000, count // BATCH)
    figures: dict[str, list[float]] = {"within memory": [], "mapped and cached": [], "mapped and cold": []}
    for _ in range(rounds):
        for name, found in figures.items():
            if name == "mapped and cold":
                forget(file)
            images_module.FITS = 0.3 if name == "within memory" else 0
            found.append(feed(ImageSplit(np.load(file, mmap_mode="c"), view, CPU), steps))
    for name, found in figures.items():
        print(f"64 px colour, {mebibytes} MiB, {name}: {median(found):,.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="pixels after packing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--map-mib", type=int, default=2048)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "pictures", Path(folder) / "cache"
        cache.mkdir()
        total = make_files(root, options.count, options.width, options.height)
        print(
            f"{options.count} JPEG files of {options.width} x {options.height}, "
            f"{total / options.count / 1024:.0f} KiB each, to {options.size} x {options.size}"
        )
        packing(root, cache, options.size, options.rounds)
        feeding(root, options.size, options.rounds)
        from_the_map(cache, options.map_mib, options.rounds)


if __name__ == "__main__":
    main()
