"""The built-in faces: numbering, drawing, and reading every factor back from the pixels."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from gentrain.anime import COMBINATIONS, ENTROPY_BITS, FACTORS, SIZES, combinations, decode, draw
from gentrain.anime.factors import COUNTS, join, permute, split
from gentrain.errors import UserError

# Of faces 0 .. 63 with seed 0: any changed pixel changes these, and then VERSION must go up too.
CONTENT_SHA256 = {
    32: "e8c850a30cab65eb241ebd9368ef2a60dfc8f9d06acd7a60a1efa288ff65b965",
    64: "862dc80dfdba990231c42c972319561096550498660751c66056a649b9db0fb4",
}


def test_entropy_is_that_of_independent_uniform_factors() -> None:
    assert math.prod(len(factor.choices) for factor in FACTORS) == COMBINATIONS
    assert 2**24 <= COMBINATIONS < 2**32
    assert math.isclose(sum(math.log2(count) for count in COUNTS), ENTROPY_BITS)
    assert len({factor.name for factor in FACTORS}) == len(FACTORS)
    assert all(len(set(factor.choices)) == len(factor.choices) for factor in FACTORS)


@pytest.mark.parametrize("domain", [1, 2, 3, 255, 256, 257, 5000])
def test_permutation_is_a_bijection(domain: int) -> None:
    numbers = permute(np.arange(domain), domain, seed=5)
    assert np.array_equal(np.sort(numbers), np.arange(domain))


def test_distinct_numbers_give_distinct_faces() -> None:
    indices = np.concatenate([np.arange(50_000), COMBINATIONS - 1 - np.arange(50_000)])
    factors_NF = combinations(indices, seed=0)
    assert factors_NF.dtype == np.uint8
    assert factors_NF.shape == (100_000, len(FACTORS))
    assert len(np.unique(join(factors_NF))) == len(indices)


def test_split_and_join_are_inverse() -> None:
    numbers = np.arange(1000, dtype=np.int64) * (COMBINATIONS // 1000)
    assert np.array_equal(join(split(numbers)), numbers)


def test_numbering_depends_on_the_seed_and_not_on_the_batch() -> None:
    whole = combinations(np.arange(100), seed=1)
    assert np.array_equal(combinations(np.arange(40, 60), seed=1), whole[40:60])
    assert not np.array_equal(combinations(np.arange(100), seed=2), whole)
    assert combinations(np.arange(0), seed=1).shape == (0, len(FACTORS))


def test_every_factor_is_uniform_and_pairs_are_independent() -> None:
    """Chi-square against uniform, at a limit that a fair draw exceeds once in about 10**6 times."""
    count = 100_000
    factors_NF = combinations(np.arange(count), seed=3).astype(np.int64)
    for f, size in enumerate(COUNTS):
        assert _chi_square(factors_NF[:, f], size) < _limit(size - 1), FACTORS[f].name
        for g in range(f):
            pair = factors_NF[:, g] * size + factors_NF[:, f]
            pair_size = size * COUNTS[g]
            assert _chi_square(pair, pair_size) < _limit(pair_size - 1), (FACTORS[g].name, FACTORS[f].name)


def _chi_square(values: np.ndarray, size: int) -> float:
    expected = len(values) / size
    return float(((np.bincount(values, minlength=size) - expected) ** 2 / expected).sum())


def _limit(freedom: int) -> float:
    """The chi-square quantile 4.75 standard deviations up (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_rgb_bytes_with_these_very_pixels(size: int) -> None:
    images = draw(combinations(np.arange(64), seed=0), size)
    assert images.dtype == np.uint8
    assert images.shape == (64, 3, size, size)
    assert hashlib.sha256(images.tobytes()).hexdigest() == CONTENT_SHA256[size]


@pytest.mark.parametrize("size", SIZES)
def test_a_face_does_not_depend_on_its_batch(size: int) -> None:
    factors_NF = combinations(np.arange(300), seed=0)
    images = draw(factors_NF, size)
    assert np.array_equal(draw(factors_NF[290:], size), images[290:])
    assert draw(factors_NF[:0], size).shape == (0, 3, size, size)
    assert np.array_equal(decode(images[7:8]), decode(images)[7:8])


@pytest.mark.parametrize("size", SIZES)
def test_ten_thousand_faces_are_read_exactly(size: int) -> None:
    factors_NF = combinations(np.arange(10_000), seed=11)
    wrong_NF = decode(draw(factors_NF, size)) != factors_NF
    assert not wrong_NF.any(), {FACTORS[f].name: int(n) for f, n in enumerate(wrong_NF.sum(axis=0)) if n}


@pytest.mark.parametrize("size", SIZES)
def test_every_single_change_is_seen(size: int) -> None:
    """From 24 faces, each factor set to each of its choices: read exactly, and well apart in the pixels."""
    bases = combinations(np.arange(24), seed=13)
    changed = []
    for f, count in enumerate(COUNTS):
        for choice in range(count):
            faces = bases.copy()
            faces[:, f] = choice
            changed.append(faces)
    factors_NF = np.concatenate(changed)
    images = draw(factors_NF, size)
    assert np.array_equal(decode(images), factors_NF)
    original = np.tile(draw(bases, size), (len(changed), 1, 1, 1)).astype(np.int32)
    difference_N = np.abs(images - original).sum(axis=(1, 2, 3))
    is_same = (factors_NF == np.tile(bases, (len(changed), 1))).all(axis=1)
    assert (difference_N[is_same] == 0).all()
    assert difference_N[~is_same].min() > 100


@pytest.mark.parametrize("size", SIZES)
def test_reading_bears_a_little_noise(size: int) -> None:
    """Pictures a little off (as a model's samples are) are read as the nearest face."""
    factors_NF = combinations(np.arange(500), seed=17)
    images = draw(factors_NF, size).astype(np.int16)
    noise = np.arange(images.size).reshape(images.shape) * 7919 % 5 - 2
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert (decode(noisy) == factors_NF).all(axis=1).mean() > 0.98


def test_wrong_input_gets_a_sentence() -> None:
    faces = combinations(np.arange(2), seed=0)
    with pytest.raises(UserError, match="32 or 64 pixels, not 48"):
        draw(faces, 48)
    with pytest.raises(UserError, match="out of range"):
        draw(np.full_like(faces, 99), 32)
    with pytest.raises(UserError, match="factor choices"):
        draw(faces[:, :3], 32)
    with pytest.raises(UserError, match="face number"):
        combinations(np.array([COMBINATIONS]), seed=0)
    with pytest.raises(UserError, match="face number"):
        combinations(np.array([-1]), seed=0)
    with pytest.raises(UserError, match="shape"):
        decode(np.zeros((2, 1, 32, 32), dtype=np.uint8))
    with pytest.raises(UserError, match="32 or 64"):
        decode(np.zeros((2, 3, 28, 28), dtype=np.uint8))


def test_faces_need_no_torch() -> None:
    code = "import sys, gentrain.anime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
