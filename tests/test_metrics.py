"""The arithmetic of figures of quality, against other implementations, closed forms, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import mmd2
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from gentrain.metrics.figure import jackknife, mean_of
from gentrain.metrics.frechet import frechet_distance
from gentrain.metrics.kernel import kernel_distance
from gentrain.metrics.manifold import density_coverage, precision_recall
from gentrain.metrics.memorisation import nearer, nearest, squared_by_products
from gentrain.metrics.quality import quality
from gentrain.metrics.truth import distance_to_truth
from gentrain.models.gmm_init import k_means


def features(n: int, dims: int = 12, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Correlated, with columns of different sizes and an offset, float64."""
    noise = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dims, dims, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    drawn = torch.randn(n, dims, generator=noise, dtype=torch.float64)
    return (drawn @ mixing) * scale * torch.linspace(0.1, 3, dims, dtype=torch.float64) + 5 + shift


PAIRS = {
    "alike": (features(300), features(200, seed=1)),
    "shifted": (features(300), features(200, seed=1, shift=1.0)),
    "narrower": (features(150), features(400, seed=1, scale=0.3)),
    "many dimensions": (features(300, 64), features(301, 64, seed=1, shift=0.2)),
}
pairs = pytest.mark.parametrize(("x", "y"), PAIRS.values(), ids=PAIRS.keys())


# ---- Frechet distance


@pairs
def test_frechet_distance_is_that_of_torchmetrics_torch_fidelity_and_scipy(x: Tensor, y: Tensor) -> None:
    ours = frechet_distance(x, y).value
    means, covariances = [f.mean(0) for f in (x, y)], [torch.cov(f.T) for f in (x, y)]
    theirs = _compute_fid(means[0], covariances[0], means[1], covariances[1]).item()
    assert ours == pytest.approx(theirs, rel=1e-6)
    stated = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in (x, y)), verbose=False)
    assert ours == pytest.approx(stated["frechet_inception_distance"], rel=1e-6)
    root = scipy.linalg.sqrtm((covariances[0] @ covariances[1]).numpy()).real
    by_scipy = (
        (means[0] - means[1]).square().sum()
        + torch.trace(covariances[0] + covariances[1])
        - 2 * np.trace(root)
    )
    assert ours == pytest.approx(by_scipy.item(), rel=1e-6)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """One dimension: (difference of means)^2 + (difference of standard deviations)^2."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 1, generator=noise, dtype=torch.float64)
    found = frechet_distance(x, 3 * x + 2)
    sigma, mean = x.std().item(), x.mean().item()
    assert found.value == pytest.approx((2 + 2 * mean) ** 2 + (2 * sigma) ** 2, rel=1e-9)


def test_frechet_distance_of_equal_sets_is_zero() -> None:
    x = features(100, 30)
    assert 0 <= frechet_distance(x, x).value < 1e-12 * x.var(0).sum()
    near, far = frechet_distance(x, x + 1), frechet_distance(x + 1e6, x + 1e6 + 1)
    assert far.value == pytest.approx(near.value, rel=1e-6)  # a large offset costs few digits
    constant = torch.ones(50, 4)
    assert frechet_distance(constant, constant).value == 0


def test_frechet_distance_has_an_error_that_fits_its_spread() -> None:
    """The jackknife against the spread over 60 repetitions."""
    found = [
        frechet_distance(features(400, 6, 2 * i), features(400, 6, 2 * i + 1, shift=0.5)) for i in range(60)
    ]
    spread = np.std([estimate.value for estimate in found])
    assert np.median([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.35)


# ---- kernel distance


@pairs
def test_kernel_distance_is_that_of_torchmetrics_and_torch_fidelity(x: Tensor, y: Tensor) -> None:
    ours = kernel_distance(x, y).value
    size = min(len(x), len(y))
    dims = x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dims + 1) ** 3

    equal = kernel_distance(x[:size], y[:size]).value  # theirs are for sets of one size
    assert equal == pytest.approx(poly_mmd(x[:size], y[:size]).item(), rel=1e-6, abs=1e-9)
    stated = mmd2(*(kernel(a[:size], b[:size]).numpy() for a, b in ((x, x), (x, y), (y, y))))
    assert equal == pytest.approx(float(stated), rel=1e-6, abs=1e-9)
    off_x, off_y = (kernel(f, f) * (1 - torch.eye(len(f))) for f in (x, y))
    by_hand = (
        off_x.sum() / (len(x) * (len(x) - 1))
        + off_y.sum() / (len(y) * (len(y) - 1))
        - 2 * kernel(x, y).mean()
    )
    assert ours == pytest.approx(by_hand.item(), rel=1e-9)


def test_kernel_distance_is_unbiased_and_its_error_fits_its_spread() -> None:
    found = [kernel_distance(features(60, 4, 2 * i) / 5, features(90, 4, 2 * i + 1) / 5) for i in range(200)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert (values < 0).any()
    far = [
        kernel_distance(features(60, 4, 2 * i) / 5, features(90, 4, 2 * i + 1, shift=2) / 5)
        for i in range(100)
    ]
    spread = np.std([estimate.value for estimate in far])
    assert np.median([estimate.standard_error for estimate in far]) == pytest.approx(spread, rel=0.25)


def test_kernel_distance_leaves_pictures_out_as_if_they_were_not_there() -> None:
    """The jackknife's sums against taking each picture away."""
    x, y = features(7, 3), features(5, 3, 1)
    left_x = [kernel_distance(x[torch.arange(7) != i], y).value for i in range(7)]
    left_y = [kernel_distance(x, y[torch.arange(5) != i]).value for i in range(5)]
    by_hand = jackknife([torch.tensor(left, dtype=torch.float64) for left in (left_x, left_y)])
    assert kernel_distance(x, y).standard_error == pytest.approx(by_hand, rel=1e-9)


