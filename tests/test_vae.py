"""The bound, its terms, its importance-weighted form against a marginal known by quadrature, and shapes."""

import inspect
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from gentrain.config.ranges import Above, AtLeast, Between
from gentrain.errors import UserError
from gentrain.images import ImageShape
from gentrain.models.conv import Decoder, Encoder, pyramid
from gentrain.models.vae import VAE, kl_to_prior

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "vae.yaml"


def settings(**changes: object) -> dict:
    """The defaults of configs/model/vae.yaml, on a network small enough for a test."""
    values = yaml.safe_load(CONFIG.read_text())["model"]
    assert values.pop("name") == "vae"
    return {**values, "width": 4, "hidden": 16, "latent_dim": 3, **changes}


TINY = ImageShape(1, 8, 8)


def small(shape: ImageShape = TINY, **changes: object) -> VAE:
    torch.manual_seed(0)
    return VAE(shape, **settings(**changes))


def images(shape: ImageShape, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, shape.levels, (count, *shape.chw), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shake(module: nn.Module, scale: float = 0.3) -> None:
    """Moves every weight, so that zero-initialised layers take part."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))


def test_the_yaml_lists_every_setting_and_no_other() -> None:
    parameters = inspect.signature(VAE.__init__).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(yaml.safe_load(CONFIG.read_text())["model"]) == keywords | {"name"}
    assert all(p.default is inspect.Parameter.empty for p in parameters)


def test_ranges() -> None:
    assert AtLeast(1).ok(1) and not AtLeast(1).ok(0) and str(AtLeast(1)) == "at least 1"
    assert Above(0).ok(1e-9) and not Above(0).ok(0) and str(Above(0)) == "above 0"
    assert Between(0, 1).ok(1) and not Between(0, 1).ok(1.1) and str(Between(0, 1)) == "between 0 and 1"


SIZES = [(1, 8, 8), (3, 28, 28), (1, 33, 33), (3, 64, 48), (3, 9, 100), (3, 128, 128)]


@pytest.mark.parametrize("chw", SIZES, ids=lambda chw: "x".join(map(str, chw)))
def test_every_size_and_every_output(chw: tuple[int, int, int]) -> None:
    shape = ImageShape(*chw)
    model, x = small(shape), images(ImageShape(*chw), 2)
    loss, metrics = model.train_loss(x, 0)
    loss.backward()
    assert loss.shape == () and all(p.grad is not None for p in model.parameters())
    assert set(metrics) == {"bits_per_dim", "nll_nats", "kl_nats"}
    assert not any(value.requires_grad for value in metrics.values())
    assert 0 < metrics["bits_per_dim"] < 16
    evaluated = model.evaluate(x, generator())
    assert set(evaluated) == {"nats", "nll_nats", "kl_nats", "mse"}
    assert all(value.shape == (2,) and value.dtype == torch.float32 for value in evaluated.values())
    assert model.importance_nats(x, 3, generator()).shape == (2,)
    assert model.encode(x).shape == (2, 3)
    for pictures in (model.reconstruct(x), model.sample(2, generator()), model.decode(torch.zeros(2, 3))):
        assert pictures.shape == x.shape and pictures.dtype == torch.uint8


@pytest.mark.parametrize("side", [8, 9, 28, 33, 100, 128])
def test_the_pyramid_ends_small(side: int) -> None:
    sizes = pyramid(side, 8)
    assert sizes[0] == (side, 8) and 3 <= sizes[-1][0] <= 5 and len(sizes) >= 2


def test_the_networks_do_not_look_at_the_batch() -> None:
    encoder, decoder = Encoder(3, 9, 12, 4, 1, 8, 0.0), Decoder(5, 2, 9, 12, 4, 1, 8, 0.0)
    shake(encoder), shake(decoder)
    x_BCHW, z_BF = torch.randn(3, 3, 9, 12), torch.randn(3, 5)
    assert torch.allclose(encoder(x_BCHW)[:1], encoder(x_BCHW[:1]), atol=1e-4)
    assert torch.allclose(decoder(z_BF)[:1], decoder(z_BF[:1]), atol=1e-4)
    assert encoder(x_BCHW).shape == (3, encoder.features) and decoder(z_BF).shape == (3, 2, 9, 12)


def test_kl_is_that_of_torch_distributions() -> None:
    m_BZ, s_BZ = torch.randn(50, 4, generator=generator()), 3 * torch.randn(50, 4, generator=generator(1))
    expected = kl_divergence(Normal(m_BZ, (s_BZ / 2).exp()), Normal(torch.zeros(()), torch.ones(())))
    assert torch.allclose(kl_to_prior(m_BZ, s_BZ), expected, rtol=1e-4, atol=1e-5)
    assert kl_to_prior(torch.zeros(1, 1), torch.zeros(1, 1)).item() == 0


def test_the_log_variance_stays_in_float32() -> None:
    model = small()
    model.to_posterior.bias.data[3:] = torch.tensor([1e6, -1e6, 0])
    loss, _ = model.train_loss(images(model.shape, 2), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.encoder.parameters())


def test_objective_is_the_weighted_bound_and_the_metrics_are_the_plain_one() -> None:
    x = images(ImageShape(1, 8, 8), 6)
    results = {}
    for name, changes in {
        "plain": {},
        "beta": {"beta": 4.0},
        "warmup": {"kl_warmup_steps": 10},
        "free": {"free_bits": 2.0},
    }.items():
        model = small(**changes)
        model.to_posterior.bias.data[:3] = 1.0  # a KL above zero
        torch.manual_seed(7)
        results[name] = model.train_loss(x, 3)
    unit = 64 * math.log(2)
    plain, metrics = results["plain"]
    nll, kl = metrics["nll_nats"].item(), metrics["kl_nats"].item()
    assert kl > 0.5
    for _, others in results.values():
        assert all(torch.equal(metrics[key], others[key]) for key in metrics)
    assert plain.item() == pytest.approx(metrics["bits_per_dim"].item())
    assert plain.item() == pytest.approx((nll + kl) / unit)
    assert results["beta"][0].item() == pytest.approx((nll + 4 * kl) / unit)
    assert results["warmup"][0].item() == pytest.approx((nll + 0.4 * kl) / unit)
    assert results["free"][0].item() == pytest.approx((nll + 3 * 2.0) / unit)  # each dimension is below 2


def test_warm_up_ends_at_beta() -> None:
    model = small(beta=2.0, kl_warmup_steps=4)
    assert [model.beta_at(step) for step in (0, 1, 3, 100)] == [0.5, 1.0, 2.0, 2.0]
    assert small(beta=2.0).beta_at(0) == 2.0


def test_free_bits_stop_the_pull_on_dimensions_below_them() -> None:
    model = small(free_bits=100.0)
    x = images(model.shape, 4)
    torch.manual_seed(0)
    loss, _ = model.train_loss(x, 0)
    torch.manual_seed(0)
    nll_B, _, _ = model(x, torch.randn(4, 3))
    (with_penalty,) = torch.autograd.grad(loss, model.to_posterior.weight)
    (without,) = torch.autograd.grad(nll_B.mean() / (64 * math.log(2)), model.to_posterior.weight)
    assert torch.allclose(with_penalty, without, atol=1e-7)


def test_reparameterised_gradient_agrees_with_finite_differences() -> None:
    """d/dm and d/ds of -log p(x | m + exp(s/2) e) at a fixed e."""
    model = small(latent_dim=1)
    shake(model)
    x_BCHW, noise_BZ = images(model.shape, 2), torch.randn(2, 1, generator=generator())
    bias, step = model.to_posterior.bias, 1e-3
    (gradient,) = torch.autograd.grad(model(x_BCHW, noise_BZ)[0].sum(), bias)
    for i in range(2):
        values = []
        for move in (step, -2 * step):
            bias.data[i] += move
            values.append(model(x_BCHW, noise_BZ)[0].sum().double().item())
        bias.data[i] += step
        numeric = (values[0] - values[1]) / (2 * step)
        assert gradient[i].item() == pytest.approx(numeric, rel=0.02, abs=0.2)


class ByHand(nn.Module):
    """Sets an encoder's features or a decoder's maps to a linear function of its input."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor, out_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self.weight_OI, self.bias_O, self.out_hw = weight_OI, bias_O, out_hw

    def forward(self, x: Tensor) -> Tensor:
        out_BO = x.flatten(1) @ self.weight_OI.T + self.bias_O
        return out_BO if self.out_hw is None else out_BO.view(len(x), -1, *self.out_hw)


@cache
def known_model() -> tuple[VAE, Tensor, Tensor]:
    """1-D z, p(x|z) = prod_i Normal(w_i z + b_i, 0.3) on 8 levels, and an encoder that is near the truth.

    Returns the model, images drawn from it, and their exact -log p(x), by quadrature in float64.
    """
    shape = ImageShape(1, 8, 8, levels=8)
    model = small(shape, latent_dim=1, likelihood="gaussian", sigma="fixed", sigma_value=0.3)
    weight = 0.25 * torch.randn(64, 1, generator=generator(1))
    bias = 0.3 * torch.randn(64, generator=generator(2))
    model.decoder = ByHand(weight, bias, (8, 8))
    # The exact posterior, were x not rounded: precision 1 + |w|^2 / sigma^2. s made wider, to leave a gap.
    precision = 1 + weight.square().sum() / 0.3**2
    to_mean = weight.T / 0.3**2 / precision
    model.encoder = ByHand(to_mean, -(to_mean @ bias), None)
    model.to_posterior = nn.Linear(1, 2)
    model.to_posterior.weight.data = torch.tensor([[1.0], [0.0]])
    model.to_posterior.bias.data = torch.tensor([0.0, -precision.log().item() + 1.0])
    z_B1 = torch.randn(12, 1, generator=generator(3))
    with torch.no_grad():
        x_BCHW = model.likelihood.sample(model.decode_params(z_B1), generator(4))

    z_Q = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    log_p_QB = torch.zeros(1001, len(x_BCHW), dtype=torch.float64)
    cdf = Normal(torch.zeros((), dtype=torch.float64), 1.0).cdf
    for i in range(64):
        level_B = x_BCHW.flatten(1)[:, i].double()
        point_B, half = level_B * 2 / 7 - 1, 1 / 7
        mean_Q1 = (weight[i].double() * z_Q + bias[i].double())[:, None]
        upper = torch.where(level_B == 7, 1.0, cdf((point_B + half - mean_Q1) / 0.3))
        lower = torch.where(level_B == 0, 0.0, cdf((point_B - half - mean_Q1) / 0.3))
        log_p_QB += (upper - lower).clamp(min=1e-300).log()
    log_prior_Q1 = (-0.5 * z_Q.square() - 0.5 * math.log(2 * math.pi))[:, None]
    exact_B = -((log_p_QB + log_prior_Q1).logsumexp(0) + math.log(10 / 1000))
    return model, x_BCHW, exact_B


def test_the_bounds_against_the_exact_marginal() -> None:
    model, x_BCHW, exact_B = known_model()
    repeated = x_BCHW.repeat(300, 1, 1, 1)
    elbo_B = model.evaluate(repeated, generator())["nats"].view(300, -1).double().mean(0)
    one_B = model.importance_nats(repeated, 1, generator(1)).view(300, -1).double().mean(0)
    ten_B = model.importance_nats(repeated, 10, generator(2)).view(300, -1).double().mean(0)
    many_B = model.importance_nats(x_BCHW, 1000, generator(3)).double()
    assert (elbo_B > exact_B).all()
    # The gap is KL(q || posterior): q's variance is about e times the posterior's, but for the rounding.
    assert (elbo_B - exact_B).mean().item() == pytest.approx(0.5 * (math.e - 1 - 1), abs=0.1)
    assert (one_B - elbo_B).mean().abs() < 0.05, "k = 1 is the ELBO, its KL sampled"
    assert (ten_B < one_B).all() and (ten_B > exact_B - 0.05).all()
    assert torch.allclose(many_B, exact_B, atol=0.1)


def linear_gaussian(wider: float) -> tuple[VAE, Tensor, Tensor]:
    """z in 3 dimensions, p(x|z) = N(W z + b, 0.1^2 I) on 256 levels: p(x) = N(b, W W^T + 0.1^2 I) in closed form.

    W's columns are orthogonal, so the true posterior has a diagonal covariance; the encoder gives it with `wider` added
    to its log-variance. Returns the model, images drawn from it, and -log p(x): density times width of the bins.
    """
    model = small(latent_dim=3, likelihood="gaussian", sigma="fixed", sigma_value=0.1)
    columns, _ = torch.linalg.qr(torch.randn(64, 3, generator=generator(5)))
    weight, bias = 0.2 * columns, 0.1 * torch.randn(64, generator=generator(6))
    model.decoder = ByHand(weight, bias, (8, 8))
    precision = 1 + 0.2**2 / 0.1**2
    to_mean = weight.T / 0.1**2 / precision
    model.encoder = ByHand(to_mean, -(to_mean @ bias), None)
    model.to_posterior = nn.Linear(3, 6)
    model.to_posterior.weight.data = torch.cat([torch.eye(3), torch.zeros(3, 3)])
    model.to_posterior.bias.data = torch.tensor([0.0] * 3 + [-math.log(precision) + wider] * 3)
    with torch.no_grad():
        z_BZ = torch.randn(20, 3, generator=generator(7))
        x_BCHW = model.likelihood.sample(model.decode_params(z_BZ), generator(8))
    assert x_BCHW.min() > 0 and x_BCHW.max() < 255  # the outermost bins are open: no density there
    points_BD = x_BCHW.flatten(1).double() * 2 / 255 - 1
    covariance = weight.double() @ weight.double().T + 0.1**2 * torch.eye(64, dtype=torch.float64)
    density_B = MultivariateNormal(bias.double(), covariance).log_prob(points_BD)
    return model, x_BCHW, -(density_B + 64 * math.log(2 / 255))


def test_on_a_linear_gaussian_model_the_bound_meets_the_closed_form() -> None:
    """With the true posterior there is no gap: every draw of z gives -log p(x) itself."""
    model, x_BCHW, exact_B = linear_gaussian(wider=0.0)
    bound_B = model.importance_nats(x_BCHW, 1, generator()).double()
    assert torch.allclose(bound_B, exact_B, atol=0.05)  # of about 260 nats: bins have a width


def test_on_a_linear_gaussian_model_the_importance_bound_tightens_with_k() -> None:
    """With a posterior too wide by e: the gap is KL(q || posterior) = 3/2 (e - 2), and k samples close it."""
    model, x_BCHW, exact_B = linear_gaussian(wider=1.0)
    repeated = x_BCHW.repeat(400, 1, 1, 1)
    gaps = {"elbo": model.evaluate(repeated, generator())["nats"].double().mean() - exact_B.mean()}
    for k in (1, 4, 16, 64):
        gaps[k] = model.importance_nats(repeated, k, generator(k)).double().mean() - exact_B.mean()
    assert gaps["elbo"].item() == pytest.approx(1.5 * (math.e - 2), abs=0.05)
    assert gaps["elbo"] > gaps[4] > gaps[16] > gaps[64] > -0.02
    assert abs(gaps[1] - gaps["elbo"]) < 0.05
    assert gaps[64] < 0.05


def test_importance_bound_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x_BCHW, exact_B = known_model()
    monkeypatch.setattr("gentrain.models.vae.IMPORTANCE_CHUNK", 70 * 64 * len(x_BCHW))  # 70 do not divide k
    assert torch.allclose(model.importance_nats(x_BCHW, 1000, generator()).double(), exact_B, atol=0.1)


def test_mse_is_per_dimension_in_units_of_minus_one_to_one() -> None:
    model, x_BCHW, _ = known_model()
    mean_BCHW = model.likelihood.mean(model.decode_params(model.encode(x_BCHW)))
    expected = ((mean_BCHW - (x_BCHW.float() * 2 / 7 - 1)) ** 2).flatten(1).mean(1)
    assert torch.allclose(model.evaluate(x_BCHW, generator())["mse"], expected)


@pytest.mark.parametrize("sample_mode", ["mean", "draw"])
def test_same_generator_same_numbers(sample_mode: str) -> None:
    model = small(ImageShape(3, 8, 8), sample_mode=sample_mode)
    shake(model)
    x = images(model.shape, 3)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(4, generator(5)), model.sample(4, generator(5)))
    assert not torch.equal(model.sample(4, generator(5)), model.sample(4, generator(6)))
    first, second = model.evaluate(x, generator(5)), model.evaluate(x, generator(5))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), state), "only the generator that was given is used"


