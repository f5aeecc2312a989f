"""How far a model is from the distribution that its pictures come from, where that is known."""

from __future__ import annotations

import math

from torch import Tensor

from gentrain.metrics.figure import Figure, mean_of


def distance_to_truth(nats_N: Tensor, entropy_bits: float, kind: str, what: str = "") -> Figure:
    """KL(p_data || p_model) in bits per image: the cross-entropy, of -log p in nats (N,), minus the entropy.

    Never negative but for the error of a mean over N pictures. A bound where `nats_N` bounds -log p.
    """
    bits = mean_of(nats_N.double() / math.log(2))
    meaning = f"{kind} KL(p_data || p_model); the data's entropy is {entropy_bits:.4f} bits{what}"
    return Figure(bits.value - entropy_bits, bits.standard_error, "bits/image", meaning)
