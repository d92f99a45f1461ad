"""Figures of the report as SVG that stands inside a page: in black and greys, by dashes and markers.

The same data gives the same bytes: no date, ids from a fixed salt.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False,  # the name of a model is text
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.titlesize": 9,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.color": "0.87", "legend.frameon": False, "legend.handlelength": 3.5,
    "lines.color": "black", "lines.linewidth": 1.3, "lines.markersize": 3.5, "axes.prop_cycle": "cycler(color=['black'])",
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
class Point:
    """One row of a plot of values with their intervals."""

    label: str
    value: float
    ci: Sequence[float | None]
    filled: bool
    """Whether its marker is."""
    twin: float
    """The same without what is tested: a cross."""


def curves(panels: Mapping[str, Sequence[Line]], y: tuple[float, float], label: str) -> str:
    """Curves by turn: a panel a title, four in a row with the same axes, and one legend. `y`, `label`: of the y-axis."""
    count, columns = -(-len(panels) // 4), min(4, len(panels))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * columns / 4, 1.75 * count + 0.6), layout="constrained")
        axes = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axis, (title, lines) in zip(axes, panels.items(), strict=False):
            axis.set(title=title, ylim=y, xlabel="turn k", ylabel=label)
            axis.label_outer()
            axis.grid(axis="y")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            for line in lines:
                turns = range(1, len(line.values) + 1)
                if line.band:
                    low, high = np.array(line.band, dtype=float).T
                    axis.fill_between(turns, low, high, color="0.85", linewidth=0, label="95 % interval")
                values, marker = np.array(line.values, dtype=float), "o" if line.dash == "solid" else None
                axis.plot(turns, values, linestyle=DASHES[line.dash], marker=marker, label=line.label, clip_on=False)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return _svg(figure)


def points(rows: Sequence[Point], rules: Mapping[str, tuple[float, str]], label: str, filled: str, twin: str) -> str:
    """A row a point over one axis that ends at 1, with upright rules.

    Args:
        rules: (where, one of DASHES) by the name of each rule.
        label: of the axis; `filled` and `twin` say what a filled marker and a cross are.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.8, 0.26 * len(rows) + 1), layout="constrained")
        axis = figure.subplots()
        for name, (where, dash) in rules.items():
            axis.axvline(where, linewidth=1, linestyle=DASHES[dash], label=name)
        for n, row in enumerate(rows):
            axis.plot(np.array(row.ci, dtype=float), [n, n], linewidth=2)
            axis.plot([row.value], [n], "o", markersize=7, markerfacecolor="black" if row.filled else "white", clip_on=False)
            axis.plot([row.twin], [n], "x", markersize=6, markeredgewidth=1.5, clip_on=False)
            axis.annotate(f"{row.value:.2f}", (1.02, n), xycoords=("axes fraction", "data"), va="center")
        for marker, name, face in (("o", filled, "black"), ("o", f"not {filled}", "white"), ("x", twin, "black")):
            axis.plot([], [], marker, markersize=6, markerfacecolor=face, label=name)
        low = min([0.4, *(row.ci[0] for row in rows if row.ci[0] is not None), *(row.value for row in rows)])
        axis.set(xlim=(low, 1), ylim=(len(rows) - 0.5, -0.5), xlabel=label)
        axis.set_yticks(range(len(rows)), [row.label for row in rows], fontweight="bold")
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower center", ncols=5, handlelength=2, columnspacing=1.2)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element without prolog, metadata and ids of groups, which would repeat in a page of several."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = out.getvalue()
    return re.sub(r'<g id="[^"]*"', "<g", drawn[drawn.index("<svg") :])
