"""data=mnist: 70,000 handwritten digits, 28 x 28, grey. LeCun et al. 1998."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Packed, Progress
from gentrain.data.sources import idx
from gentrain.data.sources.arrays import pack_native


def _download(root: Path) -> None:
    import torchvision  # here: the command must start without it

    torchvision.datasets.MNIST(root, download=True)


DATA = idx.DataSet("MNIST", "MNIST", tuple("0123456789"), _download)


@dataclass(frozen=True)
class MNIST:
    """The keys of configs/data/mnist.yaml."""

    root: str | None
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    held_out: Annotated[float, AtLeast(0), Below(0.5)]

    def check(self) -> None:
        idx.on_disk(DATA, self.root)

    def key(self) -> dict[str, Any]:
        return {**asdict(self), "root": None, "files": idx.stamps(self._files)}

    @cached_property
    def _files(self) -> idx.Four:
        return idx.locate(DATA, self.root)

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        return pack_native(idx.read(DATA, self._files), self, DATA.title, scratch, progress)
