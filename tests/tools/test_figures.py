"""Figures: SVG that can stand in a page, in greys, with gaps, the same bytes for the same data."""

import re
from xml.etree import ElementTree

import pytest

from stages.tools.figures import Line, Point, curves, points

pytestmark = pytest.mark.slow

NAME = "<b> & $x_1$ |"  # a model's name that HTML, LaTeX and Markdown would read


def parsed(svg):
    return ElementTree.fromstring(svg)


def texts(svg):
    return ["".join(e.itertext()) for e in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


def drawn(name="model"):
    own = Line("own", [1, None, 2, 3], band=[(0, 1), (None, None), (1, 2), (2, 4)])
    return curves({name: [own, Line("base", [2, 2, 2, 2], "dashed")], **{f"m{n}": [] for n in range(5)}}, (1, 5), "score")


def plotted():
    rows = [Point(NAME, 0.75, [0.5, 1.0], True, 0.5), Point("low", 0.125, [0.0, 0.25], False, 0.5)]
    return points(rows, {"chance": (0.5, "dashed")}, "pairs", "better", "without")


def test_points_and_what_their_marks_say():
    assert set(texts(plotted())) >= {
        NAME,
        "low",
        "0.75",
        "0.12",
        "chance",
        "pairs",
        "better",
        "not better",
        "without",
        "0.0",
    }


def test_a_figure_stands_in_a_page():
    svg = drawn(NAME)
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert set(texts(svg)) >= {NAME, "own", "base", "95 % interval", "turn k", "score"}
    ids = re.findall(r'id="([^"]+)"', svg)
    assert all(svg.count(f"#{name}") for name in ids), "only what is referred to has an id, as a page has several figures"
    assert "://" not in svg.replace("http://www.w3.org/", "")


def test_figures_are_black_and_white():
    for svg in (drawn(), plotted()):
        colours = set(re.findall(r"(?:stroke|fill): #(\w+)", svg))
        assert len(colours) > 1 and all(len({c[:2], c[2:4], c[4:]}) == 1 for c in colours), colours


def test_the_same_data_gives_the_same_bytes():
    assert drawn() == drawn() and drawn() != drawn("another")


def test_nothing_known_is_drawn_as_nothing():
    parsed(curves({"p": [Line("a", [None])]}, (0, 1), "y"))
    assert "m" in texts(points([Point("m", 0.5, [None, None], False, 0.5)], {}, "x", "better", "twin"))