# ---- precision, recall, density, coverage


@pairs
def test_precision_and_recall_are_those_of_torch_fidelity(x: Tensor, y: Tensor) -> None:
    precision, recall = precision_recall(real_ND=y, fake_MD=x)
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    assert precision.value == pytest.approx(theirs["precision"], rel=1e-6)
    assert recall.value == pytest.approx(theirs["recall"], rel=1e-6)


@pairs
def test_density_and_coverage_by_brute_force(x: Tensor, y: Tensor) -> None:
    """As their paper defines them, by scikit-learn's neighbours."""
    density, coverage = density_coverage(real_ND=y, fake_MD=x)
    k = 5
    radii = NearestNeighbors(n_neighbors=k).fit(y.numpy()).kneighbors()[0][:, -1]
    distances = np.linalg.norm(y.numpy()[:, None] - x.numpy()[None], axis=-1)
    inside = distances <= radii[:, None]
    assert density.value == pytest.approx(inside.sum() / (k * len(x)), rel=1e-9)
    assert coverage.value == pytest.approx(inside.any(1).mean(), rel=1e-9)


def test_collapsed_and_noisy_sets() -> None:
    real = features(1000, 8)
    collapsed = features(64, 8, 1).repeat(16, 1)[:1000]
    noise = 40 * torch.randn(1000, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert precision_recall(real, collapsed)[1].value < 0.01
    assert precision_recall(real, noise)[0].value < 0.05
    assert density_coverage(real, collapsed)[1].value < 0.35
    again = features(1000, 8, 3)
    assert all(
        estimate.value > 0.8 for estimate in (*precision_recall(real, again), *density_coverage(real, again))
    )


def test_equal_points_lie_in_one_another() -> None:
    real = torch.tensor([[0.0, 0], [0, 0], [0, 0], [0, 0], [9, 9]])
    precision, recall = precision_recall(real, real)
    assert precision.value == recall.value == 1


# ---- memorisation


def test_nearest_training_pictures_are_found_in_blocks_and_exactly() -> None:
    noise = torch.Generator().manual_seed(0)
    training = torch.randint(0, 256, (500, 48), generator=noise, dtype=torch.uint8)
    x = torch.cat([training[[7, 450]], torch.randint(0, 256, (20, 48), generator=noise, dtype=torch.uint8)])
    x[1, 0] ^= 1  # one level off
    found = nearest(x, training.split(64), k=3)
    distances, index = (
        NearestNeighbors(n_neighbors=3).fit(training.double().numpy()).kneighbors(x.double().numpy())
    )
    assert (found.index_MK.numpy() == index).all()
    assert np.allclose(found.squared_MK.numpy(), distances**2)
    assert found.nearest_M[:2].tolist() == [0, 1]


def test_nearest_is_exact_where_float32_products_are_not() -> None:
    """Bright pictures that differ by one level: their products differ in the last bits of a float32."""
    bright = torch.full((3, 3072), 255, dtype=torch.uint8)
    bright[1, 0], bright[2, :3] = 254, 254
    found = nearest(bright, [bright.flip(0)], k=3)
    assert found.squared_MK.tolist() == [[0, 1, 3], [0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("numbers", [64, 32 * 32 * 3, 64 * 64 * 3, 128 * 128 * 3])
def test_a_copy_among_many_near_ones_is_found(numbers: int) -> None:
    """Of bytes: 40 pictures that differ from it by one level each come before it."""
    noise = torch.Generator().manual_seed(numbers)
    bright = torch.randint(128, 256, (1, numbers), generator=noise, dtype=torch.uint8)
    training = bright.repeat(60, 1)
    training[torch.arange(40), torch.arange(40)] ^= 1
    training[41:] = torch.randint(0, 256, (19, numbers), generator=noise, dtype=torch.uint8)
    for number in (0, 40, 59):
        at = torch.arange(60).roll(number)
        found = nearest(bright, [training[at]], k=2)
        assert found.squared_MK.tolist() == [[0, 1]]
        assert at[found.index_MK[0, 0]] == 40
    differences = training.long()[:, None] - training.long()[None]
    assert torch.equal(squared_by_products(training, training), differences.square().sum(2).double())


def test_features_far_from_0_have_the_same_neighbours() -> None:
    noise = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (200, 64), generator=noise).float()
    far = nearest(x + 2**20, [x.flip(0) + 2**20], k=3)
    assert torch.equal(far.squared_MK, nearest(x, [x.flip(0)], k=3).squared_MK)
    assert far.nearest_M.max() == 0


def exact(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.longdouble)


@pytest.mark.parametrize("offset", [0, 2**10, 2**20])
def test_figures_of_features_far_from_0_lose_no_digits(offset: int) -> None:
    """Whole numbers, so that float32 holds them with the offset too: what does not depend on it stays."""
    noise = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 5 + more, (300, 20), generator=noise).float() for more in (0, 1))
    far_x, far_y = x + offset, y + offset
    for figure in (
        lambda a, b: [frechet_distance(a, b)],
        lambda a, b: list(precision_recall(a, b)),
        lambda a, b: list(density_coverage(a, b)),
    ):
        for near, far in zip(figure(x, y), figure(far_x, far_y), strict=True):
            assert far.value == pytest.approx(near.value, rel=1e-9)
            assert far.standard_error == pytest.approx(near.standard_error, rel=1e-6)

    if offset > 2**10:
        return  # the next one does depend on it, by its sixth power

    def kernel(a: Tensor, b: Tensor) -> np.ndarray:
        return (exact(a) @ exact(b).T / 20 + 1) ** 3

    own = [(kernel(a, a).sum() - np.trace(kernel(a, a))) / (300 * 299) for a in (far_x, far_y)]
    by_hand = float(own[0] + own[1] - 2 * kernel(far_x, far_y).mean())
    assert kernel_distance(far_x, far_y).value == pytest.approx(by_hand, rel=1e-6)


