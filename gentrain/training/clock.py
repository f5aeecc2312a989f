"""How fast training is."""

from __future__ import annotations

import time


class Clock:
    """Images per second of training alone, since it was last asked."""

    def __init__(self) -> None:
        self._seconds, self._images, self._begun = 0.0, 0, 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()

    def stop(self, images: int) -> None:
        self._seconds += time.perf_counter() - self._begun
        self._images += images

    def images_per_second(self) -> float:
        rate = self._images / self._seconds if self._seconds else 0.0
        self._seconds, self._images = 0.0, 0
        return rate
