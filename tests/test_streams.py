"""Randomness of an image's own: whatever batch it is in, in whatever order, with whatever others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from torch import Tensor

import gentrain as library
from gentrain.analysis import inpainting
from gentrain.data.build import open_data, preprocessing_of
from gentrain.data.dataset import ImageSplit
from gentrain.errors import UserError
from gentrain.metrics.evaluate import evaluate_images
from gentrain.metrics.extractors import Domain
from gentrain.metrics.likelihood import likelihood
from gentrain.metrics.validation import ValidationDistance
from gentrain.models import vae
from gentrain.models.pixel import sampler
from gentrain.models.pixel.sampler import Draw
from gentrain.runs import trained
from gentrain.runtime import seeding
from gentrain.runtime.streams import Streams, _bits, of_contents

CPU = torch.device("cpu")
# Kernels for batches of another size add in another order: a few units in the last place of float32.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def splitmix64(seed: int, count: int) -> list[int]:
    """Steele et al., OOPSLA 2014, in whole numbers."""
    out, state, mask = [], seed, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_the_hash_is_splitmix64() -> None:
    assert splitmix64(1234567, 1) == [6457827717110365317], "as the generator's author prints it"
    seeds = [1234567, 0, 2**62 - 1]
    found = _bits(torch.tensor(seeds), 0, 50).numpy().view(np.uint64).tolist()
    assert found == [splitmix64(seed, 50) for seed in seeds]
    assert torch.equal(_bits(torch.tensor(seeds), 7, 9), _bits(torch.tensor(seeds), 0, 50)[:, 7:16])


def test_numbers_have_the_distributions_that_they_should() -> None:
    streams = seeding.image_streams(1000, 0, "x")
    uniform = streams.draw(torch.rand, (1000, 20, 30), CPU).flatten(1).double()
    normal = streams.draw(torch.randn, (1000, 600), CPU).double()
    assert 0 <= uniform.min() < 1e-5 and 1 - 1e-5 < uniform.max() < 1
    count = uniform.numel()
    for values, distribution in ((uniform, uniform), (normal, torch.special.ndtr(normal))):
        # Kolmogorov-Smirnov over all, at 1e-6; and no images, and no neighbours, that go together.
        at = torch.arange(1, count + 1) / count
        assert (distribution.flatten().sort().values - at).abs().max() < 2.7 / count**0.5
        for x in (values, values.T):
            correlation = torch.corrcoef(x[:400])
            assert correlation.fill_diagonal_(0).abs().max() < 5.5 / x.shape[1] ** 0.5
    assert abs((normal**4).mean().item() - 3) < 5 * (96 / count) ** 0.5


@pytest.mark.parametrize(
    "how",
    [torch.rand, torch.randn, partial(torch.randint, 0, 1000), partial(torch.rand, dtype=torch.float64)],
)
def test_a_row_is_its_images_alone(how: Callable[..., Tensor]) -> None:
    def draws(streams: Streams) -> list[Tensor]:
        shapes = [(len(streams), *rest) for rest in ((3,), (), (2, 7), (300, 300))]
        return [seeding.drawn(how, shape, streams, CPU) for shape in shapes]

    whole = draws(seeding.image_streams(9, 5, "x"))
    chosen = torch.tensor([8, 2, 2])
    for rows in (chosen, slice(3, 4), slice(0, 0)):
        for of_some, of_all in zip(draws(seeding.image_streams(9, 5, "x")[rows]), whole, strict=True):
            assert torch.equal(of_some, of_all[rows])
    for of_some, of_all in zip(draws(seeding.image_streams(4, 5, "x")), whole, strict=True):
        assert torch.equal(of_some, of_all[:4]), "fewer are the first of more"
    for another in ((6, "x"), (5, "y")):
        assert not torch.equal(draws(seeding.image_streams(9, *another))[0], whole[0])


def test_streams_of_contents_know_the_image_and_the_seed() -> None:
    x = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seeds = of_contents(x, 0).seeds_B
    assert len(set(seeds.tolist())) == 5
    order = [3, 0, 0]
    channels_last = x[order].contiguous(memory_format=torch.channels_last)
    assert torch.equal(of_contents(channels_last, 0).seeds_B, seeds[order])
    assert not set(seeds.tolist()) & set(of_contents(x, 1).seeds_B.tolist())


def nearly_same(left: Tensor, right: Tensor) -> bool:
    """Of levels: rounding may tip one in a while to its neighbour."""
    return left.shape == right.shape and (left != right).double().mean().item() < 0.005


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_knows_the_batch(
    family: str, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is asked of a trained run, at batches of other sizes, and of fewer pictures."""
    short = ["train.max_steps=2", "train.eval_every_steps=null", "train.sample_every_steps=null"]
    outcome = gentrain(*tiny, *FAMILIES[family], *short, *DRAWING.get(family, []), "run_dir=run")
    assert outcome.status == 0, outcome.err
    run = library.load("run")
    packed = open_data(run.config["data"], lambda *_: None)
    images = ImageSplit(packed.split("train"), preprocessing_of(run.config["data"]), CPU)
    monkeypatch.setattr(vae, "IMPORTANCE_CHUNK", 10_000)  # the draws of a bound in parts, by the batch's size

    def figures(batch_size: int) -> dict[str, float]:
        found = likelihood(run, images, batch_size, 0, 5, None, lambda *_: None)
        return {name: figure.mean for name, figure in found.items()}

    expected = figures(256)
    with torch.no_grad():
        said = evaluate_images(run.generative, run.shape, images.first(2), seeding.image_streams(2, 0, "x"))
    assert said.keys() <= expected.keys(), "each figure that the family has"
    for batch_size in (1, 7):
        assert figures(batch_size) == pytest.approx(expected, rel=1e-6)
    x = images.take(torch.arange(11))
    asked = asked_of(run, x)
    monkeypatch.setattr(trained, "BATCH", 4)
    monkeypatch.setattr(inpainting, "SEARCHED_AT_ONCE", 3)
    monkeypatch.setattr(sampler, "CPU_BATCH", 5)
    in_parts, of_fewer = asked_of(run, x), asked_of(run, x[:6])
    for name, whole in asked.items():
        if whole.dtype == torch.uint8:
            assert nearly_same(in_parts[name], whole), name
            assert nearly_same(of_fewer[name], whole[:6]), name
        else:
            torch.testing.assert_close(in_parts[name], whole, **ROUNDING)
            torch.testing.assert_close(of_fewer[name], whole[:6], **ROUNDING)
    if run.likelihood_kind is not None:
        order = torch.tensor([9, 3, 3, 0])
        torch.testing.assert_close(run.log_prob(x[order]), asked["log_prob"][order], **ROUNDING)
        with torch.no_grad():
            noise = seeding.image_streams(2, 0, "x")
            assert not torch.equal(*evaluate_images(run.generative, run.shape, x[[3, 3]], noise)["nats"]) or (
                run.likelihood_kind == "exact"
            ), "a split's images have noise by their number"


