"""Figures of the report as SVG that stands inside a page: small multiples in black and greys, by dashes and markers.

The same data gives the same bytes: no date, ids from a fixed salt.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False,  # the name of a model is text
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.titlesize": 9,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y", "grid.color": "0.87", "legend.frameon": False,
    "legend.handlelength": 3.5, "lines.linewidth": 1.3, "lines.markersize": 3.5,
}  # fmt: skip
DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.5)), "chain": (0, (7, 2, 1.5, 2))}
WIDTH = 10.2  # inches


@dataclass(frozen=True)
class Line:
    """One curve by turn."""

    label: str
    values: Sequence[float | None]
    """From turn 1; None leaves a gap."""
    dash: str = "solid"
    """One of DASHES; a solid line has markers."""
    band: Sequence[Sequence[float | None]] = ()
    """(low, high) at each turn."""


@dataclass(frozen=True)
class Panel:
    """One small plot: curves, or bars at `places`."""

    title: str
    lines: Sequence[Line] = ()
    bars: Sequence[float] = ()
    places: Sequence[float] = ()


@dataclass(frozen=True)
class Strip:
    """One row of a dot plot: a dot a case, their mean and its interval."""

    label: str
    dots: Sequence[float]
    mean: float | None
    ci: Sequence[float | None]


def grid(panels: Sequence[Panel], x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]) -> str:
    """Small multiples with the same axes, four in a row, and the legend of the first one's curves below.

    Args:
        x, y: ends of the axes.
        labels: names of the axes.
    """
    rows, columns = -(-len(panels) // 4), min(4, len(panels))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * columns / 4, 1.75 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for n, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
            axis.set(title=panel.title, xlim=x, ylim=y)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if n + columns >= len(panels):  # nothing below
                axis.tick_params(labelbottom=True)
                axis.set_xlabel(labels[0])
            if n % columns == 0:
                axis.set_ylabel(labels[1])
            for line in panel.lines:
                _draw(axis, line)
            if panel.bars:
                width = 0.7 * (x[1] - x[0]) / len(panel.bars)
                axis.bar(panel.places, panel.bars, width, color="0.6", edgecolor="black", linewidth=0.8)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        if panels[0].lines:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=len(handles))
        return _svg(figure)


def _draw(axis: Axes, line: Line) -> None:
    """A band, and a line through the known values."""
    values = np.array(line.values, dtype=float)
    turns = np.arange(1, len(values) + 1)
    if line.band:
        low, high = np.array(line.band, dtype=float).T
        axis.fill_between(turns, low, high, color="0.85", linewidth=0, label="95 % interval")
    marker = "o" if line.dash == "solid" else None
    axis.plot(turns, values, color="black", linestyle=DASHES[line.dash], marker=marker, label=line.label, clip_on=False)


def strips(rows: Sequence[Strip], label: str) -> str:
    """Rows of dots over one axis with a rule at 0; the mean is a bar, its interval a thick line. `label`: of the axis."""
    span = 1.05 * max([0.1, *(abs(v) for r in rows for v in (*r.dots, r.mean, *r.ci) if v is not None)])
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH * 0.8, 0.34 * len(rows) + 0.7), layout="constrained")
        axis = figure.subplots()
        axis.axvline(0, color="black", linewidth=0.8, linestyle=DASHES["dashed"])
        for n, row in enumerate(rows):
            # the golden ratio spreads dots that would lie on each other
            spread = [n + ((i * 0.618) % 1 - 0.5) * 0.6 for i in range(len(row.dots))]
            axis.plot(row.dots, spread, "o", markerfacecolor="none", markeredgecolor="0.5")
            axis.plot(np.array(row.ci, dtype=float), [n, n], color="black", linewidth=2.5, solid_capstyle="butt")
            if row.mean is not None:
                axis.plot([row.mean], [n], "|", color="black", markersize=13, markeredgewidth=2.5)
        axis.set(xlim=(-span, span), ylim=(len(rows) - 0.5, -0.5), xlabel=label)
        axis.set_yticks(range(len(rows)), [row.label for row in rows], fontweight="bold")
        axis.tick_params(axis="y", length=0)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element without prolog, metadata and ids of groups, which would repeat in a page of several."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = out.getvalue()
    return re.sub(r'<g id="[^"]*"', "<g", drawn[drawn.index("<svg") :])