def test_points_belong_to_the_nearest_centre() -> None:
    """Two clusters of points of 3072 numbers that are nearer to each other than float32 can tell by products."""
    noise = torch.Generator().manual_seed(0)
    apart = torch.zeros(3072)
    apart[:8] = 2**-10
    signs = torch.randint(0, 2, (200, 1), generator=noise) * 2 - 1
    y = 0.9 + signs * apart
    member, _ = k_means(y, 2, torch.Generator().manual_seed(1))
    assert len(set(member[signs[:, 0] > 0].tolist())) == len(set(member[signs[:, 0] < 0].tolist())) == 1
    assert len(member.unique()) == 2


def test_nearer_is_the_mann_whitney_statistic() -> None:
    noise = torch.Generator().manual_seed(0)
    x = torch.randint(0, 30, (80,), generator=noise).double()
    y = torch.randint(5, 35, (50,), generator=noise).double()
    by_hand = ((x[:, None] < y).double() + (x[:, None] == y).double() / 2).mean().item()
    found = nearer(x, y)
    assert found.value == pytest.approx(by_hand, rel=1e-12)
    assert scipy.stats.mannwhitneyu(y, x).statistic / (80 * 50) == pytest.approx(found.value, rel=1e-12)
    assert nearer(x, x).value == pytest.approx(0.5)


