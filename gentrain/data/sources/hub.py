"""The `datasets` library asked for one split, and its errors in words. An extra: imported when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gentrain.errors import UserError
from gentrain.runtime.files import expanded

MAX_REASON = 400  # characters


def load(repo: str, split: str, revision: str | None) -> Any:
    """A datasets.Dataset, memory-mapped: of a folder if `repo` is one, else of the Hub."""
    import datasets
    import huggingface_hub.errors

    what = f"data.split={split} of data.repo={repo}" + (f" at data.revision={revision}" if revision else "")
    folder = expanded(repo)
    place = str(folder.resolve()) if folder.is_dir() else repo
    try:
        return datasets.load_dataset(place, split=split, revision=None if folder.is_dir() else revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(
            f"{what} is not on the Hub, or not for you to see; look for a typo, or sign in with "
            f"`hf auth login` ({_reason(error)})"
        ) from error
    except (ConnectionError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UserError(
            f"{what} cannot be fetched ({_reason(error)}); check the network, or copy the repository from "
            "where there is one (`hf download --repo-type dataset`) and give its folder as data.repo"
        ) from error
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(
            f"{what} is damaged or no table of pictures ({_reason(cause)}); fetch or make it again"
        ) from error
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # no such split, no data files, code in the repository
        raise UserError(f"{what} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON].rstrip(".") or type(error).__name__


def places(repo: str) -> tuple[Path, ...]:
    """Where the pictures of a data set may lie: in its own folder, or in the caches of the libraries."""
    import datasets
    import huggingface_hub.constants

    own = expanded(repo)
    if own.is_dir():
        return (own.resolve(),)
    caches = (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
    return tuple(Path(cache).resolve() for cache in caches)
