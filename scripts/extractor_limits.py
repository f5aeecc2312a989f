"""What the `domain` extractor hardly sees: Frechet distances of faces, as in extractor_sanity.py.

    python scripts/extractor_limits.py [--count 1000]

Legend: N pictures, C channels, H height, W width, D features, F factors.
"""

from __future__ import annotations

import argparse

import extractor_sanity as sanity
import numpy as np
import torch
from torch import Generator, Tensor

from gentrain import anime
from gentrain.anime.factors import INDEX
from gentrain.metrics.extractors import make_extractor

MISSING = {"hair_color": 0, "hair_style": 2, "mouth": 5, "accessory": 6, "eye_color": 2, "blush": 0}
AT_64 = {
    "blur, sigma": (sanity.blur, (0.5, 1, 2)),
    "noise, levels": (sanity.noise, (10, 25)),
    "checkerboard, levels": (sanity.checkerboard, (10, 25, 64)),
}


def faces(factors_NF: np.ndarray, size: int = 32) -> Tensor:
    return torch.from_numpy(anime.draw(factors_NF, size))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    extractor = make_extractor("domain", torch.device("cpu"))
    print(extractor.label)
    count, rng = args.count, Generator().manual_seed(0)
    factors_A, factors_B = (
        anime.combinations(np.arange(1000, 1000 + count), s) for s in (0, sanity.FRESH_SEED)
    )
    more_NF = anime.combinations(np.arange(5000, 5000 + 4 * count), sanity.FRESH_SEED)

    def features(x: Tensor) -> Tensor:
        return extractor.features(x, 256)

    for size in (32, 64):
        a_ND, b = features(faces(factors_A, size)), faces(factors_B, size)
        floor = sanity.frechet(a_ND, features(b))
        print(f"{count} faces at {size} px: the floor is {floor:.3f}; in units of it:")

        def tell(what: str, x: Tensor, a_ND: Tensor = a_ND, floor: float = floor) -> None:
            print(f"  {what}: {sanity.frechet(a_ND, features(x)) / floor:.3g}", flush=True)

        if size == 64:
            for name, (damage, strengths) in AT_64.items():
                for strength in strengths:
                    tell(f"{name} {strength:g}", damage(b, strength, rng))
            continue
        tell("other faces yet", faces(more_NF[:count]))
        tell("copies of A", faces(factors_A))
        for name, choice in MISSING.items():
            kept_NF = more_NF[more_NF[:, INDEX[name]] != choice]
            tell(f"without {name} {anime.FACTORS[INDEX[name]].choices[choice]}", faces(kept_NF[:count]))
        tell("mirrored", b.flip(-1))
        tell("one pixel to the right", b.roll(1, -1))
        tell("16 levels instead of 256", b // 16 * 16 + 8)
        for n in (100, 200, 500):
            print(f"  the floor itself at {n} pictures: {sanity.frechet(a_ND[:n], features(b[:n])):.3g}")


if __name__ == "__main__":
    main()
