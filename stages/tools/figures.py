"""Figures as SVG text that stands inside a page: black, white and greys, told apart by dashes and markers.

Written here, not by a plotting library, as none is among the requirements and two kinds of figure are all that is needed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

PANEL, GAP, TOP, LEFT = (190, 130), (34, 46), 26, 52  # width and height of a panel, space between them and at the edges
DASHES = {"solid": "", "dashed": "6 3", "dotted": "2 2.5", "chain": "9 3 2 3"}


@dataclass(frozen=True)
class Line:
    """One curve by turn: `values` from turn 1, None leaves a gap; `band`: (low, high) at each turn."""

    label: str
    values: Sequence[float | None]
    dash: str = "solid"
    marker: bool = False
    band: Sequence[Sequence[float | None]] = ()


@dataclass(frozen=True)
class Panel:
    """One small plot: curves, or bars at `places`."""

    title: str
    lines: Sequence[Line] = ()
    bars: Sequence[float] = ()
    places: Sequence[float] = ()


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most so many."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * f for f in (1, 2, 2.5, 5, 10) if (high - low) / (step * f) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, more: str = 'stroke="#000"') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def _svg(width: float, height: float, body: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" font-family="sans-serif" font-size="11"><title>{escape(title)}</title>{"".join(body)}</svg>'
    )


def _runs(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Pieces between the gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [r for r in runs if r]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def grid(
    title: str,
    panels: Sequence[Panel],
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str,
    y_label: str,
    columns: int = 4,
) -> str:
    """Small plots side by side with the same axes, and the legend of the first one's curves below."""
    (width, height), (gap_x, gap_y) = PANEL, GAP
    columns = min(columns, len(panels))
    body: list[str] = []
    for n, panel in enumerate(panels):
        left, top = LEFT + (n % columns) * (width + gap_x), TOP + (n // columns) * (height + gap_y)

        def at(a: float, b: float, left: float = left, top: float = top) -> tuple[float, float]:
            return left + (a - x[0]) / (x[1] - x[0]) * width, top + height - (b - y[0]) / (y[1] - y[0]) * height

        body.append(_text(left, top - 8, panel.title, "start", 'font-weight="bold" font-size="12"'))
        for value in ticks(*y):
            _, level = at(x[0], value)
            body.append(_rule(left, level, left + width, level, 'stroke="#ddd"'))
            body.append(_text(left - 5, level + 4, f"{value:g}", "end"))
        for value in ticks(*x):
            place, _ = at(value, y[0])
            body.append(_rule(place, top + height, place, top + height + 4))
            body.append(_text(place, top + height + 15, f"{value:g}"))
        for value, place in zip(panel.bars, panel.places, strict=True):
            (centre, high), (_, low) = at(place, value), at(place, y[0])
            wide = 0.7 * width / len(panel.bars)
            shape = f'x="{centre - wide / 2:.1f}" y="{high:.1f}" width="{wide:.1f}" height="{low - high:.1f}"'
            body.append(f'<rect {shape} fill="#777" stroke="#000"/>')
        for line in panel.lines:
            body += _curve(line, at)
        body.append(f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="#000"/>')
    bottom = TOP + math.ceil(len(panels) / columns) * (height + gap_y)
    whole = LEFT + columns * (width + gap_x)
    body.append(_text(LEFT, bottom - 8, x_label, "start"))
    body.append(_text(14, TOP + height / 2, y_label, more=f'transform="rotate(-90 14 {TOP + height / 2:.0f})"'))
    end = LEFT
    for line in panels[0].lines:
        drawn = Line("", [0, 0], line.dash, line.marker, [(-0.5, 0.5)] * 2 if line.band else ())

        def on_legend(a: float, b: float, start: int = end) -> tuple[float, float]:
            return start + 30 * (a - 1), bottom + 10 - 12 * b

        body += _curve(drawn, on_legend)
        body.append(_text(end + 40, bottom + 14, line.label, "start"))
        end += 60 + int(6.2 * len(line.label))
    return _svg(max(whole, end), bottom + (26 if panels[0].lines else 0), body, title)


def _curve(line: Line, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """A band, a line through the known values and markers on them."""
    drawn = []
    ends = [(k, (low, high)) for k, (low, high) in enumerate(line.band, 1) if low is not None and high is not None]
    if ends:
        around = [at(k, low) for k, (low, _) in ends] + [at(k, high) for k, (_, high) in reversed(ends)]
        drawn.append(f'<polygon points="{_path(around)}" fill="#000" fill-opacity="0.15"/>')
    for run in _runs([None if v is None else at(k, v) for k, v in enumerate(line.values, 1)]):
        dash = f' stroke-dasharray="{DASHES[line.dash]}"' if DASHES[line.dash] else ""
        drawn.append(f'<polyline points="{_path(run)}" fill="none" stroke="#000" stroke-width="1.5"{dash}/>')
        if line.marker:
            drawn += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in run]
    return drawn


@dataclass(frozen=True)
class Strip:
    """One row of a dot plot: a dot a case, their mean and its interval."""

    label: str
    dots: Sequence[float]
    mean: float | None
    ci: Sequence[float | None]


def strips(title: str, rows: Sequence[Strip], x_label: str) -> str:
    """Rows of dots over one axis with a rule at 0; the mean is a bar, its interval a thick line."""
    values = [v for r in rows for v in (*r.dots, r.mean, *r.ci, 0.0) if v is not None]
    span = max(max(map(abs, values)), 0.1) * 1.05
    left, width, high = 130, 640, 34
    bottom = TOP + high * len(rows)

    def at(value: float) -> float:
        return left + (value + span) / (2 * span) * width

    body = [_rule(at(0), TOP, at(0), bottom, 'stroke="#000" stroke-dasharray="4 3"')]
    for n, row in enumerate(rows):
        middle = TOP + high * (n + 0.5)
        body.append(_text(left - 10, middle + 4, row.label, "end", 'font-weight="bold"'))
        body.append(_rule(left, middle + high / 2, left + width, middle + high / 2, 'stroke="#ddd"'))
        for i, dot in enumerate(row.dots):  # the golden ratio spreads dots that would lie on each other
            shift = ((i * 0.618) % 1 - 0.5) * 0.7 * high
            body.append(f'<circle cx="{at(dot):.1f}" cy="{middle + shift:.1f}" r="2.8" fill="none" stroke="#777"/>')
        if row.ci[0] is not None and row.ci[1] is not None:
            body.append(_rule(at(row.ci[0]), middle, at(row.ci[1]), middle, 'stroke="#000" stroke-width="3"'))
        if row.mean is not None:
            body.append(_rule(at(row.mean), middle - 10, at(row.mean), middle + 10, 'stroke="#000" stroke-width="3"'))
    for value in ticks(-span, span, 9):
        body.append(_rule(at(value), bottom, at(value), bottom + 4))
        body.append(_text(at(value), bottom + 16, f"{value:g}"))
    body.append(_rule(left, bottom, left + width, bottom))
    body.append(_text(left + width / 2, bottom + 34, x_label))
    return _svg(left + width + 20, bottom + 44, body, title)
