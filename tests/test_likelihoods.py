"""Every likelihood against float64 references written here independently, and against its own samples."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from gentrain.errors import UserError
from gentrain.models.discretized import OPEN, bin_edges, gaussian_log_mass, logistic_mass, mills_denominator
from gentrain.models.likelihoods import Bernoulli, Gaussian, LogisticMixture

MEANS = [-50.0, -3.0, -1.0, -0.31, 0.0, 0.004, 0.7, 1.0, 2.5, 50.0]
LOG_SCALES = [-15.0, -9.0, -6.0, -4.0, -2.0, 0.0, 2.0, 5.0]


def level_grid(levels: int, params: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """All levels of a single pixel as a batch (levels, 1, 1, 1), and the same parameters for each."""
    x_B111 = torch.arange(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    return x_B111, torch.tensor(params).view(1, -1, 1, 1).expand(levels, -1, -1, -1)


def float64_edges(levels: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(-1, 1, levels)
    half = 1 / (levels - 1)
    return np.r_[-np.inf, points[1:] - half], np.r_[points[:-1] + half, np.inf]


def log_difference(log_big: np.ndarray, log_small: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return log_big + np.log(-np.expm1(log_small - log_big))


def reference_log_mass(levels: int, mean: float, scale: float, log_cdf, log_survival) -> np.ndarray:
    """log(F(upper) - F(lower)) in float64, by the distribution function or by 1 minus it."""
    lower, upper = float64_edges(levels)
    p, m = (upper - mean) / scale, (lower - mean) / scale
    from_below = log_difference(log_cdf(p), log_cdf(m))
    from_above = log_difference(log_survival(m), log_survival(p))
    return np.where(p + m > 0, from_above, from_below)


def logistic_reference(levels: int, mean: float, scale: float) -> np.ndarray:
    return reference_log_mass(levels, mean, scale, stats.logistic.logcdf, stats.logistic.logsf)


def gaussian_reference(levels: int, mean: float, scale: float) -> np.ndarray:
    return reference_log_mass(levels, mean, scale, special.log_ndtr, lambda z: special.log_ndtr(-z))


def assert_log_close(ours: torch.Tensor, reference: np.ndarray, label: str) -> None:
    error = np.abs(ours.double().numpy() - reference) / np.maximum(1, np.abs(reference))
    assert error.max() < 2e-4, (label, error.max())


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("mean", MEANS)
def test_logistic_mass_matches_float64(levels: int, mean: float) -> None:
    lower, upper = (edge.flatten() for edge in bin_edges(level_grid(levels, [0.0])[0], levels))
    for log_scale in LOG_SCALES:
        mean32, inv32 = torch.tensor(mean), torch.tensor(math.exp(-log_scale))
        exponent, factor = logistic_mass(lower, upper, mean32, inv32)
        ours = exponent + factor.log()
        reference = logistic_reference(levels, mean32.double().item(), 1 / inv32.double().item())
        assert_log_close(ours, reference, f"mean {mean} log_scale {log_scale}")
        assert abs(ours.double().exp().sum().item() - 1) < 1e-5


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("mean", MEANS)
def test_gaussian_mass_matches_float64(levels: int, mean: float) -> None:
    lower, upper = (edge.flatten() for edge in bin_edges(level_grid(levels, [0.0])[0], levels))
    for log_sigma in LOG_SCALES[:-1]:
        mean32, inv32 = torch.tensor(mean), torch.tensor(math.exp(-log_sigma))
        ours = gaussian_log_mass(lower, upper, mean32, inv32)
        reference = gaussian_reference(levels, mean32.double().item(), 1 / inv32.double().item())
        assert_log_close(ours, reference, f"mean {mean} log_sigma {log_sigma}")
        assert abs(ours.double().exp().sum().item() - 1) < 1e-5


def test_the_continued_fraction_and_the_gradient_far_in_the_tail() -> None:
    y = torch.logspace(math.log10(5), 6, 300)
    hazard = math.sqrt(2 / math.pi) / special.erfcx(y.double().numpy() / math.sqrt(2))
    np.testing.assert_allclose(mills_denominator(y).numpy(), hazard, rtol=1e-6)
    # The mass above an edge: d log N(-y) / dy = -hazard, on both sides of where the formula changes.
    y = torch.cat([torch.linspace(-4, 8, 100), y]).requires_grad_()
    log_mass = gaussian_log_mass(y, torch.tensor(OPEN * 1e3), torch.zeros(()), torch.ones(()))
    (gradient,) = torch.autograd.grad(log_mass.sum(), y)
    y64 = y.detach().double().numpy()
    hazard = math.sqrt(2 / math.pi) / special.erfcx(y64 / math.sqrt(2))
    np.testing.assert_allclose(log_mass.detach().numpy(), special.log_ndtr(-y64), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(-gradient.numpy(), hazard, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "gaussian"])
@pytest.mark.parametrize("levels", [2, 256])
def test_gradients_are_finite_everywhere(kind: str, levels: int) -> None:
    x = torch.arange(levels, dtype=torch.uint8)
    lower, upper = bin_edges(x, levels)
    for mean in MEANS:
        for log_scale in LOG_SCALES:
            inputs = torch.tensor([mean, math.exp(-log_scale)], requires_grad=True)
            if kind == "logistic":
                exponent, factor = logistic_mass(lower, upper, inputs[0], inputs[1])
                log_mass = exponent + factor.log()
            else:
                log_mass = gaussian_log_mass(lower, upper, inputs[0], inputs[1])
            for level in {0, levels // 2, levels - 1}:
                (gradient,) = torch.autograd.grad(log_mass[level], inputs, retain_graph=True)
                assert torch.isfinite(gradient).all(), (mean, log_scale, level, gradient)


def test_logistic_gradient_on_an_edge_is_that_of_float64() -> None:
    """mean = 0 is a bin's edge at 256 levels, where a careless |.| loses half the gradient."""
    lower, upper = torch.tensor([-1 / 255, 0.0]), torch.tensor([0.0, 1 / 255])
    mean = torch.zeros((), requires_grad=True)
    exponent, factor = logistic_mass(lower, upper, mean, torch.tensor(20.0))
    for i, sign in enumerate((-1, 1)):
        (gradient,) = torch.autograd.grad((exponent + factor.log())[i], mean, retain_graph=True)
        h = 1e-6
        up, low = upper[i].item(), lower[i].item()
        expected = [math.log(special.expit(20 * (up - m)) - special.expit(20 * (low - m))) for m in (h, -h)]
        assert gradient.item() == pytest.approx((expected[0] - expected[1]) / (2 * h), rel=1e-3)
        assert gradient.item() * sign > 0


