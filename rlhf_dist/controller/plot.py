"""Line charts as SVG, coloured by the page's style sheet; page.js adds what the pointer and the keys can read off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_dist.page import escaped

COLOURS = 6  # of the style sheet's --c1..; further lines have them again, dashed
_WIDTH, _HEIGHT = 340, 186
_TOP, _RIGHT, _BOTTOM = 8, 14, 22
_CHARACTER = 6.2  # width of a digit of the tick labels, in the SVG's units
_MOST_POINTS = 300  # of a line; more would not be seen
_TICKS = 5
_FLAT = 1e-9  # relative
_DASHES = ("", "6 3", "2 3")


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        label: what it is.
        number: from 0: which colour it has, and which of the page's toggles shows it.
        xs, ys: its points, finite numbers.
        steps: the step of each point, where ``xs`` are something else.
        low, high: the edges of a band around it; empty without one.
        faint: what ``ys`` are a running mean of, drawn behind it; empty where they are no mean.
        dots: whether each point is marked.
    """

    label: str
    number: int
    xs: Sequence[float]
    ys: Sequence[float]
    steps: Sequence[int] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    faint: Sequence[float] = ()
    dots: bool = False


@dataclass(frozen=True)
class _Scale:
    """Where the numbers ``low``..``high`` of an axis lie: from ``start`` to ``end``, in the SVG's units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def colour(number: int) -> str:
    """The CSS colour of the line ``number``."""
    return f"var(--c{number % COLOURS + 1})"


def dashes(number: int) -> str:
    """The `stroke-dasharray` of the line ``number``: empty for the first ones, whose colours differ."""
    return _DASHES[number // COLOURS % len(_DASHES)]


def number_text(value: float) -> str:
    """A figure in four significant digits: 0.1235, 1.235e-05, 12350."""
    return f"{value:.4g}" if abs(value) < 1e4 or abs(value) >= 1e7 else f"{value:.0f}"


def plot_svg(lines: Sequence[Line], title: str, x_name: str = "step") -> str:
    """The chart as an `<svg>` with its points as JSON beside it.

    Args:
        lines: at least one, each with a point.
        title: for who does not see the picture; what the lines do is added.
        x_name: of the horizontal axis.
    """
    shown = [_thinned(line) for line in lines]
    y_ticks, y_low, y_high = _axis([v for line in shown for v in (*line.ys, *line.low, *line.high, *line.faint)])
    left = 8 + _CHARACTER * max(len(_tick_text(tick)) for tick in y_ticks)
    xs = [value for line in shown for value in line.xs]
    room = 0.02 * (max(xs) - min(xs)) or 0.5
    x = _Scale(min(xs) - room, max(xs) + room, left, _WIDTH - _RIGHT)
    y = _Scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    x_ticks = _ticks(min(xs), max(xs), whole=x_name == "step")
    parts = [_grid(x, y, x_ticks, y_ticks), *(_draw(line, x, y) for line in shown)]
    points = {
        "x": [x_name, x.low, x.high, x.start, x.end],
        "y": [y.low, y.high, y.start, y.end],
        "lines": [_points(line) for line in shown],
    }
    described = f"{title}. " + "; ".join(map(_described, lines))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" tabindex="0" aria-label="{escaped(described)}" '
        f'data-plot="{escaped(json.dumps(points, separators=(",", ":")))}">{"".join(parts)}</svg>'
    )


def _described(line: Line) -> str:
    steps = line.steps or line.xs
    if len(line.ys) == 1:
        return f"{line.label}: {number_text(line.ys[0])} at step {steps[0]:g}"
    return (
        f"{line.label}: from {number_text(line.ys[0])} at step {steps[0]:g} to {number_text(line.ys[-1])} at step "
        f"{steps[-1]:g}"
    )


def _thinned(line: Line) -> Line:
    """At most so many points of the line as can be seen, the first and the last among them."""
    count = len(line.xs)
    if count <= _MOST_POINTS:
        return line
    kept = sorted({round(i * (count - 1) / (_MOST_POINTS - 1)) for i in range(_MOST_POINTS)})

    def at(values: Sequence[float]) -> list[float]:
        return [values[i] for i in kept] if values else []

    steps = [line.steps[i] for i in kept] if line.steps else []
    return Line(
        line.label, line.number, at(line.xs), at(line.ys), steps, at(line.low), at(line.high), at(line.faint), line.dots
    )


def _points(line: Line) -> dict[str, object]:
    """The line for page.js, as short as it gets."""
    found: dict[str, object] = {"label": line.label, "number": line.number, "x": _short(line.xs), "y": _short(line.ys)}
    if line.low:
        found |= {"low": _short(line.low), "high": _short(line.high)}
    return found | ({"steps": list(line.steps)} if line.steps else {})


def _short(values: Iterable[float]) -> list[float]:
    return [value if isinstance(value, int) else float(f"{value:.5g}") for value in values]


def _axis(values: Sequence[float]) -> tuple[list[float], float, float]:
    """Ticks of the vertical axis, and its ends: a little beyond the values."""
    low, high = min(values), max(values)
    if high - low <= _FLAT * abs(high):  # a constant, but for what a running mean rounds
        low = high
    room = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    return _ticks(low - room, high + room, whole=False), low - room, high + room


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Round numbers from ``low`` to ``high``, about five of them; whole ones only where asked for."""
    if high <= low:
        return [low]
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(float(round(step)), 1.0)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) and abs(value) < 1e7 else f"{value:.4g}"


def _grid(x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = []
    for tick in y_ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<path class="grid-line" d="M{x.start:.1f} {at}H{x.end:.1f}"/>')
        parts.append(f'<text x="{x.start - 5:.1f}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{_tick_text(tick)}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{_tick_text(tick)}</text>')
    return f'<g class="axes" aria-hidden="true">{"".join(parts)}</g>'


def _draw(line: Line, x: _Scale, y: _Scale) -> str:
    tint, dash = colour(line.number), dashes(line.number)
    parts = []
    if line.low:
        edge = _path(line.xs, line.high, x, y) + _path(line.xs[::-1], line.low[::-1], x, y).replace("M", "L", 1) + "Z"
        parts.append(f'<path d="{edge}" fill="{tint}" class="band"/>')
    if line.faint:
        parts.append(f'<path d="{_path(line.xs, line.faint, x, y)}" stroke="{tint}" class="faint"/>')
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(f'<path d="{_path(line.xs, line.ys, x, y)}" stroke="{tint}" class="curve"{dashed}/>')
    if line.dots or len(line.xs) == 1:
        parts += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.4" fill="{tint}"/>'
            for a, b in zip(line.xs, line.ys, strict=True)
        ]
    return f'<g data-line="{line.number}">{"".join(parts)}</g>'


def _path(xs: Sequence[float], ys: Sequence[float], x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(xs, ys, strict=True))
