"""data=fashion_mnist: 70,000 articles of clothing, 28 x 28, grey. Xiao et al. 2017, arXiv 1708.07747."""

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

    torchvision.datasets.FashionMNIST(root, download=True)


DATA = idx.DataSet(
    title="Fashion-MNIST",
    folder="FashionMNIST",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    download=_download,
    installed=Path("/usr/share/datasets/fashion-mnist"),
    package="Debian's package dataset-fashion-mnist",
)


@dataclass(frozen=True)
class FashionMNIST:
    """The keys of configs/data/fashion_mnist.yaml."""

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
