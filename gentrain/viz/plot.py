"""Curves with error bars over a logarithmic axis, drawn by Pillow.

A drawing of four curves is no reason to ask every user for a plotting library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = (760, 480)
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 60
INKS = ((200, 60, 40), (30, 90, 180), (120, 120, 120), (40, 140, 70), (150, 80, 170), (190, 140, 20))
OVERSAMPLED = 2  # Pillow's lines have no anti-aliasing


@dataclass(frozen=True)
class Curve:
    """y at each x, and how far a bar reaches to either side."""

    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]


@dataclass(frozen=True)
class Frame:
    """From values to pixels."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - math.log(self.low_x)) / (math.log(self.high_x) - math.log(self.low_x))
        up = (y - self.low_y) / (self.high_y - self.low_y)
        width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
        return (LEFT + across * width) * OVERSAMPLED, (TOP + (1 - up) * height) * OVERSAMPLED


def chart(curves: Mapping[str, Curve], title: str, x_words: str, y_words: str, level: float) -> Image.Image:
    """x is above 0, on a logarithmic axis; y a share, 0 .. 1; `level` dashed, what guessing reaches."""
    xs = sorted({x for curve in curves.values() for x in curve.x})
    tops = [y + spread for curve in curves.values() for y, spread in zip(curve.y, curve.spread, strict=True)]
    high_y = min(1.0, max(1, math.ceil(10 * max(tops) - 1e-9)) / 10)
    widen = 1.15 if len(xs) > 1 else 2.0
    frame = Frame(xs[0] / widen, xs[-1] * widen, 0.0, high_y)
    canvas = Image.new("RGB", (SIZE[0] * OVERSAMPLED, SIZE[1] * OVERSAMPLED), "white")
    ink, font = ImageDraw.Draw(canvas), ImageFont.load_default(13 * OVERSAMPLED)
    _axes(ink, font, frame, xs, title, x_words, y_words)
    _dashed(ink, frame.at(frame.low_x, level), frame.at(frame.high_x, level))
    for number, (name, curve) in enumerate(curves.items()):
        color = INKS[number % len(INKS)]
        # Side by side, so that bars at the same x do not hide each other.
        aside = 4 * OVERSAMPLED * (number - (len(curves) - 1) / 2)
        _curve(ink, frame, curve, color, aside)
        y = (TOP + 8 + 18 * number) * OVERSAMPLED
        ink.line([(LEFT + 14) * OVERSAMPLED, y, (LEFT + 38) * OVERSAMPLED, y], color, 2 * OVERSAMPLED)
        ink.text(((LEFT + 46) * OVERSAMPLED, y), name, "black", font, "lm")
    return canvas.resize(SIZE, Image.Resampling.LANCZOS)


def _axes(
    ink: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, frame: Frame,
    xs: Sequence[float], title: str, x_words: str, y_words: str,
) -> None:  # fmt: skip
    for step in range(round(10 * frame.high_y) + 1):
        start, end = frame.at(frame.low_x, step / 10), frame.at(frame.high_x, step / 10)
        ink.line([start, end], (228, 228, 228), OVERSAMPLED)
        ink.text((start[0] - 8 * OVERSAMPLED, start[1]), f"{step / 10:.1f}", "black", font, "rm")
    for x in xs:
        foot = frame.at(x, 0)
        ink.line([foot, (foot[0], foot[1] + 5 * OVERSAMPLED)], "black", OVERSAMPLED)
        ink.text((foot[0], foot[1] + 16 * OVERSAMPLED), f"{x:g}", "black", font, "mm")
    ink.line([frame.at(frame.low_x, 0), frame.at(frame.high_x, 0)], "black", OVERSAMPLED)
    middle = (LEFT + (SIZE[0] - LEFT - RIGHT) / 2) * OVERSAMPLED
    ink.text((middle, (SIZE[1] - 20) * OVERSAMPLED), x_words, "black", font, "mm")
    ink.text((LEFT * OVERSAMPLED, 18 * OVERSAMPLED), f"{y_words}: {title}", "black", font, "lm")


def _dashed(ink: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    for x in range(int(start[0]), int(end[0]), 12 * OVERSAMPLED):
        ink.line([(x, start[1]), (x + 6 * OVERSAMPLED, start[1])], (150, 150, 150), OVERSAMPLED)


def _curve(
    ink: ImageDraw.ImageDraw, frame: Frame, curve: Curve, color: tuple[int, int, int], aside: float
) -> None:
    points = [(x + aside, y) for x, y in map(frame.at, curve.x, curve.y)]
    ink.line(points, color, 2 * OVERSAMPLED, "curve")
    for (x, y), value, spread in zip(points, curve.y, curve.spread, strict=True):
        top, foot = (frame.at(frame.low_x, max(0.0, value + side * spread))[1] for side in (1, -1))
        ink.line([(x, top), (x, foot)], color, OVERSAMPLED)
        dot = 3 * OVERSAMPLED
        ink.ellipse([x - dot, y - dot, x + dot, y + dot], color)
