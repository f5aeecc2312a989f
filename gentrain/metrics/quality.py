"""How good the samples of any model are: two sets of pictures compared by their features.

Legend: N real pictures, M of a model, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gentrain.metrics.figure import Estimate, Figure
from gentrain.metrics.frechet import frechet_distance
from gentrain.metrics.kernel import kernel_distance
from gentrain.metrics.manifold import K_DENSITY, K_PRECISION, density_coverage, precision_recall

Progress = Callable[[int, int], None]
MEANINGS = {
    "frechet_distance": "squared distance of Gaussians fitted to features; less is better",
    "kernel_distance": "MMD^2, cubic kernel, unbiased: may be negative; less is better",
    "precision": f"share of samples that lie among real pictures, k={K_PRECISION}",
    "recall": f"share of real pictures that lie among samples, k={K_PRECISION}",
    "density": f"real neighbourhoods a sample lies in, over k={K_DENSITY}; about 1",
    "coverage": f"share of real neighbourhoods with a sample in them, k={K_DENSITY}",
}


def quality(
    label: str,
    samples_MD: Tensor,
    real_ND: Tensor,
    floors: Mapping[str, Tensor],
    protocol: Mapping[str, Any],
    progress: Progress = lambda done, total: None,
) -> dict[str, Figure]:
    """Figures in the features of the extractor `label`, each beside that of other real pictures (`floors`).

    All sets of features have as many rows as columns at least, else a Frechet distance means nothing.
    """
    sets = {"": samples_MD, **floors}
    found = {}
    for number, (name, features) in enumerate(sets.items()):
        found[name] = _compared(features, real_ND)
        progress(number + 1, len(sets))
    return {
        f"{name}[{label}]": Figure(
            found[""][name].value,
            found[""][name].standard_error,
            "",
            _called(name, label) + meaning,
            {"extractor": label, **protocol},
            {floor: found[floor][name].value for floor in floors},
        )
        for name, meaning in MEANINGS.items()
    }


def _compared(samples_MD: Tensor, real_ND: Tensor) -> dict[str, Estimate]:
    precision, recall = precision_recall(real_ND, samples_MD)
    density, coverage = density_coverage(real_ND, samples_MD)
    return {
        "frechet_distance": frechet_distance(samples_MD, real_ND),
        "kernel_distance": kernel_distance(samples_MD, real_ND),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def _called(name: str, label: str) -> str:
    """Only in the features of the original network may a figure be called what the papers call it."""
    names = {"frechet_distance": "FID: ", "kernel_distance": "KID: "}
    return names.get(name, "") if label.startswith("inception@") else ""
