"""The chain of a denoising network: its corruption, its walk, its stationary distribution where that is known."""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Command
from families import FAMILIES, newest
from PIL import Image
from torch import Tensor, nn

import gentrain as library
from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.models.gsn import GSN
from gentrain.tasks.chain import COLUMNS, steps_shown

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "gsn.yaml"


def small(shape: ImageShape, **changes: object) -> GSN:
    values = yaml.safe_load(CONFIG.read_text())["model"]
    assert values.pop("name") == "gsn"
    torch.manual_seed(0)
    return GSN(shape, **{**values, "width": 4, "hidden": 16, "latent_dim": 3, "sample_steps": 4, **changes})


def images(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, shape.levels, (count, *shape.chw), dtype=torch.uint8, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_yaml_lists_every_setting_and_no_other() -> None:
    parameters = inspect.signature(GSN.__init__).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(yaml.safe_load(CONFIG.read_text())["model"]) == keywords | {"name"}
    assert all(p.default is inspect.Parameter.empty for p in parameters)


@pytest.mark.parametrize(
    ("shape", "output"),
    [
        (ImageShape(3, 8, 8), "gaussian"),
        (ImageShape(3, 9, 12), "logistic_mixture"),
        (ImageShape(1, 28, 28, 2), "bernoulli"),
    ],
)
@pytest.mark.parametrize("sample_mode", ["mean", "draw"])
def test_shapes(shape: ImageShape, output: str, sample_mode: str) -> None:
    model, x = small(shape, output=output, sample_mode=sample_mode), images(shape, 4)
    loss, metrics = model.train_loss(x, 0)
    loss.backward()
    assert loss.shape == () and all(p.grad is not None for p in model.parameters())
    assert set(metrics) == {"first_step", "last_step"}
    assert model.evaluate(x, generator())["mse"].shape == (4,)
    for pictures in (model.sample(4, generator()), *model.chain(x, 2, generator())):
        assert pictures.shape == x.shape and pictures.dtype == torch.uint8
        assert int(pictures.max()) < shape.levels


def test_the_corruption_is_what_it_says() -> None:
    shape = ImageShape(3, 32, 32, levels=8)
    x = images(shape, 64)
    struck = (small(shape, corruption=0.4).corrupt(x, generator()) != x).any(1).float().mean().item()
    assert struck == pytest.approx(0.4 * (1 - (1 / 8) ** 3), abs=0.01), (
        "a random pixel may be the same by chance"
    )
    assert torch.equal(small(shape, corruption=0.0).corrupt(x, generator()), x)
    noise = small(shape, corruption=1.0).corrupt(x, generator()).flatten().bincount() / x.numel()
    assert torch.allclose(noise, torch.full((8,), 1 / 8), atol=0.01)
    start = small(shape).noise(200, generator()).flatten().bincount() / (200 * shape.dims)
    assert torch.allclose(start, torch.full((8,), 1 / 8), atol=0.01)


def test_the_code_has_a_fixed_length_beside_its_noise() -> None:
    model = small(ImageShape(1, 8, 8))
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(images(model.shape, 5), torch.zeros(5, 3))
    assert torch.allclose(seen[0].square().mean(1), torch.ones(5), atol=1e-3)
    noise = torch.randn(5, 3, generator=generator())
    model(images(model.shape, 5), noise)
    assert torch.allclose(seen[1] - seen[0], model.hidden_noise * noise, atol=1e-6)


def test_walkback_is_the_mean_over_the_walk_back_to_the_picture() -> None:
    """By hand, with the same random numbers."""
    shape = ImageShape(1, 8, 8)
    model, x = small(shape, walkback_steps=3), images(shape, 4)
    torch.manual_seed(5)
    loss, metrics = model.train_loss(x, 0)
    torch.manual_seed(5)
    state, nats = x, []
    for number in range(3):
        params = model.denoise(state, None)
        nats.append(model.likelihood.nll(x, params).mean() / (64 * np.log(2)))
        if number < 2:
            state = model.likelihood.sample(params, None)
    assert loss.item() == pytest.approx(torch.stack(nats).mean().item(), rel=1e-5)
    assert metrics["last_step"].item() == pytest.approx(nats[-1].item(), rel=1e-5)


class Posterior(nn.Module):
    """Stands for a trained network: the true P(x | x~) of pictures that are all black or all white, given
    salt and pepper. Binary, so of k white pixels among N the odds are ((1-c/2)/(c/2))^(2k-N) times the prior's.
    """

    def __init__(self, white: float, corruption: float) -> None:
        super().__init__()
        self.log_prior = float(np.log(white / (1 - white)))
        self.per_pixel = float(np.log((1 - corruption / 2) / (corruption / 2)))

    def logits(self, corrupted_BCHW: Tensor) -> Tensor:
        balance_B = (corrupted_BCHW.float() * 2 - 1).sum((1, 2, 3))
        return self.log_prior + self.per_pixel * balance_B


def test_the_chain_visits_pictures_as_often_as_the_data_does() -> None:
    """Theorem 1 of arXiv 1305.6663: with the true P(x | x~) the chain's stationary distribution is the data's.

    The data: all black with probability 0.3, all white with 0.7, of 2x2 pixels. P(x | h) is handed over whole:
    one coin a picture, so that the pixels agree.
    """
    shape = ImageShape(1, 8, 8, levels=2)
    model, truth = small(shape, output="bernoulli", corruption=0.6, sample_mode="draw"), Posterior(0.7, 0.6)

    def denoise(x_BCHW: Tensor, noise: torch.Generator | None) -> Tensor:
        # Only four pixels are looked at, so that the chain can change its mind.
        logit_B = truth.logits(model.corrupt(x_BCHW, noise)[:, :, :2, :2])
        coin_B = torch.rand(len(x_BCHW), generator=noise) < logit_B.sigmoid()
        return torch.where(coin_B, 50.0, -50.0)[:, None, None, None].expand(-1, 1, 8, 8)

    model.denoise = denoise  # type: ignore[method-assign]
    start = torch.zeros(2000, 1, 8, 8, dtype=torch.uint8)
    visited = torch.stack([x[:, 0, 0, 0] for x in model.chain(start, 60, generator())]).float()
    assert visited[0].mean() < 0.6, "it starts from black"
    assert visited[20:].mean().item() == pytest.approx(0.7, abs=0.01)
    assert (visited[20:].std(0) > 0).float().mean() > 0.95, "each chain visits both"


def test_it_learns_to_move_between_two_pictures() -> None:
    """Trained on two pictures, chains end in one or the other, in both, and move between them."""
    shape = ImageShape(1, 8, 8, levels=2)
    x = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    x[:16, :, :4] = 1
    x[16:, :, 4:] = 1
    model = small(shape, output="bernoulli", corruption=0.8, hidden_noise=1.0, width=8, walkback_steps=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(150):
        loss, _ = model.train_loss(x, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames = (
        torch.stack(list(model.chain(model.noise(64, generator()), 40, generator())))[10:].flatten(2).float()
    )
    distance = torch.stack(
        [(frames - picture.flatten().float()).abs().mean(2) for picture in (x[0], x[31])], 2
    )
    nearest, which = distance.min(2)
    assert nearest.mean() < 0.15, "pictures, and no others"
    assert 0.2 < which.float().mean() < 0.8, "both of them"
    assert (which.float().std(0) > 0).float().mean() > 0.5, "and chains go from one to the other"


def test_same_generator_same_chain() -> None:
    model, x = small(ImageShape(3, 8, 8)), images(ImageShape(3, 8, 8), 3)
    state = torch.get_rng_state()
    one, two = (torch.stack(list(model.chain(x, 3, generator(4)))) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(model.sample(2, generator(4)), model.sample(2, generator(4)))
    assert torch.equal(torch.get_rng_state(), state), "only the generator that was given is used"


@pytest.mark.parametrize(
    ("shape", "changes", "sentence"),
    [
        (ImageShape(1, 7, 7), {}, r"model=gsn takes pictures of 8 to 128"),
        (ImageShape(1, 8, 8), {"output": "bernoulli"}, r"model\.output=bernoulli needs data\.levels=2"),
    ],
)
def test_settings_that_do_not_fit_get_a_sentence(shape: ImageShape, changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(shape, **changes)


def test_the_steps_that_are_shown() -> None:
    assert steps_shown(4) == [0, 1, 2, 3]
    for frames in (COLUMNS, COLUMNS + 1, 21, 51, 1001):
        shown = steps_shown(frames)
        assert len(shown) <= COLUMNS and shown[0] == 0 and shown[-1] == frames - 1
        assert all(later > earlier for earlier, later in pairwise(shown)), frames


# -- runs


@pytest.fixture
def run(gentrain: Command, tiny: list[str]) -> Path:
    gentrain(*tiny, *FAMILIES["gsn"], "run_dir=run")
    return Path("run")


def test_the_task_shows_the_chain(run: Path, gentrain: Command) -> None:
    outcome = gentrain("task=sample", "run=run", "sample.count=5", "sample.seed=3")
    assert outcome.status == 0, outcome.err
    assert "3 steps of the chain from noise" in outcome.out and "after 0, 1, 2, 3 steps" in outcome.out
    assert Image.open(run / "sample/chain.png").size == (4 * 10 + 2, 5 * 10 + 2)
    loaded = library.load(run)
    samples = loaded.sample(5, seed=3)
    for number, image_CHW in enumerate(samples.numpy()):
        shown = np.asarray(Image.open(run / f"sample/{number:05d}.png")).transpose(2, 0, 1)
        assert np.array_equal(shown, image_CHW)
    ends, frames = loaded.chain(300, seed=3, watched=8)
    assert torch.equal(ends, loaded.sample(300, seed=3)), "more than one batch"
    assert frames.shape == (8, 4, 3, 8, 8) and torch.equal(frames[:, -1], ends[:8])
    for count, start in ((0, None), (5, samples[:2])):
        with pytest.raises(
            UserError, match=f"{count} chains need at least one picture, and as many to start"
        ):
            loaded.chain(count, start_NCHW=start)


def test_the_chain_from_a_split_or_a_file_and_longer(run: Path, gentrain: Command) -> None:
    picture = Image.new("RGB", (16, 12), (200, 10, 10))
    picture.save("red.png")
    for source in ("noise", "valid", "test", "red.png"):
        outcome = gentrain(
            "task=sample", "run=run", "sample.count=3", "sample.chain_steps=20", f"sample.chain_from={source}"
        )
        assert outcome.status == 0, outcome.err
        assert f"20 steps of the chain from {source}" in outcome.out
        grid = np.asarray(Image.open(run / "sample/chain.png"))
        first = grid[2:10, 2:10]
        if source == "red.png":
            assert (first == [200, 10, 10]).all()
        if source in ("valid", "test"):
            from gentrain.data.build import open_data

            split = open_data(library.load(run).config["data"], lambda *_: None).split(source)
            assert np.array_equal(first.transpose(2, 0, 1), split[0])


def test_what_cannot_be_done_gets_a_sentence(run: Path, gentrain: Command, tiny: list[str]) -> None:
    Path("no.png").write_text("no")
    gentrain(*tiny, *FAMILIES["vae"], "run_dir=vae", "train.max_steps=1")
    for arguments, sentence in {
        (
            "run=run",
            "sample.chain_from=missing.png",
        ): "is no picture file; it may also be noise, valid or test",
        ("run=run", "sample.chain_from=no.png"): "is no picture that can be used",
        ("run=run", "sample.chain_steps=0"): "must be a whole number at least 1",
        ("run=run", "sample.temperature=0.5"): "temperature must be 1",
        ("run=run", "sample.temperature=0.5", "sample.chain_steps=2"): "have no meaning beside sample.chain",
        ("run=vae", "sample.chain_steps=3"): "a vae runs no chain",
        ("run=vae", "sample.chain_from=test"): "a vae runs no chain",
        ("run=run", "data.root=elsewhere"): "has no meaning for task=sample",
    }.items():
        outcome = gentrain("task=sample", *arguments)
        assert outcome.status == 2, arguments
        assert sentence in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err
    with pytest.raises(UserError, match="a gsn has no likelihood"):
        library.load(run).log_prob(library.load(run).sample(1))


def test_no_bits_per_dimension_are_reported(run: Path, gentrain: Command) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for line in lines for tag in line}
    assert {"train/first_step", "train/last_step", "valid/mse", "valid/psnr_db"} <= tags
    assert not any("bits" in tag or "nats" in tag for tag in tags)
    assert newest(run)["best"]["metric"] == "valid/mse"
    assert gentrain("task=evaluate", "run=run").status == 0
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    assert set(figures) == {"mse", "psnr_db", "seconds_for_64_samples"}
