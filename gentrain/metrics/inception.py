"""Inception v3 as torch-fidelity has it, with the weights of the original FID, fetched on first use.

The library (an extra) reads its weights with pickle. So the file is fetched and read here first, by its hash
and with nothing in it executed.
"""

from __future__ import annotations

import hashlib
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from gentrain.errors import UserError

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of the weights file
FEATURE = "2048"  # the last average pool


def load_inception() -> tuple[Any, str]:
    """torch-fidelity's network, bytes (B, 3, H, W) -> a tuple of float32 (B, 2048); the weights' sha256."""
    if find_spec("torch_fidelity") is None:
        raise UserError('extractor=inception needs torch-fidelity; pip install "gentrain[inception]"')
    from torch_fidelity import feature_extractor_inceptionv3 as library  # an extra, and slow to import

    url = library.URL_INCEPTION_V3
    # Where the library itself looks, and puts it.
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not path.is_file():
        _fetch(url, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    damaged = f"{path} is damaged or holds other weights than FID's ({{}}); remove it and try again"
    if digest != SHA256:
        raise UserError(damaged.format(f"its sha256 begins with {digest[:8]}, not {SHA256[:8]}"))
    try:
        torch.load(path, map_location="meta", weights_only=True)  # nothing but tensors in it
        net = library.FeatureExtractorInceptionV3("inception", [FEATURE], str(path))
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(damaged.format(" ".join(str(error).split())[:200])) from error
    return net, digest


def _fetch(url: str, path: Path) -> None:
    """Whole or not at all: torch renames a temporary file once its hash is right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"the weights of extractor=inception cannot be downloaded ({reason}); put {url} at {path}, "
            "or use extractor=domain"
        ) from error
