"""Measures of pools, on texts and vectors whose answer is known."""

import numpy as np
import pytest
from fakes import unit

from stages.text import diversity


def test_effective_number_counts_what_differs():
    axes = np.eye(8, dtype=np.float32)
    assert diversity.effective_number(axes[:5]) == pytest.approx(5, abs=0.01)
    assert diversity.effective_number(np.repeat(axes[:1], 9, 0)) == pytest.approx(1, abs=0.01)
    assert diversity.effective_number(np.repeat(axes[:3], 20, 0)) == pytest.approx(3, abs=0.01)


def test_nearest_cosine_leaves_the_text_itself_out():
    assert diversity.nearest_cosines(unit([[1, 0], [1, 0], [0, 1]])) == pytest.approx([1, 1, 0])


def test_distinct_n():
    assert diversity.distinct(["a b a b", "c"], 1) == 3 / 5
    assert diversity.distinct(["a b a b"], 2) == round(2 / 3, 4) and diversity.distinct(["a"], 3) == 0


def test_coverage_of_seed_categories():
    vectors = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.1, 0], [1, 0, 0.1]])
    found = diversity.measure(list("abcde"), vectors, 3, ["x", "y", "z"])
    assert found["categories_covered"] == round(1 / 3, 4)
    assert found["generated_by_nearest_category"] == {"x": 2, "y": 0, "z": 0}


def test_the_plane_is_the_same_whatever_the_sign_of_the_axes():
    x = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32)
    assert diversity.plane(x).shape == (30, 2) and diversity.plane(x[:1]).shape == (1, 2)
    assert np.allclose(diversity.plane(x[::-1]), diversity.plane(x)[::-1], atol=1e-6)
    assert np.var(diversity.plane(x)[:, 0]) >= np.var(diversity.plane(x)[:, 1])


def test_spread_and_histogram():
    assert diversity.spread([0, 1, 2, 3, 4]) == {"mean": 2.0, "p5": 0.2, "p50": 2.0, "p95": 3.8}
    rows = diversity.histogram({"a": [0.1, 0.2, 0.9], "b": []}, [0.0, 0.5, 1.0], "cosine")
    assert rows == [{"cosine": 0.0, "a": 0.6667, "b": 0.0}, {"cosine": 0.5, "a": 0.3333, "b": 0.0}]
