"""Names in a config -> the code that they stand for. A name is added here and nowhere else.

Targets are strings, so that the command can list and check names without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from gentrain.errors import UserError


@dataclass(frozen=True)
class Family:
    """A family of models: what makes its network (a class or a function), and the learner that trains it."""

    model: str
    learner: str
    likelihood: Literal["exact", "bound"] | None = None  # its networks' likelihood_kind, known without torch
    headline: str = "bits_per_dim"  # its learner's headline, likewise


MODELS = {
    "ae": Family("gentrain.models.ae:AE", "gentrain.training.minimize:Minimize", headline="mse"),
    "vae": Family("gentrain.models.vae:VAE", "gentrain.training.minimize:Minimize", likelihood="bound"),
    "pixelcnn": Family(
        "gentrain.models.pixel.pixelcnn:pixelcnn", "gentrain.training.minimize:Minimize", likelihood="exact"
    ),
    "pixelrnn": Family(
        "gentrain.models.pixel.pixelrnn:pixelrnn", "gentrain.training.minimize:Minimize", likelihood="exact"
    ),
    "gan": Family(
        "gentrain.models.gan.gan:GAN",
        "gentrain.training.adversarial:Adversarial",
        headline="frechet_distance",
    ),
    "gmm": Family("gentrain.models.gmm:GMM", "gentrain.training.minimize:Minimize", likelihood="bound"),
    "gsn": Family("gentrain.models.gsn:GSN", "gentrain.training.minimize:Minimize", headline="mse"),
}
DATA = {
    "anime": "gentrain.data.sources.anime:Anime",
    "folder": "gentrain.data.sources.folder:Folder",
    "fashion_mnist": "gentrain.data.sources.fashion_mnist:FashionMNIST",
    "mnist": "gentrain.data.sources.mnist:MNIST",
    "cifar10": "gentrain.data.sources.cifar10:CIFAR10",
    "celeba": "gentrain.data.sources.celeba:CelebA",
    "digits": "gentrain.data.sources.digits:Digits",
    "huggingface": "gentrain.data.sources.huggingface:HuggingFace",
    "anime_faces": "gentrain.data.sources.anime_faces:AnimeFaces",
    "moons": "gentrain.data.sources.moons:Moons",
}
OPTIMIZERS = {
    "adamw": "gentrain.training.optimizers:adamw",
    "adam": "gentrain.training.optimizers:adam",
    "sgd": "gentrain.training.optimizers:sgd",
    "rmsprop": "gentrain.training.optimizers:rmsprop",
}
TASKS = {
    "train": "gentrain.tasks.train",
    "sample": "gentrain.tasks.sample",
    "evaluate": "gentrain.tasks.evaluate",
    "inspect": "gentrain.tasks.inspect",
    "interpolate": "gentrain.tasks.interpolate",
    "traverse": "gentrain.tasks.traverse",
    "probe": "gentrain.tasks.probe",
    "compare": "gentrain.tasks.compare",
    "complete": "gentrain.tasks.complete",
    "tune": "gentrain.tasks.tune",
}


def target(path: str) -> Any:
    """ "package.module:Name" -> the object; "package.module" -> the module. Only for targets listed above."""
    module, _, name = path.partition(":")
    loaded = importlib.import_module(module)
    return vars(loaded)[name] if name else loaded


def look_up(table: dict[str, Any], kind: str, name: object) -> Any:
    """The entry of a table above; a UserError with the choices if there is none."""
    if not isinstance(name, str) or name not in table:
        raise UserError(
            f"{kind}={name} is not known{suggestion(str(name), table)}; choose from {', '.join(table)}"
        )
    return table[name]


def suggestion(name: str, known: Iterable[str], section: str = "") -> str:
    """ " (did you mean section.key?)" for the known name that is most like this one, if any is."""
    close = get_close_matches(name, list(known), n=1)
    prefix = f"{section}." if section else ""
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
