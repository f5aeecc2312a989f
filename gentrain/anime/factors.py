"""What varies between two faces: independent, uniform, discrete factors, and their seeded enumeration.

Shape legend: N faces, F factors.
"""

import math
from dataclasses import dataclass

import numpy as np

from gentrain.errors import UserError


@dataclass(frozen=True)
class Factor:
    """One thing that varies, and the names of the values that it takes, all equally likely."""

    name: str
    choices: tuple[str, ...]


FACTORS: tuple[Factor, ...] = (
    Factor("hair_style", ("bob", "long", "twin_tails", "ponytail", "buns", "spiky", "wavy", "braids")),
    Factor(
        "hair_color",
        ("pink", "red", "blond", "brown", "black", "silver", "blue", "teal", "violet", "green"),
    ),
    Factor("fringe", ("straight", "parted", "swept", "spiky", "centre_lock", "forehead")),
    Factor("eye_shape", ("round", "sharp", "droopy", "half_lidded")),
    Factor("eye_color", ("blue", "green", "red", "violet", "amber", "brown", "aqua", "pink")),
    Factor("brow", ("soft", "firm", "worried")),
    Factor("mouth", ("smile", "open", "cat", "flat", "surprised", "tongue")),
    Factor("skin", ("fair", "warm", "tan")),
    Factor("blush", ("none", "pink")),
    Factor("accessory", ("none", "ribbon", "cat_ears", "flower", "hairclips", "headband", "glasses")),
    Factor("background", ("rose", "peach", "lemon", "mint", "sky", "lavender")),
    Factor("pattern", ("gradient", "dots", "stripes")),
    Factor("shift_x", ("left", "centre", "right")),
    Factor("shift_y", ("up", "centre")),
    Factor("tilt", ("left", "upright", "right")),
)
COUNTS: tuple[int, ...] = tuple(len(factor.choices) for factor in FACTORS)
COMBINATIONS: int = math.prod(COUNTS)
ENTROPY_BITS: float = math.log2(COMBINATIONS)
INDEX = {factor.name: f for f, factor in enumerate(FACTORS)}

_ROUNDS = 6
_MASK_64 = (1 << 64) - 1


def combinations(indices: np.ndarray, seed: int) -> np.ndarray:
    """Face numbers, int (N,) in 0 .. COMBINATIONS - 1 -> factor choices, uint8 (N, F).

    A seeded permutation of all combinations: distinct numbers never share a combination, so that
    disjoint ranges of numbers are disjoint sets of faces.
    """
    return split(permute(indices, COMBINATIONS, seed))


def split(numbers: np.ndarray) -> np.ndarray:
    """Combination numbers (N,) -> their mixed-radix digits, uint8 (N, F); the last factor varies fastest."""
    rest = np.asarray(numbers, dtype=np.int64)
    factors_NF = np.empty((len(rest), len(COUNTS)), dtype=np.uint8)
    for f in reversed(range(len(COUNTS))):
        rest, digit = np.divmod(rest, COUNTS[f])
        factors_NF[:, f] = digit
    return factors_NF


def join(factors_NF: np.ndarray) -> np.ndarray:
    """The inverse of `split`: factor choices (N, F) -> combination numbers, int64 (N,)."""
    check_factors(factors_NF)
    numbers = np.zeros(len(factors_NF), dtype=np.int64)
    for f, count in enumerate(COUNTS):
        numbers = numbers * count + factors_NF[:, f]
    return numbers


def check_factors(factors_NF: np.ndarray) -> None:
    """Raises UserError unless `factors_NF` holds one valid choice a factor."""
    if factors_NF.ndim != 2 or factors_NF.shape[1] != len(COUNTS):
        raise UserError(
            f"faces are given as an array (N, {len(COUNTS)}) of factor choices, not {factors_NF.shape}."
        )
    if len(factors_NF) and not ((factors_NF >= 0) & (factors_NF < np.array(COUNTS))).all():
        raise UserError(f"a factor choice is out of range: the factors have {COUNTS} choices.")


def permute(indices: np.ndarray, domain: int, seed: int) -> np.ndarray:
    """A seeded bijection of range(domain), int64 (N,) -> int64 (N,), in O(N) time and no table.

    A balanced Feistel network permutes the next even power of two; numbers that fall outside the
    domain are sent through again until they fall inside ("cycle walking"), which keeps it a bijection.
    """
    indices = np.asarray(indices)
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < domain:
        raise UserError(f"a face number is out of range: they go from 0 to {domain - 1}.")
    half_bits = max(1, ((domain - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed)
    numbers = _feistel(indices.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(numbers >= domain)
    while len(outside):
        numbers[outside] = _feistel(numbers[outside], half_bits, keys)
        outside = outside[numbers[outside] >= domain]
    return numbers.astype(np.int64)


def _feistel(numbers: np.ndarray, half_bits: int, keys: list[int]) -> np.ndarray:
    bits = np.uint64(half_bits)
    low_mask = np.uint64((1 << half_bits) - 1)
    left, right = numbers >> bits, numbers & low_mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ np.uint64(key)) & low_mask)
    return (left << bits) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every bit of uint64 (N,) reaches every other (products wrap at 2**64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _round_keys(seed: int) -> list[int]:
    """One 64-bit key a round: SplitMix64's stream from `seed`."""
    states = [(seed + (r + 1) * 0x9E3779B97F4A7C15) & _MASK_64 for r in range(_ROUNDS)]
    return [int(key) for key in _mix(np.array(states, dtype=np.uint64))]
