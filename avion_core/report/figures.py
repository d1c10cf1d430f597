"""Line charts as inline SVG whose colours come from the page, so that they read in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34
MAX_POINTS = 300
SERIES_STYLES = 6
"""Number of line styles that the page defines (`.s0` to `.s5`)."""


@dataclass(frozen=True)
class Series:
    """One line: its name and its (x, y) points in order of x, and a band around it if there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[tuple[float, float]] = ()
    high: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A drawn chart and what its caption and legend say."""

    title: str
    svg: Markup
    legend: tuple[tuple[int, str, str], ...]
    """(style number, name, last value) of each line."""


def line_chart(title: str, *, series: Sequence[Series], x_label: str, y_label: str) -> Chart:
    """Draw lines over shared axes. Points that are not finite are left out."""
    drawn = [
        Series(line.name, *(thin(_finite(points)) for points in (line.points, line.low, line.high)))
        for line in series
    ]
    drawn = [line for line in drawn if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in (*line.points, *line.low, *line.high)]
    x_ticks, y_ticks = (
        ticks(min(xs, default=0), max(xs, default=1)),
        ticks(min(ys, default=0), max(ys, default=1)),
    )
    x_range = (min([*xs, x_ticks[0]]), max([*xs, x_ticks[-1]]))
    y_range = (min([*ys, y_ticks[0]]), max([*ys, y_ticks[-1]]))
    parts = [_axes(x_ticks, y_ticks, x_range, y_range, x_label, y_label)]
    for number, line in enumerate(drawn):
        style = number % SERIES_STYLES
        if line.low:
            around = _path([*line.low, *reversed(line.high)], x_range, y_range)
            parts.append(f'<polygon class="band s{style}" points="{around}"/>')
        parts.append(f'<polyline class="line s{style}" points="{_path(line.points, x_range, y_range)}"/>')
    summary = "; ".join(
        f"{line.name}: from {_short(line.points[0][1])} to {_short(line.points[-1][1])}" for line in drawn
    )
    label = escape(f"{title}. {summary}", quote=True)
    opening = f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    legend = tuple(
        (number % SERIES_STYLES, line.name, _short(line.points[-1][1])) for number, line in enumerate(drawn)
    )
    return Chart(title, Markup(opening + "".join(parts) + "</svg>"), legend)


def mean_series(name: str, curves: Sequence[Sequence[tuple[float, float]]]) -> Series:
    """The mean of several curves where all have a point, in a band from the lowest to the highest."""
    if len(curves) == 1:
        return Series(name, curves[0])
    by_x = [dict(_finite(curve)) for curve in curves]
    xs = [x for x in by_x[0] if all(x in other for other in by_x)]
    ys = {x: [curve[x] for curve in by_x] for x in xs}
    return Series(
        name,
        points=[(x, sum(ys[x]) / len(curves)) for x in xs],
        low=[(x, min(ys[x])) for x in xs],
        high=[(x, max(ys[x])) for x in xs],
    )


def ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) that cover low … high with about `count` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points, the first and last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _scale(value: float, bounds: tuple[float, float], start: float, end: float) -> float:
    low, high = bounds
    return start + (value - low) / (high - low) * (end - start)


def _path(
    points: Sequence[tuple[float, float]], x_range: tuple[float, float], y_range: tuple[float, float]
) -> str:
    """The `points` of an SVG line."""
    return " ".join(
        f"{_scale(x, x_range, LEFT, WIDTH - RIGHT):.1f},{_scale(y, y_range, HEIGHT - BOTTOM, TOP):.1f}"
        for x, y in points
    )


def _axes(
    x_ticks: list[float],
    y_ticks: list[float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_label: str,
    y_label: str,
) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y_ticks:
        y = _scale(value, y_range, bottom, TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in x_ticks:
        x = _scale(value, x_range, LEFT, right)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_short(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _short(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
