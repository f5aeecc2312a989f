"""task=complete: what is known stays, what is unknown is not looked at, and the three ways against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import Command
from families import FAMILIES
from PIL import Image
from torch import Tensor, nn

import gentrain as library
from gentrain.analysis.inpainting import SEARCH_SIGMA, inpainting_method, latent_search
from gentrain.images import ImageShape, to_levels, to_unit
from gentrain.models.gsn import GSN
from gentrain.models.pixel.sampler import Draw
from gentrain.tasks.complete import mask, measure


def quiet(_done: int, _total: int) -> None:
    pass


@pytest.mark.parametrize("size", [4, 5])
def test_the_halves(size: int) -> None:
    shape = ImageShape(1, size, size)
    upper, lower, left, right = (mask(known, shape)[0, 0] for known in ("upper", "lower", "left", "right"))
    assert upper.dtype == torch.bool and upper.shape == (size, size)
    assert upper[: size // 2].all() and not upper[size // 2 :].any()
    assert torch.equal(lower, upper.flip(0))
    assert torch.equal(left, upper.T) and torch.equal(right, upper.T.flip(1))


# ---- the search, on a linear generator: the posterior is a Gaussian, and its mode a solution of linear equations


class Linear(nn.Module):
    latent_dim = 2

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
        self.weights = nn.Parameter(0.2 * weights)

    def render(self, z_BZ: Tensor) -> Tensor:
        return (z_BZ @ self.weights).view(-1, 1, 4, 2)


def test_the_search_ends_in_the_mode_of_the_posterior() -> None:
    model, shape = Linear(), ImageShape(1, 4, 2)
    trained = cast(
        Any, SimpleNamespace(model=model, shape=shape, compute=SimpleNamespace(device=torch.device("cpu")))
    )
    truth = model.render(torch.tensor([[0.8, -0.5], [-0.3, 1.1]])).detach()
    x, known = to_levels(truth, 256), mask("upper", shape)
    done = latent_search(trained, x, known, 0, 2000, quiet)
    weights = model.weights.detach().double().numpy()
    seen = weights[:, :4] / SEARCH_SIGMA
    target = to_unit(x, 256).double().numpy().reshape(2, 8)[:, :4] / SEARCH_SIGMA
    mode = np.linalg.solve(seen @ seen.T + np.eye(2), seen @ target.T).T
    expected = ((mode @ weights).reshape(2, 1, 4, 2) + 1) * 255 / 2
    unknown = ~known.expand_as(x)
    assert torch.equal(done.levels_BCHW[~unknown], x[~unknown])
    assert np.abs(done.levels_BCHW.numpy() - expected)[unknown.numpy()].max() <= 0.6
    assert model.weights.grad is None


# ---- the chain, on two pixels whose joint distribution is known


def test_the_clamped_chain_keeps_what_is_known_and_an_empty_mask_changes_nothing() -> None:
    shape = ImageShape(1, 8, 8, 256)
    torch.manual_seed(0)
    model = GSN(
        shape, latent_dim=3, width=4, encoder_blocks=0, decoder_blocks=0, hidden=8, output="gaussian", mixtures=1,
        corruption=0.3, hidden_noise=0.1, walkback_steps=1, sample_steps=3, sample_mode="draw",
    )  # fmt: skip
    start = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    known, nothing = mask("left", shape), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    free = list(model.chain(start, 4, torch.Generator().manual_seed(5)))
    empty = list(model.chain(start, 4, torch.Generator().manual_seed(5), nothing))
    held = list(model.chain(start, 4, torch.Generator().manual_seed(5), known))
    assert all(torch.equal(one, other) for one, other in zip(free, empty, strict=True))
    for state in held:
        assert torch.equal(state[..., :4], start[..., :4])
        assert not torch.equal(state[..., 4:], start[..., 4:])


def test_the_clamped_chain_draws_from_the_conditional_distribution() -> None:
    """Pixels a and b of two levels: P(a = b) = 0.9. The network says the true P(x | x~); given a, b is drawn."""
    corruption, pairs = 0.5, torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    prior = torch.tensor([0.45, 0.05, 0.05, 0.45]).double()
    model = cast(Any, GSN.__new__(GSN))
    nn.Module.__init__(model)
    model.shape, model.sample_mode = ImageShape(1, 1, 2, 2), "draw"
    model.corruption = corruption

    def denoise(x_BCHW: Tensor, noise: torch.Generator) -> Tensor:
        seen = model.corrupt(x_BCHW, noise).flatten(1).long()
        same = (seen[:, None] == pairs).double()
        likely = (same * (1 - corruption / 2) + (1 - same) * corruption / 2).prod(2) * prior
        return likely / likely.sum(1, keepdim=True)

    def sample(posterior_B4: Tensor, noise: torch.Generator) -> Tensor:
        return (
            pairs[torch.multinomial(posterior_B4, 1, generator=noise)[:, 0]].to(torch.uint8).view(-1, 1, 1, 2)
        )

    model.denoise, model.likelihood = denoise, SimpleNamespace(sample=sample)
    known = torch.tensor([True, False]).view(1, 1, 1, 2)
    start = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 2).repeat(4000, 1, 1, 1)
    *_, state = model.chain(start, 12, torch.Generator().manual_seed(0), known)
    assert (state[..., 0] == 1).all()
    # The clamped chain's own stationary distribution, by the transition matrix of b given a = 1.
    move = torch.zeros(2, 2).double()
    for b in (0, 1):
        for seen in pairs:
            chance = torch.where(seen == torch.tensor([1, b]), 1 - corruption / 2, corruption / 2).prod()
            same = (seen == pairs).double()
            likely = (same * (1 - corruption / 2) + (1 - same) * corruption / 2).prod(1) * prior
            after = likely / likely.sum()
            move[b] += chance * torch.stack([after[[0, 2]].sum(), after[[1, 3]].sum()])
    stationary = torch.linalg.matrix_power(move, 100)[0, 1].item()
    share = state[..., 1].double().mean().item()
    assert abs(share - stationary) < 4 * (stationary * (1 - stationary) / 4000) ** 0.5
    assert stationary > 0.55, "white beside white is likelier"


# ---- figures


def test_figures_are_those_of_the_unknown_half() -> None:
    noise = np.random.default_rng(0)
    x = noise.integers(0, 256, (3, 1, 4, 4)).astype(np.uint8)
    made = noise.integers(0, 256, (3, 5, 1, 4, 4)).astype(np.uint8)
    figures = measure(torch.from_numpy(x), torch.from_numpy(made), mask("upper", ImageShape(1, 4, 4)), 256)
    truth, drawn = x[:, :, 2:] / 127.5 - 1, made[:, :, :, 2:] / 127.5 - 1
    errors = ((drawn - truth[:, None]) ** 2).mean((1, 2, 3, 4))
    assert figures["unknown_mse"]["mean"] == pytest.approx(errors.mean(), rel=1e-5)
    assert figures["unknown_mse"]["standard_error"] == pytest.approx(errors.std(ddof=1) / 3**0.5, rel=1e-5)
    assert figures["unknown_variance"]["mean"] == pytest.approx(drawn.var(1, ddof=1).mean(), rel=1e-5)


# ---- runs


@pytest.mark.parametrize("family", ["pixelcnn", "gsn", "vae", "gan"])
def test_a_run_completes(family: str, gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES[family], "run_dir=run", "train.max_steps=2")
    more = ["complete.steps=4"] if family != "pixelcnn" else []
    outcome = gentrain("task=complete", "run=run", "complete.count=3", "complete.draws=2", *more)
    assert outcome.status == 0, outcome.err
    content = json.loads(Path("run/complete/completion.json").read_text())
    how = {
        "pixelcnn": "drawn exactly",
        "gsn": "4 steps of the chain",
        "vae": "4 steps of Adam",
        "gan": "4 steps of Adam",
    }
    assert content["protocol"]["how"].find(how[family]) >= 0 and how[family] in outcome.out
    assert content["protocol"]["images"] == 3 and content["protocol"]["split"] == "test"
    assert content["figures"]["unknown_mse"]["mean"] > 0
    grid = np.asarray(Image.open("run/complete/grid.png"))
    cell = 8 * 6 + 2
    assert grid.shape[:2] == (12 + 8 + 3 * cell, 4 * cell)
    below = grid[20:]
    for column in (1, 2, 3):  # the upper half of the first picture is in every column
        assert np.array_equal(below[:24, column * cell : column * cell + 48], below[:24, :48])
    assert (below[24:48, cell : cell + 48] == 128).all()
    assert gentrain("task=complete", "run=run", "complete.count=3", "complete.draws=2", *more).status == 0
    assert json.loads(Path("run/complete/completion.json").read_text()) == content, "the same again"

    trained = library.load("run", device="cpu")
    complete = inpainting_method(trained, Draw(), 4 if more else None)
    known = mask("upper", trained.shape)
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = torch.where(known, x, 255 - x)
    done = complete(x, known, 1, quiet).levels_BCHW
    assert done.dtype == torch.uint8 and torch.equal(done[:, :, :4], x[:, :, :4])
    assert torch.equal(done, complete(other, known, 1, quiet).levels_BCHW), "it has looked at what is unknown"
    assert not torch.equal(done, complete(x, known, 2, quiet).levels_BCHW)


def test_what_is_not_exact_is_not_called_so(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["pixelcnn"], "run_dir=run", "train.max_steps=1")
    for known, temperature, words in (
        ("left", 1.0, "known ones that come later are not seen"),
        ("lower", 1.0, "known ones that come later are not seen"),
        ("upper", 0.5, "at temperature 0.5"),
    ):
        outcome = gentrain(
            "task=complete", "run=run", "complete.count=1", "complete.draws=1", f"complete.known={known}",
            f"complete.temperature={temperature}",
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        assert words in outcome.out and "exactly" not in outcome.out


def test_what_cannot_be_done_gets_a_sentence(gentrain: Command, tiny: list[str]) -> None:
    for family in ("pixelcnn", "vae", "ae", "gmm"):
        gentrain(*tiny, *FAMILIES[family], f"run_dir={family}", "train.max_steps=1")
    for arguments, sentence in {
        ("run=ae",): "task=complete has no way to redraw a part of a picture with model=ae",
        ("run=gmm",): "task=complete has no way to redraw a part of a picture with model=gmm",
        ("run=vae", "complete.temperature=0.5"): "complete.temperature has no meaning for model=vae",
        ("run=pixelcnn", "complete.steps=3"): "complete.steps has no meaning here",
        ("run=vae", "complete.known=middle"): "it must be upper or lower or left or right",
        ("run=vae", "complete.count=0"): "between 1 and 64",
        ("run=vae", "model.width=3"): "the run has its own model",
        (): "task=complete needs run=",
    }.items():
        outcome = gentrain("task=complete", *arguments)
        assert outcome.status == 2
        assert sentence in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not Path("vae/complete").exists()


def test_the_search_does_not_depend_on_what_else_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = Linear(), ImageShape(1, 4, 2)
    trained = cast(
        Any, SimpleNamespace(model=model, shape=shape, compute=SimpleNamespace(device=torch.device("cpu")))
    )
    x = torch.randint(256, (5, 1, 4, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    said: list[tuple[int, int]] = []
    whole = latent_search(trained, x, mask("upper", shape), 0, 20, quiet).levels_BCHW
    monkeypatch.setattr("gentrain.analysis.inpainting.SEARCHED_AT_ONCE", 2)
    parts = latent_search(
        trained, x, mask("upper", shape), 0, 20, lambda *done: said.append(done)
    ).levels_BCHW
    assert (whole.int() - parts.int()).abs().max() <= 1
    assert said[0] == (1, 60) and said[-1] == (60, 60) and len(said) == 60
