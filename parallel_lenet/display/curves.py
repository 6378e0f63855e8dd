"""Curves as inline SVG, drawn without any library."""

import html
import math
from collections.abc import Sequence
from typing import TypeAlias

from parallel_lenet.display import LINE, Html

WIDTH = 380
HEIGHT = 210
# The margins around the plot.
LEFT = 52
RIGHT = 14
TOP = 30
BOTTOM = 34
COLOURS = ("#3b82f6", "#e8710a", "#22a06b", "#c0392b")  # Blue and orange first: different on white and on black.
MOST_POINTS = 400  # Of a curve. If there are more, the lowest and the highest point of each group are drawn.

Point = tuple[int, float]

# The limits of the numbers that are drawn: their differences must be finite too.
SMALLEST = 1e-290
LARGEST = 1e290

Curve: TypeAlias = tuple[str, Sequence[float | None]]
"""The name of a curve, and its values over 1, 2, 3, ..."""


def curves(title: str, series: Sequence[Curve], *, percent: bool = False) -> Html:
    """A plot of some curves over the epochs.

    A value that is None, NaN, infinite or close to it interrupts its curve. ``percent`` labels 1 as 100 %.
    """
    runs = [(name, _runs(values)) for name, values in series]
    numbers = [value for _, parts in runs for part in parts for _, value in part]
    last = max(len(values) for _, values in series)
    ticks = _ticks(min(numbers), max(numbers)) if numbers else [0.0, 1.0]
    low = ticks[0]
    high = ticks[-1]

    def pixel_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((x - 1) / (last - 1) if last > 1 else 0.5)

    def pixel_y(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / (high - low))

    marks = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{pixel_y(y):.1f}" y2="{pixel_y(y):.1f}" stroke="{LINE}"/>'
        f'<text x="{LEFT - 6}" y="{pixel_y(y) + 4:.1f}" text-anchor="end">{_label(y, ticks[1] - low, percent)}</text>'
        for y in ticks
    ]
    marks += [
        f'<text x="{pixel_x(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x}</text>'
        for x in sorted({round(1 + (last - 1) * share) for share in (0, 0.25, 0.5, 0.75, 1)} - {0})
    ]
    legend_x = LEFT
    for (name, parts), colour in zip(runs, COLOURS, strict=False):
        for part in parts:
            points = [f"{pixel_x(x):.1f},{pixel_y(y):.1f}" for x, y in part]
            marks.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
            if len(part) <= MOST_POINTS / 10:
                marks += [
                    f'<circle cx="{pixel_x(x):.1f}" cy="{pixel_y(y):.1f}" r="2.4" fill="{colour}"/>' for x, y in part
                ]
        marks.append(f'<rect x="{legend_x}" y="{TOP - 14}" width="12" height="4" fill="{colour}"/>')
        marks.append(f'<text x="{legend_x + 16}" y="{TOP - 9}">{html.escape(name)}</text>')
        legend_x += 30 + 7 * len(name)
    description = html.escape(f"{title}: {'; '.join(_ends(*curve) for curve in series)}")
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{description}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="width:{WIDTH}px;max-width:100%;height:auto;margin:.4em .8em .4em 0" fill="currentColor" '
        f'font-family="sans-serif" font-size="11">'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">epoch</text>'
        f'<text x="{WIDTH - RIGHT}" y="{TOP - 9}" text-anchor="end" font-weight="bold">{html.escape(title)}</text>'
        f"{''.join(marks)}</svg>"
    )


def _ends(name: str, values: Sequence[float | None]) -> str:
    """A curve in words, for screen readers: its first and its last value."""
    known = [value for value in values if value is not None]
    return f"{name} from {known[0]:.4g} to {known[-1]:.4g}" if known else f"{name} without values"


def _runs(values: Sequence[float | None]) -> list[list[Point]]:
    """The runs of finite values, each reduced to the visible points."""
    runs: list[list[Point]] = [[]]
    for x, value in enumerate(values, start=1):
        if value is not None and abs(value) < LARGEST:  # False for NaN.
            runs[-1].append((x, float(value)))
        elif runs[-1]:
            runs.append([])
    size = -(-2 * len(values) // MOST_POINTS)  # Each group leaves two points.
    return [_thin(run, size) if len(run) > MOST_POINTS else run for run in runs if run]


def _thin(run: list[Point], size: int) -> list[Point]:
    points: list[Point] = []
    for start in range(0, len(run), size):
        group = run[start : start + size]
        points += sorted({min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])})
    return points


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, from one at or below ``low`` to one at or above ``high``."""
    if high - low < 1e-9 * max(abs(low), abs(high), SMALLEST):  # A flat curve is drawn half way up.
        margin = abs(high) if abs(high) > SMALLEST else 1.0
        low = low - margin / 2
        high = high + margin / 2
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _label(value: float, step: float, percent: bool) -> str:
    """A tick's label, with enough decimals to differ from its neighbours."""
    if percent:
        value = value * 100
        step = step * 100
    exact = (digits for digits in range(7) if math.isclose(step * 10**digits, round(step * 10**digits), rel_tol=1e-6))
    decimals = next(exact, 7)
    text = f"{value:.{decimals}f}" if abs(value) < 1e6 and decimals < 7 else f"{value:.3g}"
    return f"{text} %" if percent else text
