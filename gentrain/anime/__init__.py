"""Faces drawn by our own code from independent, uniform factors: a data set whose entropy is known."""

from gentrain.anime.decode import decode
from gentrain.anime.draw import SIZES, VERSION, draw
from gentrain.anime.factors import COMBINATIONS, ENTROPY_BITS, FACTORS, Factor, combinations

__all__ = [
    "COMBINATIONS",
    "ENTROPY_BITS",
    "FACTORS",
    "SIZES",
    "VERSION",
    "Factor",
    "combinations",
    "decode",
    "draw",
]