def test_nearer_has_an_error_that_fits_its_spread() -> None:
    noise = torch.Generator().manual_seed(1)
    draws = [torch.randn(2, 100, generator=noise, dtype=torch.float64) for _ in range(200)]
    found = [nearer(a - 0.3, b) for a, b in draws]
    spread = np.std([estimate.value for estimate in found])
    assert np.median([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.15)


# ---- distance to the truth


def bernoulli(probabilities_P: Tensor, x_NP: Tensor) -> Tensor:
    """-log p(x) in nats, (N,), of independent pixels."""
    return -(x_NP * probabilities_P.log() + (1 - x_NP) * (1 - probabilities_P).log()).sum(1)


@pytest.mark.parametrize("seed", range(5))
def test_distance_to_the_truth_is_never_negative_beyond_its_error(seed: int) -> None:
    """Independent pixels of known probabilities: the model that is the truth, and one whose distance is known."""
    noise = torch.Generator().manual_seed(seed)
    truth = torch.rand(40, generator=noise, dtype=torch.float64) * 0.9 + 0.05
    model = torch.rand(40, generator=noise, dtype=torch.float64) * 0.9 + 0.05
    x = (torch.rand(20_000, 40, generator=noise, dtype=torch.float64) < truth).double()
    entropy = -(truth * truth.log2() + (1 - truth) * (1 - truth).log2()).sum().item()
    exact = distance_to_truth(bernoulli(truth, x), entropy, "exact")
    assert abs(exact.mean) < 4 * exact.standard_error
    apart = (truth * (truth / model).log2() + (1 - truth) * ((1 - truth) / (1 - model)).log2()).sum().item()
    found = distance_to_truth(bernoulli(model, x), entropy, "exact")
    assert apart > 5
    assert found.mean == pytest.approx(apart, abs=4 * found.standard_error)


def test_the_mean_has_its_standard_error() -> None:
    found = mean_of(torch.tensor([True, False, True, True]))
    assert found.value == 0.75
    assert found.standard_error == pytest.approx(0.5 / 2)
    assert math.isnan(mean_of(torch.tensor([1.0])).standard_error)


# ---- together


def test_figures_stand_beside_their_floors() -> None:
    x, y, z = features(100), features(100, seed=1), features(100, seed=2)
    figures = quality("domain@0123abcd", x, y, {"train": z}, {"samples": 100})
    assert list(figures) == [
        f"{name}[domain@0123abcd]"
        for name in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    ]
    frechet = figures["frechet_distance[domain@0123abcd]"]
    assert frechet.mean == frechet_distance(x, y).value
    assert frechet.floor == {"train": frechet_distance(z, y).value}
    assert frechet.protocol == {"extractor": "domain@0123abcd", "samples": 100}
    assert figures["recall[domain@0123abcd]"].meaning.endswith("k=3")
    assert not any("FID" in figure.meaning for figure in figures.values())
    assert quality("inception@01", x, y, {}, {})["frechet_distance[inception@01]"].meaning.startswith("FID")
