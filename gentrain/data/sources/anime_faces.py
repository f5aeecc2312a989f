"""data=anime_faces: the real anime faces, 64 x 64, that people train on, from where the user has them.

gentrain brings none and names none: the collections were cut out of other people's drawings. See the line
on licences in docs/data.md; data=anime draws faces that are free to use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from gentrain.config.ranges import AtLeast, Below, Between
from gentrain.data.packed import Packed, Progress
from gentrain.data.reading.decode import Fit
from gentrain.data.sources.folder import Folder
from gentrain.data.sources.huggingface import HuggingFace
from gentrain.errors import UserError


@dataclass(frozen=True)
class AnimeFaces:
    """The keys of configs/data/anime_faces.yaml."""

    root: str | None
    repo: str | None
    split: str
    column: str
    revision: str | None
    size: Annotated[int, Between(8, 512)]
    channels: Literal[1, 3]
    count: Annotated[int, AtLeast(1)] | None
    fit: Fit
    background: str
    held_out: Annotated[float, AtLeast(0), Below(0.5)]
    follow_links: bool

    def check(self) -> None:
        self._inner.check()

    def key(self) -> dict[str, Any]:
        return {"from": type(self._inner).__name__, **self._inner.key()}

    def pack(self, scratch: Path, progress: Progress) -> Packed:
        return self._inner.pack(scratch, progress)

    @cached_property
    def _inner(self) -> Folder | HuggingFace:
        if self.root is not None and self.repo is None:
            return Folder(
                root=self.root,
                size=self.size,
                channels=self.channels,
                count=self.count,
                fit=self.fit,
                background=self.background,
                held_out=self.held_out,
                follow_links=self.follow_links,
                verify="times",
            )
        if self.repo is not None and self.root is None:
            return HuggingFace(
                repo=self.repo,
                split=self.split,
                column=self.column,
                label_column=None,
                test_split=None,
                revision=self.revision,
                size=self.size,
                channels=self.channels,
                count=self.count,
                fit=self.fit,
                background=self.background,
                held_out=self.held_out,
                follow_links=self.follow_links,
            )
        raise UserError(
            "data=anime_faces needs one of data.root=FOLDER (or .zip, .tar, .csv) and data.repo=OWNER/NAME; "
            "none is bundled (data=anime draws faces itself)"
        )