# Families with another way to draw: the one with more noise in it.
DRAWING = {"vae": ["model.sample_mode=draw"], "gsn": ["model.sample_mode=draw"]}


def asked_of(run: trained.TrainedRun, x: Tensor) -> dict[str, Tensor]:
    """As many pictures as there are in x, in all ways that the family has; and what it says of these."""
    n, known = len(x), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    known[:, :, :4] = True
    asks: dict[str, Callable[[], Tensor]] = {
        "sample": lambda: run.sample(n),
        "chain": lambda: run.chain(n)[0],
        "chain from pictures": lambda: run.chain(n, steps=2, start_NCHW=x)[0],
        "log_prob": lambda: run.log_prob(x),
        "reconstruct": lambda: run.reconstruct(x),
        "encode": lambda: run.encode(x),
        "draw_codes": lambda: run.draw_codes(n),
        "complete": lambda: run.complete(x, known),
        "way": lambda: (
            inpainting.inpainting_method(
                run, Draw(), None if run.config["model"]["name"].startswith("pixel") else 2
            )(x, known, 0, lambda *_: None).levels_BCHW
        ),
    }
    found = {}
    for name, ask in asks.items():
        try:
            found[name] = ask()
        except UserError:  # this family has no such thing
            continue
    assert "sample" in found
    return found


@pytest.mark.parametrize("own_generators", [True, False])
@pytest.mark.parametrize("family", ["pixelcnn", "pixelrnn"])
def test_pixels_do_not_know_how_many_fit_into_memory(
    family: str, own_generators: bool, gentrain: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without generators of their own, pictures get their noise as they do on a GPU."""
    gentrain(*tiny, *FAMILIES[family], "train.max_steps=1", "train.sample_every_steps=null", "run_dir=run")
    run = library.load("run")
    if not own_generators:
        monkeypatch.setattr(sampler, "ONE_BY_ONE", ())
    drawn = []
    for at_once in (9, 4, 1):
        monkeypatch.setattr(sampler, "batch_size", lambda *_, at_once=at_once: at_once)
        drawn.append(run.sample(9, seed=3))
    assert len(drawn[0].unique(dim=0)) == 9
    assert nearly_same(drawn[1], drawn[0])
    assert nearly_same(drawn[2], drawn[0])


def test_the_distance_in_training_does_not_know_the_batch(gentrain: Command, tiny: list[str]) -> None:
    """Nor do samples at several processes: each draws its part of the streams."""
    gentrain(*tiny, *FAMILIES["gan"], "train.max_steps=1", "run_dir=run")
    run = library.load(Path("run"))
    valid = torch.randint(
        0, 256, (70, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    images = ImageSplit(valid.numpy(), preprocessing_of(run.config["data"]), CPU)
    distance = ValidationDistance(Domain(CPU), images, 70)
    with torch.no_grad():
        found = [distance.of(run.generative.sample, size, 0, lambda: False) for size in (70, 32, 9)]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-4)