def test_open_edges() -> None:
    lower, upper = bin_edges(torch.tensor([0, 7, 255], dtype=torch.uint8), 256)
    assert lower[0] == -OPEN and upper[2] == OPEN
    assert (upper - lower)[1].item() == pytest.approx(2 / 255, rel=1e-4)
    assert upper[0].item() == pytest.approx(-1 + 1 / 255, rel=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
@pytest.mark.parametrize("mixtures", [1, 4])
def test_logistic_mixture_one_channel(levels: int, mixtures: int) -> None:
    generator = np.random.default_rng(levels + mixtures)
    logits, means, raw = generator.normal(size=(3, mixtures)).astype(np.float32)
    means, raw = 2 * means, raw - 3
    likelihood = LogisticMixture(1, levels, mixtures)
    x, params = level_grid(levels, [*logits, *means, *raw])
    ours = -likelihood.nll(x, params)
    scales = np.exp(raw.astype(np.float64)) + likelihood.scale_floor
    each = [logistic_reference(levels, m, s) for m, s in zip(means.astype(float), scales, strict=True)]
    weights = special.log_softmax(logits.astype(np.float64))
    assert_log_close(ours, special.logsumexp(weights[:, None] + np.array(each), axis=0), "mixture")
    assert ours.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_logistic_mixture_three_channels_is_one_distribution_over_colours() -> None:
    """All 64 colours at 4 levels: eq. 2 and 3 of the paper in float64, and a sum of one."""
    levels, mixtures = 4, 3
    generator = np.random.default_rng(0)
    params = generator.normal(size=10 * mixtures).astype(np.float32)
    likelihood = LogisticMixture(3, levels, mixtures)
    colours = torch.cartesian_prod(*[torch.arange(levels)] * 3).to(torch.uint8).view(-1, 3, 1, 1)
    ours = -likelihood.nll(colours, torch.tensor(params).view(1, -1, 1, 1).expand(64, -1, -1, -1))

    p64 = params.astype(np.float64)
    weights = special.log_softmax(p64[:mixtures])
    means, raw, coefs = (part.reshape(mixtures, 3) for part in np.split(p64[mixtures:], 3))
    scales, coefs = np.exp(raw) + likelihood.scale_floor, np.tanh(coefs)
    points = np.linspace(-1, 1, levels)
    expected = []
    for r, g, b in colours.flatten(1).tolist():
        log_p = weights.copy()
        for k in range(mixtures):
            mean_g = means[k, 1] + coefs[k, 0] * points[r]
            mean_b = means[k, 2] + coefs[k, 1] * points[r] + coefs[k, 2] * points[g]
            log_p[k] += logistic_reference(levels, means[k, 0], scales[k, 0])[r]
            log_p[k] += logistic_reference(levels, mean_g, scales[k, 1])[g]
            log_p[k] += logistic_reference(levels, mean_b, scales[k, 2])[b]
        expected.append(special.logsumexp(log_p))
    assert_log_close(ours, np.array(expected), "colours")
    assert ours.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("levels", [2, 7, 256])
@pytest.mark.parametrize("sigma", ["fixed", "learned", "predicted"])
def test_gaussian_sums_to_one(levels: int, sigma: str) -> None:
    likelihood = Gaussian(1, levels, sigma, 0.3)
    x, params = level_grid(levels, [0.4, -1.0][: likelihood.param_channels])
    ours = -likelihood.nll(x, params).detach()
    value = math.exp(-1.0) + likelihood.sigma_floor if sigma == "predicted" else 0.3
    assert_log_close(ours, gaussian_reference(levels, np.float64(np.float32(0.4)), value), sigma)
    assert ours.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_bernoulli() -> None:
    likelihood = Bernoulli(1, 2)
    x, params = level_grid(2, [1.3])
    probability = special.expit(1.3)
    expected = np.log([1 - probability, probability])
    assert_log_close(-likelihood.nll(x, params), expected, "bernoulli")
    assert likelihood.mean(params)[0].item() == pytest.approx(2 * probability - 1)
    with pytest.raises(UserError, match=r"data\.levels=2"):
        Bernoulli(1, 256)


def test_a_mixture_refuses_two_channels() -> None:
    with pytest.raises(UserError, match=r"data\.channels"):
        LogisticMixture(2, 256, 3)


LIKELIHOODS = {
    "mixture": (LogisticMixture(1, 8, 2), 8, [0.3, -0.2, -0.7, 0.5, -1.5, -1.0]),
    "gaussian": (Gaussian(1, 8, "predicted", 0.3), 8, [0.6, -0.9]),
    "bernoulli": (Bernoulli(1, 2), 2, [0.7]),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_follow_the_probabilities(name: str) -> None:
    likelihood, levels, params = LIKELIHOODS[name]
    x, maps = level_grid(levels, params)
    probabilities = (-likelihood.nll(x, maps)).double().exp().numpy()
    n = 40_000
    maps_n = maps[:1].expand(n, -1, -1, -1)
    drawn = likelihood.sample(maps_n, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.uint8 and drawn.shape == (n, 1, 1, 1)
    counts = np.bincount(drawn.flatten().numpy(), minlength=levels)
    assert stats.chisquare(counts, n * probabilities / probabilities.sum()).pvalue > 1e-3
    # At few levels the mean before rounding is near the mean after it, to within a fraction of a level.
    expected = (np.linspace(-1, 1, levels) * probabilities).sum()
    assert likelihood.mean(maps)[0].item() == pytest.approx(expected, abs=0.15 * 2 / (levels - 1))
    again = likelihood.sample(maps_n, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_colour_samples_follow_the_probabilities() -> None:
    likelihood = LogisticMixture(3, 3, 2)
    params = torch.tensor(np.random.default_rng(1).normal(size=20), dtype=torch.float32).view(1, -1, 1, 1)
    colours = torch.cartesian_prod(*[torch.arange(3)] * 3).to(torch.uint8).view(-1, 3, 1, 1)
    probabilities = (-likelihood.nll(colours, params.expand(27, -1, -1, -1))).double().exp().numpy()
    drawn = likelihood.sample(params.expand(40_000, -1, -1, -1), torch.Generator().manual_seed(0)).long()
    index = (drawn[:, 0] * 9 + drawn[:, 1] * 3 + drawn[:, 2]).flatten().numpy()
    counts = np.bincount(index, minlength=27)
    assert stats.chisquare(counts, 40_000 * probabilities / probabilities.sum()).pvalue > 1e-3


@pytest.mark.parametrize("levels", [2, 256])
def test_the_mean_stays_within_the_range_and_reaches_its_ends(levels: int) -> None:
    for mean in (-50.0, -1.0, 0.3, 1.0, 50.0):
        for raw in (-15.0, -4.0, 0.0, 5.0):
            value = (
                LogisticMixture(1, levels, 1).mean(torch.tensor([0.0, mean, raw]).view(1, -1, 1, 1)).item()
            )
            assert -1 <= value <= 1
            if raw <= -4 and abs(mean) > 1:
                assert value == pytest.approx(math.copysign(1, mean), abs=1e-3)


@pytest.mark.parametrize(
    "likelihood",
    [LogisticMixture(3, 256, 2), Gaussian(3, 256, "predicted", 0.1), Gaussian(3, 256, "learned", 0.1)],
    ids=["mixture", "predicted", "learned"],
)
def test_network_outputs_however_wild_give_finite_gradients(likelihood: torch.nn.Module) -> None:
    x = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for value in (-1e4, -50.0, -15.0, 0.0, 15.0, 50.0, 1e4):
        params = torch.full((4, likelihood.param_channels, 2, 2), value, requires_grad=True)
        nll = likelihood.nll(x, params)
        assert torch.isfinite(nll).all(), value
        (gradient,) = torch.autograd.grad(nll.sum(), params)
        assert torch.isfinite(gradient).all(), value


def test_float32_inside_autocast() -> None:
    likelihood = LogisticMixture(3, 256, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=generator)
    params = torch.randn((2, 20, 4, 4), generator=generator).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = likelihood.nll(x, params)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, likelihood.nll(x, params.float()))


def test_initial_params_fit() -> None:
    for likelihood, _, params in LIKELIHOODS.values():
        assert likelihood.initial_params().shape == (len(params),) == (likelihood.param_channels,)
    assert LogisticMixture(3, 256, 5).initial_params().shape == (50,)
    start = Gaussian(3, 256, "predicted", 0.1)
    _, sigma = start._split(start.initial_params().view(1, -1, 1, 1))
    assert torch.allclose(sigma, torch.tensor(0.1), rtol=1e-5)
