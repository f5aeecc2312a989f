"""Do Frechet distances in an extractor's features grow with what is wrong with pictures? Tables.

    python scripts/extractor_sanity.py [--extractor domain] [--count 1000] [kinds ...]

Real pictures A against other real pictures B: the floor. Then A against B damaged, more and more: every row
should begin above 1 and grow, in units of the floor. Digits, moons and emoji are kinds of pictures
that the `domain` extractor was not trained on. Emoji need Debian's fonts-noto-color-emoji.

Legend: N pictures, C channels, H height, W width, D features.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from gentrain import anime
from gentrain.data.packed import open_packed
from gentrain.data.sources.digits import Digits
from gentrain.data.sources.fashion_mnist import FashionMNIST
from gentrain.data.sources.moons import Moons
from gentrain.metrics.extractors import Extractor, make_extractor

EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
EMOJI_RANGES = ((0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF))
EMOJI_SIDE = 109  # the one size that the font has
FRESH_SEED = 77  # of faces for B
Features = Callable[[Tensor], Tensor]  # bytes (N, C, H, W) -> float (N, D)
Pair = tuple[Tensor, Tensor]
Damage = Callable[[Tensor, float, Generator], Tensor]  # bytes, strength, coins -> bytes


def frechet(a_ND: Tensor, b_ND: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) in float64: arXiv 1706.08500, eq. 6."""
    a_ND, b_ND = a_ND.double(), b_ND.double()
    cov_a, cov_b = a_ND.T.cov(), b_ND.T.cov()
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    shift = (a_ND.mean(0) - b_ND.mean(0)).square().sum()
    return (shift + cov_a.trace() + cov_b.trace() - 2 * root_trace).item()


def to_bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def blur(x: Tensor, sigma: float, rng: Generator) -> Tensor:
    return to_bytes(gaussian_blur(x.float(), [13, 13], [sigma, sigma]))


def noise(x: Tensor, std: float, rng: Generator) -> Tensor:
    return to_bytes(x + std * torch.randn(x.shape, generator=rng))


def repeated(x: Tensor, distinct: float, rng: Generator) -> Tensor:
    """A generator that knows only the first few pictures."""
    return x[torch.arange(len(x)) % int(distinct)]


def static(x: Tensor, share: float, rng: Generator) -> Tensor:
    """This share of the pictures is nothing but noise."""
    out = x.clone()
    count = round(share * len(x))
    out[:count] = torch.randint(0, 256, x[:count].shape, generator=rng).to(torch.uint8)
    return out


def halves(x: Tensor, share: float, rng: Generator) -> Tensor:
    """This share of the pictures has the right half of another one."""
    out, count, middle = x.clone(), round(share * len(x)), x.shape[-1] // 2
    out[:count, ..., middle:] = x.roll(1, 0)[:count, ..., middle:]
    return out


def color(x: Tensor, levels: float, rng: Generator) -> Tensor:
    """Redder, and less blue; grey pictures brighter."""
    shift = torch.tensor([1.0, 0.0, -1.0]) if x.shape[1] == 3 else torch.ones(1)
    return to_bytes(x + levels * shift[:, None, None])


def components(x: Tensor, count: float, rng: Generator) -> Tensor:
    """What the first principal components keep: the blurred pictures of a linear autoencoder."""
    flat = x.flatten(1).float()
    mean = flat.mean(0)
    scores = torch.linalg.eigh((flat - mean) @ (flat - mean).T).eigenvectors[:, -int(count) :]
    return to_bytes((mean + scores @ (scores.T @ (flat - mean))).view(x.shape))


def checkerboard(x: Tensor, levels: float, rng: Generator) -> Tensor:
    """The pattern that transposed convolutions leave."""
    i, j = torch.arange(x.shape[-2]), torch.arange(x.shape[-1])
    return to_bytes(x + levels * (1 - 2.0 * ((i[:, None] + j) % 2)))


def warp(x: Tensor, pixels: float, rng: Generator) -> Tensor:
    """Shapes out of shape: every point moved by a smooth random field of this root mean square."""
    field = F.interpolate(
        torch.randn(len(x), 2, 6, 6, generator=rng), x.shape[-2:], mode="bilinear", align_corners=True
    )
    plain = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    grid = plain + field.movedim(1, -1) * (pixels * 2 / x.shape[-1])
    return to_bytes(F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False))


SERIES: dict[str, tuple[Damage, tuple[float, ...]]] = {
    "Gaussian blur, sigma in pixels": (blur, (0.5, 0.75, 1, 2)),
    "noise, standard deviation in levels": (noise, (4, 10, 25, 64)),
    "principal components kept": (components, (32, 16, 8, 4)),
    "checkerboard, levels": (checkerboard, (4, 10, 25, 64)),
    "warp, pixels": (warp, (0.5, 1, 2, 4)),
    "redder or brighter, levels": (color, (8, 16, 32, 64)),
    "distinct pictures": (repeated, (256, 64, 16, 4)),
    "share of pictures that are static": (static, (0.01, 0.05, 0.2, 1)),
    "share with another's right half": (halves, (0.25, 0.5, 0.75, 1)),
}