@pytest.mark.parametrize(
    ("levels", "changes"),
    [
        (256, {}),
        (256, {"likelihood": "logistic_mixture"}),
        (256, {"likelihood": "gaussian", "sigma": "predicted"}),
        (2, {"likelihood": "bernoulli"}),
        (2, {"likelihood": "logistic_mixture"}),
        (256, {"encoder_blocks": 1, "dropout": 0.1, "free_bits": 0.1, "kl_warmup_steps": 10}),
    ],
)
def test_the_loss_falls(levels: int, changes: dict) -> None:
    shape = ImageShape(3, 8, 8, levels)
    model = small(shape, **changes)
    # Two kinds of picture, dark above or below: something to learn.
    x = (images(shape, 32) // 4 if levels == 256 else images(shape, 32) * 0).clone()
    x[:16, :, :4] = levels - 1
    x[16:, :, 4:] = levels - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss, metrics = model.train_loss(x, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["bits_per_dim"].item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize(
    ("shape", "changes", "key"),
    [
        (ImageShape(1, 8, 8), {"likelihood": "bernoulli"}, r"data\.levels=2"),
        (ImageShape(1, 7, 7), {}, r"data\.size"),
        (ImageShape(1, 8, 129), {}, r"data\.size"),
        (ImageShape(2, 8, 8), {"likelihood": "logistic_mixture"}, r"data\.channels"),
    ],
)
def test_settings_that_do_not_fit_get_a_sentence(shape: ImageShape, changes: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        small(shape, **changes)


def test_bfloat16_autocast_keeps_the_bound_in_float32() -> None:
    model = small(ImageShape(3, 8, 8))
    x = images(model.shape, 4)
    torch.manual_seed(0)
    plain, _ = model.train_loss(x, 0)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, metrics = model.train_loss(x, 0)
    assert mixed.dtype == torch.float32 and metrics["kl_nats"].dtype == torch.float32
    assert mixed.item() == pytest.approx(plain.item(), rel=0.02)
