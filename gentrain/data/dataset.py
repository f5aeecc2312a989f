"""One split of a data set as levels on the device, whole when it fits, else fetched batch by batch."""

from __future__ import annotations

import mmap
import os

import numpy as np
import torch
from torch import Generator, Tensor

from gentrain.config.settings import Preprocessing
from gentrain.images import quantize
from gentrain.runtime.seeding import drawn, generator

FITS = 0.3  # of a GPU's free memory, or of the computer's memory, may be taken by a split


class ImageSplit:
    """Images by their numbers.

    `resident`: the split is in the device's memory, or in the computer's where that is the device. Else
    it is read from the memory map, as pinned memory if it has to go to a GPU.
    """

    def __init__(self, images_NCHW: np.ndarray, view: Preprocessing, device: torch.device) -> None:
        self.view, self.device = view, device
        self.resident = images_NCHW.nbytes < FITS * free_bytes(device)
        self._images = torch.from_numpy(images_NCHW)
        self._map = None if self.resident else _Map(images_NCHW)
        if self.resident and device.type != "cpu":
            self._images = self._images.to(device)

    def __len__(self) -> int:
        return len(self._images)

    def take(self, indices: Tensor) -> Tensor:
        """uint8 levels (B, C, H, W) on the device; the same for an index whatever it is taken with."""
        rng = [generator(int(i), "binarize") for i in indices] if self.view.binarize == "dynamic" else None
        return self.show(self.fetch(indices), rng)

    def fetch(self, indices: Tensor) -> Tensor:
        """Bytes (B, C, H, W), where the split lies."""
        if self._map is not None:
            self._map.will_need(indices)
        taken = self._images.index_select(0, indices.to(self._images.device))
        pinned = not self.resident and self.device.type == "cuda"
        return taken.pin_memory() if pinned else taken

    def show(self, bytes_BCHW: Tensor, rng: Generator | list[Generator] | None) -> Tensor:
        """Bytes -> levels on the device. `rng` are for dynamic binarization: one, or one an image.

        Dynamic: a pixel is 1 with probability byte / 255 (Salakhutdinov & Murray 2008; arXiv 1509.00519).
        """
        bytes_BCHW = bytes_BCHW.to(self.device, non_blocking=True)
        if rng is None:
            return quantize(bytes_BCHW, self.view.levels)
        chw = bytes_BCHW.shape[1:]
        uniform = (
            torch.stack([torch.rand(chw, generator=coin) for coin in rng])
            if isinstance(rng, list)
            else drawn(torch.rand, tuple(bytes_BCHW.shape), rng, torch.device("cpu"))
        )
        return (uniform.to(self.device) < bytes_BCHW / 255).to(torch.uint8)

    def first(self, count: int) -> Tensor:
        return self.take(torch.arange(min(count, len(self))))

    def chunks(self, batch_size: int) -> list[Tensor]:
        """All image numbers in order, in batches of which the last may be short."""
        return list(torch.arange(len(self)).split(batch_size))


class _Map:
    """The memory map of an array, told ahead which rows will be read: the disk then reads them at once."""

    def __init__(self, images_NCHW: np.ndarray) -> None:
        base = images_NCHW
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        self._mmap = base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED") else None
        self._row = images_NCHW[:1].nbytes
        if self._mmap is not None:
            start = np.frombuffer(self._mmap, np.uint8, 1).__array_interface__["data"][0]
            self._offset = images_NCHW.__array_interface__["data"][0] - start

    def will_need(self, indices: Tensor) -> None:
        if self._mmap is None:
            return
        for index in indices.tolist():
            start = (self._offset + index * self._row) // mmap.PAGESIZE * mmap.PAGESIZE
            end = self._offset + (index + 1) * self._row
            self._mmap.madvise(mmap.MADV_WILLNEED, start, end - start)


def free_bytes(device: torch.device) -> int:
    """Memory that a data set may be laid in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**32
