"""Statistics: bootstrap of clusters, intervals, sign flips, Holm, Krippendorff's alpha."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import statistics

NAN = math.nan


def test_bootstrap_draws_whole_clusters():
    times = statistics.resamples(3, 500, seed=1)
    assert times.shape == (500, 3) and set(times.sum(1).tolist()) == {3} and len(np.unique(times, axis=0)) == 10
    sums, counts = np.array([[4.0, 2.0], [5.0, 0.0], [2.0, 2.0]]), np.array([[2.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    drawn = statistics.resampled_means(sums, counts, 500, seed=1)
    assert np.allclose(drawn[:, 0], times @ sums[:, 0] / (times @ counts[:, 0]))
    nothing = times[:, 1] == 3  # the second cluster alone, which has no value
    assert nothing.any() and np.isnan(drawn[:, 1])[nothing].all() and not np.isnan(drawn[:, 1])[~nothing].any()
    assert np.allclose(statistics.resampled_means(sums[:, 0], counts[:, 0], 500, seed=1), drawn[:, 0])


def test_fewer_clusters_give_wider_intervals():
    values = np.random.default_rng(1).normal(size=100_000)
    widths = [np.diff(statistics.interval(values, clusters))[0] for clusters in (3, 10, 20, 10**6)]
    assert widths == sorted(widths, reverse=True) and widths[-1] == pytest.approx(2 * 1.96, abs=0.05)
    assert widths[2] == pytest.approx(2 * 2.093 * math.sqrt(20 / 19), abs=0.05)  # Student's t with 19 degrees of freedom
    assert statistics.interval(values, 1) == [None, None] and statistics.interval(np.array([NAN]), 9) == [None, None]


@given(st.lists(st.floats(-4, 4).map(lambda v: round(v, 3)), min_size=1, max_size=7), st.integers(1, 3))
@settings(max_examples=30)
def test_sign_flips_of_few_clusters_are_exact(effects, per_cluster):
    clusters = [str(n) for n in range(len(effects)) for _ in range(per_cluster)]
    differences = np.repeat(np.array(effects), per_cluster)[:, None] * np.ones((1, 2))
    flips = [abs(sum(s * e for s, e in zip(signs, effects, strict=True))) for signs in product((1, -1), repeat=len(effects))]
    expected = sum(f >= abs(sum(effects)) - 1e-9 for f in flips) / len(flips)
    assert statistics.sign_flip(differences, clusters, 10, 1) == expected


def test_sign_flips_of_many_clusters_are_drawn_and_never_give_zero():
    rng = np.random.default_rng(1)
    clusters = [str(n // 2) for n in range(40)]
    assert statistics.sign_flip(np.ones((40, 3)), clusters, 999, 1) == 1 / 1000
    noise = rng.normal(size=(40, 3))
    assert 0.02 < statistics.sign_flip(noise - noise.mean(), clusters, 999, 1) <= 1
    assert statistics.sign_flip(np.full((4, 2), NAN), list("abcd"), 9, 1) is None
    assert statistics.sign_flip(np.zeros((4, 2)), list("abcd"), 9, 1) == 1.0


def test_p_values_are_uniform_where_nothing_is_planted():
    rng = np.random.default_rng(2)
    clusters = [str(n // 3) for n in range(24)]
    drawn = []
    for _ in range(400):
        drawn.append(statistics.sign_flip(rng.normal(0, 1, (8, 1)).repeat(3, 0) + rng.normal(0, 1, (24, 1)), clusters, 0, 1))
    assert 0.02 <= np.mean(np.array(drawn) <= 0.05) <= 0.08 and 0.4 <= np.mean(np.array(drawn) <= 0.5) <= 0.6


def test_holm():
    assert statistics.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06], nan_ok=True)
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0] and statistics.holm([]) == []


def test_krippendorffs_own_example():
    """Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: four observers, twelve units, interval 0.849."""
    observers = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    ratings = np.array([[NAN if v == "." else float(v) for v in o.split()] for o in observers]).T
    assert statistics.krippendorff_alpha(ratings) == pytest.approx(0.849, abs=5e-4)
    assert statistics.krippendorff_alpha(ratings[:, [0, 0]]) == 1.0
    assert statistics.krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2.0]])) is None
    assert statistics.krippendorff_alpha(np.ones((3, 2))) is None


def test_alpha_of_two_raters_is_that_of_the_definition():
    """One less the squared difference within units over that of all pairs of values."""
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 3.0, 3.0, 4.0, 4.0]
    pairs = [(x - y) ** 2 for i, x in enumerate(a + b) for j, y in enumerate(a + b) if i != j]
    within = [(x - y) ** 2 for x, y in zip(a, b, strict=True)]
    assert statistics.krippendorff_alpha(np.array([a, b]).T) == pytest.approx(1 - np.mean(within) / np.mean(pairs))
    assert statistics.krippendorff_alpha(np.array([a, a[::-1]]).T) < 0


def test_complete_cases_and_rounding():
    a, b = statistics.complete_cases(np.array([1.0, NAN, 3.0]), np.array([NAN, 2.0, 4.0]))
    assert np.isnan(a[:2]).all() and np.isnan(b[:2]).all() and (a[2], b[2]) == (3, 4)
    assert statistics.rounded(np.array([[1.23456, NAN]])) == [[1.2346, None]] and statistics.rounded(NAN) is None
