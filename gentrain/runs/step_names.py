"""Files that carry a step in their names, step_00000500.pt: ordered by the number, which text is not."""

from __future__ import annotations

import re
from pathlib import Path

_STEP = re.compile(r"step_(\d{1,18})")


def file_name(step: int, suffix: str = ".pt") -> str:
    return f"step_{step:08d}{suffix}"


def step_of(path: Path) -> int | None:
    """None for a file of another name, for example a copy that someone has made."""
    found = _STEP.fullmatch(path.stem)
    return None if found is None else int(found[1])


def newest_first(directory: Path, suffix: str = ".pt") -> list[Path]:
    """Those of a folder, whatever they are: links to nothing too. A folder that is not there has none."""
    named = [
        (step, path) for path in directory.glob(f"step_*{suffix}") if (step := step_of(path)) is not None
    ]
    return [path for _, path in sorted(named, reverse=True)]
