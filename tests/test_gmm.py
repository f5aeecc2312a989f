"""The mixture of factor analysers against torch.distributions, scikit-learn and the bits of known mixtures."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Command
from families import FAMILIES, assert_same_run, newest
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import Categorical, LowRankMultivariateNormal, MixtureSameFamily

import gentrain as library
from gentrain.errors import UserError
from gentrain.images import ImageShape, bits_per_dim
from gentrain.models.gmm import GMM, LOG_SPEED
from gentrain.models.gmm_init import k_means, principal_axes, start_mixture

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "gmm.yaml"


TINY = ImageShape(1, 4, 4)


def small(shape: ImageShape = TINY, **changes: object) -> GMM:
    values = yaml.safe_load(CONFIG.read_text())["model"]
    assert values.pop("name") == "gmm"
    torch.manual_seed(0)
    return GMM(shape, **{**values, "components": 3, "factors": 2, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def set_to(model: GMM, weights: Tensor, means: Tensor, factors: Tensor, psi: Tensor) -> None:
    model.logit_K.data = weights.log()
    model.mean_KD.data, model.axis_KDR.data = means, 2 * factors
    model.raw_length_KR.data = torch.full_like(factors[:, 0], -math.log(2) / LOG_SPEED)
    model.raw_psi_KD.data = (psi - model.floor).log() / LOG_SPEED


def known(shape: ImageShape, sharp: float = 0.15) -> tuple[GMM, MixtureSameFamily]:
    """A mixture of 3 within [-1, 1], as a model and as torch.distributions in float64."""
    model, noise = small(shape), generator(7)
    weights = torch.tensor([0.2, 0.5, 0.3])
    means = 0.5 * torch.rand(3, shape.dims, generator=noise) - 0.25
    factors = 0.12 * torch.randn(3, shape.dims, 2, generator=noise)
    psi = (sharp * (0.5 + torch.rand(3, shape.dims, generator=noise))).square()
    set_to(model, weights, means, factors, psi)
    parts = LowRankMultivariateNormal(means.double(), factors.double(), psi.double())
    return model, MixtureSameFamily(Categorical(weights.double()), parts)


def discretized(truth: MixtureSameFamily, shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y_ND = truth.sample((count,))
    levels = ((y_ND + 1) * shape.levels / 2).floor().clamp(0, shape.levels - 1)
    return levels.to(torch.uint8).view(count, *shape.chw)


def test_the_yaml_lists_every_setting_and_no_other() -> None:
    parameters = inspect.signature(GMM.__init__).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(yaml.safe_load(CONFIG.read_text())["model"]) == keywords | {"name"}
    assert all(p.default is inspect.Parameter.empty for p in parameters)


def test_log_density_is_that_of_torch_distributions_in_float64() -> None:
    model, truth = known(ImageShape(3, 4, 5))
    y_BD = torch.cat([truth.sample((50,)), 3 * torch.randn(20, 60, generator=generator()).double()])
    assert torch.allclose(
        model.log_density(y_BD.float()).double(), truth.log_prob(y_BD), rtol=1e-4, atol=1e-3
    )


def test_log_density_where_factors_are_a_thousand_times_the_noise() -> None:
    """What makes M badly conditioned; against SciPy on the dense covariance, in float64."""
    model = small(ImageShape(1, 4, 4), components=1, factors=3)
    factors = torch.randn(1, 16, 3, generator=generator())
    psi = torch.full((1, 16), 2 * model.floor)
    set_to(model, torch.ones(1), torch.zeros(1, 16), factors, psi)
    dense = multivariate_normal(
        cov=(factors[0] @ factors[0].T).double().numpy() + np.diag(model.psi()[0].double().detach().numpy())
    )
    y_BD = torch.from_numpy(dense.rvs(100, random_state=0))
    expected = dense.logpdf(y_BD.float().double().numpy())
    error = model.log_density(y_BD.float()).double().detach().numpy() - expected
    # float32 has points to 1e-7, the noise is 3e-3 wide: 0.1 nats of 49 is what can be had, and no bias.
    assert np.abs(error).max() < 0.2 and abs(error.mean()) < 0.02


def test_gradients_are_those_of_torch_distributions() -> None:
    """m is held fixed in ours: right only because it minimises the quadratic form."""
    model, _ = known(ImageShape(1, 4, 4))
    y_BD = torch.randn(10, 16, generator=generator())
    model.log_density(y_BD).sum().backward()
    again, _ = known(ImageShape(1, 4, 4))
    parts = LowRankMultivariateNormal(again.mean_KD, again.factors(), again.psi())
    mixture = MixtureSameFamily(Categorical(logits=again.logit_K), parts)
    mixture.log_prob(y_BD).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=2e-3, atol=2e-3), name


@pytest.mark.parametrize("factors", [0, 2])
def test_bits_of_a_single_gaussian_meet_the_exact_ones(factors: int) -> None:
    """Two pixels: the mass of every cell by SciPy's bivariate normal distribution function; all add up to what
    lies within [-1, 1], and the bound lies above -log P by no more than the density varies within a cell."""
    shape = ImageShape(1, 1, 2, levels=16)
    model = small(shape, components=1, factors=factors if factors == 0 else 1)
    factor = torch.tensor([[[0.2], [0.25]]])[..., : min(factors, 1)]
    psi = torch.tensor([[0.03, 0.05]])
    set_to(model, torch.ones(1), torch.tensor([[0.1, -0.2]]), factor, psi)
    cov = np.diag(psi[0].double()) + (factor[0] @ factor[0].T).double().numpy()
    dense = multivariate_normal(mean=[0.1, -0.2], cov=cov, abseps=1e-10, releps=1e-10)
    edges = np.arange(17) * 2 / 16 - 1
    cdf = np.array([[dense.cdf([a, b]) for b in edges] for a in edges])
    mass = cdf[1:, 1:] - cdf[:-1, 1:] - cdf[1:, :-1] + cdf[:-1, :-1]
    x = torch.cartesian_prod(torch.arange(16), torch.arange(16)).to(torch.uint8).view(256, 1, 1, 2)
    plausible = torch.from_numpy(mass.reshape(-1) > 1e-4)
    exact_B = -torch.from_numpy(np.log(mass.reshape(-1)))[plausible]
    x = x[plausible]
    one_B = torch.stack([model.evaluate(x, generator(i))["nats"].double() for i in range(400)])
    many_B = model.importance_nats(x, 4000, generator(9)).double()
    error_B = one_B.std(0) / 20
    assert (one_B.mean(0) > exact_B - 4 * error_B).all(), "an upper bound"
    assert torch.allclose(many_B, exact_B, atol=0.08), "which k draws of the noise tighten"
    assert (many_B - exact_B).mean().abs() < 0.01
    assert (one_B.mean() - exact_B.mean()) > 0.01


def test_importance_bound_tightens_with_k() -> None:
    model, truth = known(ImageShape(1, 4, 4, levels=8))
    x = discretized(truth, model.shape, 400)
    bits = [
        torch.stack([model.importance_nats(x, k, generator(10 * k + i)) for i in range(5)]).mean().item()
        for k in (1, 4, 16, 64)
    ]
    assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1] + 0.05
    one = torch.stack([model.evaluate(x, generator(i))["nats"] for i in range(5)]).mean().item()
    assert one == pytest.approx(bits[0], abs=0.3)


def test_bits_on_data_of_a_known_mixture_meet_the_true_ones() -> None:
    """Of 4,000 pictures drawn by torch.distributions: the true bits are its own log density's at the points
    before they were rounded to levels. Cells are narrow next to the mixture, so rounding costs little."""
    shape = ImageShape(1, 4, 4)
    model, truth = known(shape)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        y_ND = truth.sample((4000,))
    true_N = -truth.log_prob(y_ND) - shape.dims * math.log(2 / 256)
    x = ((y_ND + 1) * 128).floor().clamp(0, 255).to(torch.uint8).view(-1, *shape.chw)
    ours_N = model.evaluate(x, generator())["nats"].double()
    difference_N = bits_per_dim(ours_N - true_N, shape)
    error = difference_N.std().item() / math.sqrt(4000)
    assert abs(difference_N.mean().item()) < 4 * error + 1e-3
    assert error < 2e-3


def test_it_learns_a_known_mixture(gentrain: Command) -> None:
    """From pictures alone, through the common loop: on new pictures its bits come near the true ones."""
    shape = ImageShape(1, 8, 8)
    _, truth = known(shape, sharp=0.1)
    x = discretized(truth, shape, 3000)
    held_out = discretized(truth, shape, 2000, seed=1)
    from PIL import Image

    Path("pictures").mkdir()
    for number, picture in enumerate(x.numpy()):
        Image.fromarray(picture[0]).save(f"pictures/{number:04d}.png")
    outcome = gentrain(
        "model=gmm", "data=folder", "data.root=pictures", "data.size=8", "data.channels=1",
        "model.components=3", "model.factors=2", "train.max_steps=300", "train.eval_every_steps=null",
        "train.sample_every_steps=null", "train.save_every_steps=null", "run_dir=run",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    y_ND = (held_out.flatten(1).double() + torch.rand(2000, 64, generator=generator())) / 128 - 1
    true_N = bits_per_dim(-truth.log_prob(y_ND) - 64 * math.log(2 / 256), shape)
    reached_N = bits_per_dim(-library.load("run").log_prob(held_out).double(), shape)
    gap_N = reached_N - true_N
    error = gap_N.std().item() / math.sqrt(2000)
    assert -4 * error < gap_N.mean().item() < 0.03, "no better than the truth, and near it"
    spread = (
        library.load("run").sample(2000).flatten(1).double().var(0).mean()
        / x.flatten(1).double().var(0).mean()
    )
    assert spread.item() == pytest.approx(1, abs=0.1), "a likelihood hardly minds factors that are too long"


def test_no_variance_falls_below_the_noise_within_a_cell() -> None:
    """Pictures that are all equal: the bits stop at those of a normal density for uniform noise."""
    model = small(components=2, factors=1)
    x = torch.full((64, 1, 4, 4), 7, dtype=torch.uint8)
    model.init_from_data(x, generator())
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 300)  # a cell is 0.008 wide
        loss, _ = model.train_loss(x, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model.psi() >= model.floor).all()
    least = 0.5 * math.log2(2 * math.pi * math.e / 12)  # bits: the entropy lost to a normal density
    bits = bits_per_dim(model.evaluate(x.repeat(50, 1, 1, 1), generator())["nats"].mean(), model.shape)
    assert bits.item() == pytest.approx(least, abs=0.01)


def test_samples_have_the_mixtures_moments() -> None:
    shape = ImageShape(1, 4, 4)
    model, truth = known(shape)
    drawn = model.sample(40_000, generator()).flatten(1).double()
    expected = truth.mean, truth.variance
    y = (drawn + 0.5) / 128 - 1
    assert torch.allclose(y.mean(0), expected[0], atol=0.01)
    assert torch.allclose(y.var(0), expected[1], rtol=0.04)
    y_true = truth.sample((40_000,))
    assert torch.allclose(y.T.cov(), y_true.T.cov(), atol=0.003)
    model.sample_mode = "mean"
    assert model.sample(0, generator()).shape == (0, 1, 4, 4)
    smoother = (model.sample(40_000, generator()).flatten(1).double() + 0.5) / 128 - 1
    assert (smoother.var(0) < y.var(0)).all()


def test_a_level_is_the_cell_that_a_point_lies_in() -> None:
    model = small(ImageShape(1, 4, 4, levels=4), components=1, factors=0)
    for value, level in ((-3.0, 0), (-0.51, 0), (-0.49, 1), (0.49, 2), (0.51, 3), (3.0, 3)):
        set_to(model, torch.ones(1), torch.full((1, 16), value), torch.zeros(1, 16, 0), torch.ones(1, 16))
        model.sample_mode = "mean"
        assert (model.sample(2, generator()) == level).all()


def test_principal_axes_are_those_of_scikit_learn() -> None:
    y = torch.randn(60, 20, generator=generator()) @ torch.randn(20, 20, generator=generator(1))
    centred = y - y.mean(0)
    axes = principal_axes(centred, 4).double().numpy()
    pca = PCA(4).fit(centred.numpy())
    share = 59 / 60  # scikit-learn divides by n - 1
    noise = pca.noise_variance_ * share
    expected = (pca.components_.T * (pca.explained_variance_ * share - noise)) @ pca.components_
    assert np.allclose(axes @ axes.T, expected, rtol=1e-3, atol=1e-2)
    assert (principal_axes(centred[:1], 4) == 0).all()
    assert (principal_axes(centred[:3], 4)[:, 2:] == 0).all()


def test_k_means_finds_clusters_that_are_there_and_repeats() -> None:
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    truth = torch.arange(90) % 3
    y = centres[truth] + 0.1 * torch.randn(90, 2, generator=generator())
    member, means = k_means(y, 3, generator(1))
    assert torch.allclose(means[member], centres[truth], atol=0.2)
    assert torch.equal(means, k_means(y, 3, generator(1))[1])


def test_more_clusters_than_pictures_start_somewhere() -> None:
    begun = start_mixture(torch.zeros(2, 4), 5, 2, generator())
    assert begun.weight_K.sum().item() == pytest.approx(1)
    assert all(torch.isfinite(part).all() for part in (begun.mean_KD, begun.factor_KDR, begun.rest_KD))


def test_bfloat16_autocast_keeps_the_density_in_float32() -> None:
    model, truth = known(ImageShape(1, 4, 4))
    x = discretized(truth, model.shape, 8)
    plain = model.evaluate(x, generator())["nats"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.evaluate(x, generator())["nats"]
    assert torch.equal(plain, mixed)


def test_settings_that_do_not_fit_get_a_sentence() -> None:
    with pytest.raises(UserError, match=r"model\.factors=16 is not possible.*16 numbers"):
        small(ImageShape(1, 4, 4), factors=16)


# -- runs


def test_started_from_clusters_it_resumes_exactly(gentrain: Command, tiny: list[str]) -> None:
    command = [*tiny, *FAMILIES["gmm"], "model.start=kmeans"]
    gentrain(*command, "run_dir=whole")
    gentrain(*command, "run_dir=again")
    assert_same_run(Path("whole"), Path("again"))
    gentrain("resume=whole/checkpoints/step_00000002.pt", "run_dir=branch")
    assert newest(Path("whole"))["parts"].keys() == newest(Path("branch"))["parts"].keys()
    for name, value in newest(Path("whole"))["parts"]["model"].items():
        assert torch.equal(value, newest(Path("branch"))["parts"]["model"][name]), name
    for file in Path("again/checkpoints").iterdir():
        file.unlink()
    gentrain("resume=again")  # from the beginning: from clusters anew
    assert_same_run(Path("whole"), Path("again"))


def test_weights_of_another_run_are_not_overwritten_by_clusters(gentrain: Command, tiny: list[str]) -> None:
    command = [*tiny, *FAMILIES["gmm"], "train.max_steps=1"]
    gentrain(*command, "run_dir=first")
    gentrain(*command, "init_from=first", "run_dir=second", "model.start=kmeans", "optimizer.lr=1e-9")
    before = newest(Path("first"))["parts"]["ema"]["module.mean_KD"]
    after = newest(Path("second"))["parts"]["model"]["mean_KD"]
    assert torch.allclose(before, after, atol=1e-6)


def test_it_is_called_an_upper_bound_everywhere(gentrain: Command, tiny: list[str]) -> None:
    gentrain(*tiny, *FAMILIES["gmm"], "run_dir=run")
    outcome = gentrain("task=evaluate", "run=run", "evaluate.iwae_samples=4")
    assert outcome.status == 0, outcome.err
    figures = json.loads(Path("run/evaluation.json").read_text())["figures"]
    assert figures["bits_per_dim"]["meaning"].startswith("upper bound on")
    assert figures["iwae_bits_per_dim"]["mean"] <= figures["bits_per_dim"]["mean"] + 0.1
    assert library.load("run").likelihood_kind == "bound"
    outcome = gentrain("task=sample", "run=run", "sample.count=3")
    assert "draws from the density, rounded to levels and clamped" in outcome.out


def test_a_unit_normal_pixel_costs_what_it_should() -> None:
    """One pixel, psi alone: bits by SciPy's normal distribution function."""
    shape = ImageShape(1, 1, 1)
    model = small(shape, components=1, factors=0)
    set_to(model, torch.ones(1), torch.zeros(1, 1), torch.zeros(1, 1, 0), torch.full((1, 1), 0.25))
    x = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    edges = np.arange(257) / 128 - 1
    exact = -np.log(np.diff(norm.cdf(edges, scale=0.5)))
    assert np.allclose(model.importance_nats(x, 50, generator()).double().numpy(), exact, atol=0.005)
