"""A trained run's samples against real pictures: which pictures are compared, and every figure of them.

Legend: N real pictures, M samples, K neighbours, D features, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentrain.data.build import fresh_pictures, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.data.packed import Packed
from gentrain.images import to_picture
from gentrain.metrics.extractors import Extractor
from gentrain.metrics.figure import Figure, mean_of
from gentrain.metrics.memorisation import Nearest, nearer, nearest
from gentrain.metrics.quality import quality
from gentrain.runs.trained import TrainedRun
from gentrain.runtime.seeding import derive, generator
from gentrain.viz.grids import labelled_grid, png

TRAINING_AT_MOST = 50_000  # pictures among which neighbours are sought
BLOCK = 2048  # of them at a time
NEIGHBOURS, SHOWN = 5, 8  # in the picture: training pictures a row, and rows
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sets:
    """uint8 levels on the CPU, as many of each but of `training`."""

    samples: Tensor
    real: Tensor  # of the held-out split
    floors: dict[str, Tensor]  # other real pictures, by where they are from
    training: Tensor
    protocol: dict[str, Any]


@dataclass(frozen=True)
class SampleReport:
    figures: dict[str, Figure]
    nearest_rmse: dict[str, list[float]]  # at QUANTILES, of samples and of held-out pictures
    picture: bytes  # the samples that are nearest to training pictures, as a PNG


def how_many(asked: int, packed: Packed, split: str) -> int:
    """Pictures in a set: as many as asked for, or as there are real ones."""
    return min(asked, packed.counts[split], packed.counts["train"])


def draw_sets(
    trained: TrainedRun, packed: Packed, split: str, count: int, seed: int, progress: Progress
) -> Sets:
    """Samples of the run, and real pictures chosen by the seed."""
    view, cpu = preprocessing_of(trained.config["data"]), torch.device("cpu")

    def chosen(name: str, of: str, most: int) -> Tensor:
        images = ImageSplit(packed.split(of), view, cpu)
        order = torch.randperm(len(images), generator=generator(seed, "evaluate", name))
        return images.take(order[:most].sort().values)

    floors = {"train": chosen("floor", "train", count)}
    fresh = fresh_pictures(trained.config["data"], count, derive(seed, "fresh"))
    if fresh is not None:
        floors["fresh"] = ImageSplit(fresh, view, cpu).take(torch.arange(count))
    training = chosen("training", "train", TRAINING_AT_MOST)
    protocol = {
        "samples": count,
        "against": f"{count} of {packed.counts[split]} {split} images",
        "training": f"{len(training)} of {packed.counts['train']}",
    }
    samples = trained.sample(count, derive(seed, "evaluate", "samples"), progress=progress)
    return Sets(samples, chosen("real", split, count), floors, training, protocol)


def evaluate_samples(sets: Sets, extractor: Extractor, levels: int, progress: Progress) -> SampleReport:
    """Quality in features; copies, and nearness to training pictures, in pixels and in features."""
    count, total = len(sets.samples), len(sets.training)

    def features(x_NCHW: Tensor) -> Tensor:
        return torch.cat([extractor.features(block, levels).cpu() for block in x_NCHW.split(BLOCK)])

    samples_MD, real_ND = features(sets.samples), features(sets.real)
    floors = {name: features(x_NCHW) for name, x_NCHW in sets.floors.items()}
    common = {key: sets.protocol[key] for key in ("samples", "against")}
    figures = quality(extractor.label, samples_MD, real_ND, floors, common)

    def watched(blocks: Iterator[Tensor], begin: int) -> Iterator[Tensor]:
        done = 0
        for block in blocks:
            yield block
            done += len(block)
            progress(begin + done, 2 * total)

    # The neighbours of samples, held-out pictures and fresh ones: in one walk over the training pictures.
    new = {name: x for name, x in sets.floors.items() if name != "train"}
    parts = [sets.samples, sets.real, *new.values()]
    pixels = nearest(
        torch.cat(parts).flatten(1), watched(iter(sets.training.flatten(1).split(BLOCK)), 0), NEIGHBOURS
    )
    in_features = nearest(
        torch.cat([samples_MD, real_ND, *(floors[name] for name in new)]),
        watched((extractor.features(block, levels).cpu() for block in sets.training.split(BLOCK)), total),
    )
    figures |= _memorised(pixels, in_features, count, ["held_out", *new], levels, extractor.label, sets)
    rmse = _rmse(pixels.nearest_M, sets.samples, levels)
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    quantiles = {
        name: rmse[start : start + count].quantile(at).tolist()
        for name, start in (("samples", 0), ("held_out", count))
    }
    return SampleReport(figures, quantiles, _picture(sets, pixels, levels))


def _rmse(squared_M: Tensor, x_MCHW: Tensor, levels: int) -> Tensor:
    """Squared distances of levels -> root mean square differences in units of [-1, 1]."""
    return (squared_M / x_MCHW[0].numel()).sqrt() * 2 / (levels - 1)


def _memorised(
    pixels: Nearest, in_features: Nearest, count: int, new: list[str], levels: int, label: str, sets: Sets
) -> dict[str, Figure]:
    """`new`: names of the sets after the samples, the first of which the samples are compared with."""

    def of(found: Nearest, number: int) -> Tensor:
        return found.nearest_M[number * count : (number + 1) * count]

    def share(found: Nearest, meaning: str, protocol: Mapping[str, Any]) -> Figure:
        estimate = nearer(of(found, 0), of(found, 1))
        floor = {name: nearer(of(found, i + 1), of(found, 1)).value for i, name in enumerate(new) if i}
        return Figure(estimate.value, estimate.standard_error, "", meaning, dict(protocol), floor)

    protocol = dict(sets.protocol)
    rmses = [_rmse(of(pixels, i), sets.samples, levels) for i in range(len(new) + 1)]
    distance, copies = mean_of(rmses[0]), mean_of(of(pixels, 0) == 0)
    meaning = "probability that a sample is nearer to a training picture than a held-out one; 0.5: no copying"
    return {
        "copies": Figure(
            copies.value, copies.standard_error, "", "share of samples that are a training picture",
            protocol, {name: (of(pixels, i + 1) == 0).double().mean().item() for i, name in enumerate(new)},
        ),
        "nearest_train_rmse": Figure(
            distance.value, distance.standard_error, "per dimension",
            "root mean square difference to the nearest training picture, pixels in [-1, 1]",
            protocol, {name: rmses[i + 1].mean().item() for i, name in enumerate(new)},
        ),
        "nearer_than_held_out": share(pixels, f"{meaning} (in pixels; soft pictures are near)", protocol),
        f"nearer_than_held_out[{label}]": share(in_features, meaning, protocol | {"extractor": label}),
    }  # fmt: skip


def _picture(sets: Sets, pixels: Nearest, levels: int) -> bytes:
    """The samples that are nearest to training pictures, and the held-out pictures that are, with these."""
    count, rows, titles = len(sets.samples), [], []
    for title, x_NCHW, start in (("sample", sets.samples, 0), ("held out", sets.real, count)):
        for number in pixels.nearest_M[start : start + count].argsort(stable=True)[: SHOWN // 2].tolist():
            neighbours = sets.training[pixels.index_MK[start + number]]
            rows.append(torch.cat([x_NCHW[number : number + 1], neighbours]))
            titles.append(title)
    headings = ["", "nearest", *map(str, range(2, rows[0].shape[0]))]
    return png(labelled_grid(to_picture(torch.stack(rows), levels), titles, headings))
