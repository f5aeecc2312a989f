"""What is in a data set, in figures: the content of task=inspect.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from gentrain.data.packed import Packed, Progress
from gentrain.data.reading.entries import SPLITS

CHUNK = 1024


@dataclass(frozen=True)
class Summary:
    """Of the training split, in bytes 0 .. 255."""

    mean_CHW: np.ndarray
    histogram_C256: np.ndarray  # how often each byte occurs, by channel
    png_bits_per_dim: float  # of single pictures
    labels: dict[str, dict[str, list[int]]]  # images by label, choice and split

    @property
    def mean_C(self) -> np.ndarray:
        return self.histogram_C256 @ np.arange(256) / self.histogram_C256.sum(1)

    @property
    def deviation_C(self) -> np.ndarray:
        squares_C = self.histogram_C256 @ np.arange(256) ** 2 / self.histogram_C256.sum(1)
        return np.sqrt(squares_C - self.mean_C**2)


def summarize(packed: Packed, png_count: int, progress: Progress) -> Summary:
    """One pass over the training images in bounded memory."""
    images_NCHW = packed.split("train")
    channels = images_NCHW.shape[1]
    total_CHW = np.zeros(images_NCHW.shape[1:], np.int64)
    histogram_C256 = np.zeros((channels, 256), np.int64)
    for chunk_NCHW in _chunks(images_NCHW, progress):
        total_CHW += chunk_NCHW.sum(0, dtype=np.int64)
        for channel in range(channels):
            histogram_C256[channel] += np.bincount(chunk_NCHW[:, channel].ravel(), minlength=256)
    some_NCHW = images_NCHW[:png_count]
    bits = sum(8 * png_payload(image_CHW) for image_CHW in some_NCHW)
    return Summary(total_CHW / len(images_NCHW), histogram_C256, bits / some_NCHW.size, _labels(packed))


def _chunks(images_NCHW: np.ndarray, progress: Progress) -> Iterator[np.ndarray]:
    for start in range(0, len(images_NCHW), CHUNK):
        yield images_NCHW[start : start + CHUNK]
        progress(min(start + CHUNK, len(images_NCHW)), len(images_NCHW))


def png_payload(image_CHW: np.ndarray) -> int:
    """Bytes that PNG needs for the pixels alone, headers and checksums not counted."""
    image = Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0))
    file = BytesIO()
    image.save(file, "png", optimize=True)
    data, start, payload = file.getvalue(), 8, 0
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        payload += length if kind == b"IDAT" else 0
        start += 12 + length
    return payload


def _labels(packed: Packed) -> dict[str, dict[str, list[int]]]:
    counts: dict[str, dict[str, list[int]]] = {}
    for column, label in enumerate(packed.label_info):
        by_split = [
            np.bincount(packed.labels[packed.rows(split), column], minlength=len(label.choices))
            for split in SPLITS
        ]
        counts[label.name] = {
            choice: [int(found[number]) for found in by_split] for number, choice in enumerate(label.choices)
        }
    return counts