def two_faces(count: int) -> Pair:
    """The test split of data=anime, and faces of another seed."""
    numbers = np.arange(1000, 1000 + count)
    a, b = (anime.draw(anime.combinations(numbers, seed), 32) for seed in (0, FRESH_SEED))
    return torch.from_numpy(a), torch.from_numpy(b)


def two_of(name: str, source: Any, count: int) -> Pair:
    """Test pictures against validation pictures; where those are too few, half of all against the rest."""
    packed = open_packed(name, source, lambda done, total: None)
    a, b = (torch.from_numpy(np.array(packed.split(split)[:count])) for split in ("test", "valid"))
    if len(b) < count:
        every = torch.from_numpy(np.array(packed.images))
        every = every[torch.randperm(len(every), generator=Generator().manual_seed(0))]
        a, b = every[: len(every) // 2][:count], every[len(every) // 2 :][:count]
    return a, b


def two_clothes(count: int) -> Pair:
    source = FashionMNIST(root=None, size=28, channels=1, count=None, held_out=0.1)
    return two_of("fashion_mnist", source, count)


def two_digits(count: int) -> Pair:
    return two_of("digits", Digits(size=32, channels=1, count=None, held_out=0.1), count)


def two_moons(count: int) -> Pair:
    """The same phases in both, other places and sizes."""
    moons = Moons(size=32, channels=1, count=1, phases=[0], seed=0)
    phases = np.arange(count) * 15 % 360
    a, b = (torch.from_numpy(moons.draw(phases, moons.places(split, count))) for split in ("test", "valid"))
    return a, b


def two_emoji(count: int) -> Pair:
    """The font's pictures in a random order, resized to 32 px on white; the first half against the other."""
    font = ImageFont.truetype(str(EMOJI_FONT), EMOJI_SIDE)
    drawn = []
    for code in (code for first, last in EMOJI_RANGES for code in range(first, last + 1)):
        canvas = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(canvas).text((0, 0), chr(code), font=font, embedded_color=True)
        pixels = np.array(canvas.resize((32, 32), Image.Resampling.BOX))
        if pixels.std() > 5:  # the font has this one
            drawn.append(torch.from_numpy(pixels).movedim(-1, 0))
    every = torch.stack(drawn)[torch.randperm(len(drawn), generator=Generator().manual_seed(0))]
    half = len(every) // 2
    return every[:half][:count], every[half:][:count]


KINDS: dict[str, Callable[[int], Pair]] = {
    "anime": two_faces,
    "fashion_mnist": two_clothes,
    "digits": two_digits,
    "moons": two_moons,
    "emoji": two_emoji,
}


def ratios(features: Features, pair: Pair) -> tuple[float, dict[str, list[float]]]:
    """The floor, and the distances of each series in units of it."""
    a, b = pair
    a_ND = features(a)
    floor = frechet(a_ND, features(b))
    found = {}
    for name, (damage, strengths) in SERIES.items():
        rng = Generator().manual_seed(0)
        found[name] = [frechet(a_ND, features(damage(b, s, rng))) / floor for s in strengths]
    return floor, found


def print_tables(features: Features, count: int = 1000, kinds: list[str] | None = None) -> None:
    """For each kind, and which rows do not grow."""
    console = Console(width=110)
    for kind in kinds or KINDS:
        if kind == "emoji" and not EMOJI_FONT.is_file():
            console.print(f"emoji: left out, for there is no {EMOJI_FONT}")
            continue
        pair = KINDS[kind](count)
        floor, found = ratios(features, pair)
        sizes = f"{len(pair[0])} and {len(pair[1])} real pictures: distance {floor:.3f}"
        table = Table(title=f"{kind}, {sizes}; the others in units of it")
        table.add_column("B damaged by")
        table.add_column("strengths")
        table.add_column("distance", justify="right")
        for name, values in found.items():
            strengths = SERIES[name][1]
            grows = all(x < y for x, y in zip([1, *values], values, strict=False))
            remark = "" if grows else "  does not grow"
            table.add_row(
                name, ", ".join(f"{s:g}" for s in strengths), "  ".join(f"{v:.3g}" for v in values) + remark
            )
        console.print(table)


def speed(extractor: Extractor, count: int = 4096) -> float:
    """RGB pictures of 32 px a second, after a first call."""
    x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0))
    extractor.features(x[:256], 256)
    begun = time.perf_counter()
    extractor.features(x, 256)
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extractor", default="domain")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    extractor = make_extractor(args.extractor, torch.device("cpu"))
    made = time.perf_counter() - begun
    print(f"{extractor.label}, made in {1000 * made:.0f} ms: {speed(extractor):,.0f} pictures/s at 32 px")
    print_tables(lambda x: extractor.features(x, 256), args.count, args.kinds or list(KINDS))


if __name__ == "__main__":
    main()
