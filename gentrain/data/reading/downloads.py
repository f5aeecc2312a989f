"""Files fetched from the network: in the cache whole, or not at all."""

from __future__ import annotations

import http.client
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import platformdirs

from gentrain.errors import UserError
from gentrain.runtime.files import expanded, sync_directory

# What torchvision's downloads are known to raise: no network, a broken transfer, a damaged file, a full disk.
FAILURES: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    UserError,  # of the check
)
MAX_REASON = 200  # characters


def downloads_dir() -> Path:
    return cache_dir() / "downloads"


def root_of(root: str | None) -> Path | None:
    """data.root as a folder; UserError if it is given and is none."""
    if root is None:
        return None
    folder = expanded(root)
    if not folder.is_dir():
        raise UserError(
            f"data.root={root} {'is no folder' if folder.exists() else 'does not exist'}; "
            "give the folder that holds the data set's files, or data.root=null"
        )
    return folder


def fetch(
    title: str,
    folder: str,
    download: Callable[[Path], None],
    advice: str,
    failures: tuple[type[Exception], ...] = FAILURES,
) -> Path:
    """downloads/<folder>, made by one rename of what `download` puts into <folder> of a temporary root.

    `download` also checks what it got. `failures` are what it may raise; they become a UserError that ends
    with `advice`: what to place where.
    """
    home = downloads_dir()
    final = home / folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder}-", dir=home) as temporary:
            download(Path(temporary))
            _rename(Path(temporary) / folder, final)
    except failures as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise UserError(
            f"{title} is not on this machine and cannot be downloaded ({reason}); {advice}"
        ) from error
    sync_directory(home)
    return final


def _rename(made: Path, final: Path) -> None:
    """If another process was first, its files stay: they are as whole as these."""
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir() or not any(final.iterdir()):
            raise


def cache_dir() -> Path:
    """$GENTRAIN_CACHE, or the user's cache directory."""
    return Path(os.environ.get("GENTRAIN_CACHE") or platformdirs.user_cache_dir("gentrain"))
