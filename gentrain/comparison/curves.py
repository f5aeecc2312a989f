"""Loss curves as inline SVG, which a page draws without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gentrain.comparison.text import html

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 10, 30
MOST_POINTS = 300  # of one curve
COLORS = 8  # in page.css; further curves are dashed
EARLY = 0.05  # of a curve's points may lie above the picture: the first steps would flatten all the rest


@dataclass(frozen=True)
class Curve:
    """`number` chooses the ink: a run has the same one in every chart."""

    label: str
    number: int
    points: Sequence[tuple[float, float]]


def ink(number: int) -> str:
    return f"c{number % COLORS}" + (" dash" if number // COLORS % 2 else "")


def svg(curves: Sequence[Curve], title: str) -> tuple[str, bool]:
    """The drawing, and whether early values lie above it. Values that are not finite are left out."""
    kept = [(curve, points) for curve in curves if (points := _finite(curve.points))]
    if not kept:
        return "", False
    xs = [x for _, points in kept for x, _ in points]
    low_x, high_x = min(0.0, *xs), max(xs)
    late = [y for _, points in kept for _, y in points[int(EARLY * len(points)) :]]
    low_y, high_y = min(y for _, points in kept for _, y in points), max(late)
    high_y = high_y if high_y - low_y > 1e-30 else low_y + max(1e-9, abs(low_y) * 0.1)
    high_x = high_x if high_x > low_x else low_x + 1
    cut = any(y > high_y for _, points in kept for _, y in points)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low_x) / (high_x - low_x), min(3.0, (y - low_y) / (high_y - low_y))
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - up) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html(title)}">']
    for y in ticks(low_y, high_y):
        (_, level), text = at(low_x, y), f"{y:.6g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{level:.1f}" x2="{WIDTH - RIGHT}" y2="{level:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{text}</text>')
    for x in ticks(low_x, high_x):
        across, _ = at(x, low_y)
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:.6g}</text>')
    for curve, points in kept:
        label, places = f"<title>{html(curve.label)}</title>", [at(x, y) for x, y in thinned(points)]
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="{ink(curve.number)}" points="{path}">{label}</polyline>')
        else:
            (x, y), kind = places[0], ink(curve.number)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4">{label}</circle>')
    return "".join([*parts, "</svg>"]), cut


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and abs(y) < 1e300]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MOST_POINTS of them, evenly, the last among them: none is an average of others."""
    step = max(1, math.ceil(len(points) / MOST_POINTS))
    return [*points[:-1:step], points[-1]]


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the two."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
