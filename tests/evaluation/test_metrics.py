"""Metrics: the identities of the method, comparisons of paired replies, and what a planted effect does to each measure."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.metrics import coverage
from stages.core import statistics
from stages.evaluation import metrics

NAN = math.nan
curves = st.lists(st.floats(1, 5), min_size=2, max_size=12)


@given(curves)
def test_r2_of_al_and_of_normalised_al_are_equal(al):
    assume(max(al) - min(al) > 1e-6)
    y = np.asarray(al)
    normal = (y - y.min()) / (y.max() - y.min())
    a, n = metrics.improvement(y), metrics.improvement(normal)
    assert a["r2"] == pytest.approx(n["r2"], abs=1e-6) and a["n_ir"] == pytest.approx(n["ir"], abs=1e-6)


@given(st.lists(st.floats(1, 5), min_size=10, max_size=10))
def test_bound_of_n_ir_at_ten_turns(al):
    n_ir = metrics.improvement(al)["n_ir"]
    assert n_ir is None or abs(n_ir) <= 0.1516


@given(curves, st.floats(0.1, 50), st.floats(-10, 100))
def test_n_ir_ignores_scale_and_level_and_ir_does_not(al, stretch, shift):
    assume(max(al) - min(al) > 1e-3)
    a, b = metrics.improvement(al), metrics.improvement([stretch * v + shift for v in al])
    assert b["n_ir"] == pytest.approx(a["n_ir"], abs=1e-6) and b["r2"] == pytest.approx(a["r2"], abs=1e-6)
    assert b["ir"] == pytest.approx(stretch * a["ir"], abs=1e-6)


@given(curves)
def test_slopes_of_many_curves_are_numpys(al):
    k = np.arange(1, len(al) + 1)
    expected = np.polyfit(k, al, 1)[0]
    assert metrics.slopes(np.array([al, al[::-1]])).tolist() == pytest.approx([expected, -expected], abs=1e-9)
    if max(al) - min(al) > 1e-6:
        assert metrics.improvement(al)["ir"] == pytest.approx(expected, abs=1e-9)


def test_linear_rise_and_flat_curve():
    rise = metrics.improvement(np.linspace(2, 4, 10))
    assert rise["n_ir"] == pytest.approx(1 / 9) and rise["r2"] == pytest.approx(1) and rise["ir"] == pytest.approx(2 / 9)
    flat = {"ir": 0.0, "n_ir": None, "r2": None}
    for al in (
        [3.0] * 10,
        [3] * 10,
        [0.1 + 0.2, 0.3, 0.3],
        [0, 0],
        [2.7, NAN, 2.7],
        [sum([0.1] * n) / n for n in (1, 3, 7)],
    ):
        assert metrics.improvement(al) == flat, al
    for al in ([], [3.0], [NAN, 3, None]):
        assert metrics.improvement(al) == {"ir": None, "n_ir": None, "r2": None}


def test_whole_numbers_two_turns_and_gaps():
    assert metrics.improvement([1, 2]) == {"ir": 1.0, "n_ir": 1.0, "r2": 1.0}
    assert metrics.improvement([5, 1])["n_ir"] == -1.0
    assert metrics.improvement([1, None, 3]) == metrics.improvement([1, NAN, 3]) == {"ir": 1.0, "n_ir": 0.5, "r2": 1.0}


def test_area_weighs_the_ends_by_half():
    assert metrics.area([1, 2, 3, 4]) == 2.5 and metrics.area([1, 5, 1]) == 3.0
    assert metrics.area([1, NAN, 3, 3]) == pytest.approx(7 / 3) and metrics.area([NAN, 2, 4]) == 3.0
    assert metrics.area([2]) is None and metrics.area([NAN, 2]) is None


def test_missing_turns_and_cases_are_left_out():
    scores = np.array([[1, 2, NAN], [3, NAN, NAN]])
    assert metrics.alignment(scores)[:2].tolist() == [2, 2] and np.isnan(metrics.alignment(scores)[2])
    assert metrics.improvement(metrics.alignment(scores))["ir"] == 0.0
    means, slopes = metrics.trajectories(scores)
    assert means.tolist() == [1.5, 3.0] and slopes[0] == 1.0 and np.isnan(slopes[1])


def test_bootstrap_draws_whole_profiles():
    times = statistics.resamples(3, 500, seed=1)
    scores = np.array([[1.0, 2.0], [3.0, NAN], [5.0, 1.0], [2.0, 2.0]])
    drawn = metrics.resampled_alignment(scores, ["a", "a", "b", "c"], 500, seed=1)
    cases = times[:, [0, 0, 1, 2]]
    assert np.allclose(drawn[:, 0], [np.average(scores[:, 0], weights=w) for w in cases])
    second = [np.average(scores[[0, 2, 3], 1], weights=w) if w.any() else NAN for w in cases[:, [0, 2, 3]]]
    assert np.allclose(drawn[:, 1], second, equal_nan=True)


def test_a_comparison_is_on_the_replies_both_have():
    a = np.array([[5.0, 1.0], [4.0, NAN], [NAN, NAN]])
    b = np.array([[1.0, NAN], [2.0, 5.0], [3.0, 3.0]])
    infer = metrics.Inference(["x", "y", "z"], 200, 1)
    value, ci = infer.estimate(metrics.difference, a, b)
    assert value == 3.0 and ci == [2.0, 4.0]
    assert infer.estimate(metrics.difference, a, b * NAN) == (None, [None, None])
    assert infer.estimate(metrics.curve, a)[0] == [4.5, 1.0]


def test_measures_of_two_and_three_curves():
    a, base, oracle = np.array([3.0, 4.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0])
    assert metrics.difference(a, base) == 1 and metrics.relative(a, base) == pytest.approx(0.4)
    assert metrics.share_of_gain(a, base, oracle) == 0.5
    assert np.isnan(metrics.share_of_gain(a, base, base)) and np.isnan(metrics.relative(a, base * 0))
    assert metrics.gain_of_personalisation(oracle, a, a, base) == 0


# a planted effect: what the models do to scores against the right and a wrong persona, by turn
PLANTED = {
    "base": ([2.5] * 10, [2.4] * 10),
    "flat": ([2.5] * 10, [2.4] * 10),
    "adapting": (np.linspace(2.5, 4.0, 10), [2.4] * 10),
    "decaying": (np.linspace(3.6, 2.4, 10), np.linspace(2.8, 2.3, 10)),
    "flattering": ([4.0] * 10, [3.9] * 10),  # liked by everybody, fits nobody
    "oracle": ([4.4] * 10, [2.4] * 10),
}


@pytest.fixture(scope="module")
def planted():
    """(profiles of 60 cases, {model: (scores against the right, against a wrong persona)}), noisy and clustered."""
    rng = np.random.default_rng(5)
    profiles = [str(n // 5) for n in range(60)]
    of_profile = rng.normal(0, 0.4, 12).repeat(5)[:, None]
    made = {}
    for model, both in PLANTED.items():
        own = of_profile + rng.normal(0, 0.15, 12).repeat(5)[:, None]
        made[model] = [np.clip(np.round(np.asarray(c) + own + rng.normal(0, 0.6, (60, 10))), 1, 5) for c in both]
    return profiles, made


def test_a_planted_effect_is_ranked_right_by_what_claims_to_see_it(planted):
    profiles, made = planted
    ir = {m: metrics.improvement(metrics.alignment(right))["ir"] for m, (right, _) in made.items()}
    assert ir["adapting"] > 0.1 > max(abs(ir["flat"]), abs(ir["flattering"])) and ir["decaying"] < -0.08
    infer = metrics.Inference(profiles, 1000, 1)
    _, (low, high) = infer.estimate(metrics.slopes, made["flattering"][0])
    assert low < 0 < high

    base, oracle = made["base"], made["oracle"]
    gains = {m: infer.estimate(metrics.difference, right, base[0]) for m, (right, _) in made.items()}
    assert gains["flattering"][1][0] > 0 and gains["adapting"][1][0] > 0 and gains["flat"][1][0] < 0 < gains["flat"][1][1]
    assert infer.p_value(made["adapting"][0] - base[0]) < 0.01
    assert infer.p_value(made["flat"][0] - base[0]) > 0.05

    # personalisation proper: flattery gained most of the score, and none of this
    proper = {m: infer.estimate(metrics.gain_of_personalisation, *both, *base) for m, both in made.items()}
    assert proper["oracle"][0] > proper["adapting"][0] > proper["decaying"][0] > proper["flattering"][0] + 0.1
    assert proper["flattering"][1][0] < 0 < proper["flattering"][1][1] and proper["adapting"][1][0] > 0

    shares = {m: infer.estimate(metrics.share_of_gain, right, base[0], oracle[0])[0] for m, (right, _) in made.items()}
    assert shares["oracle"] == 1 and shares["base"] == 0 and shares["adapting"] == pytest.approx(0.75 / 1.9, abs=0.1)


@pytest.mark.slow
def test_intervals_cover_the_truth_in_93_to_97_percent_of_samples():
    """20 profiles x 5 personalities; 1,500 draws leave a standard error of 0.6 points."""
    shares = coverage(profiles=20, draws=1500)
    assert len(shares) == 6
    for name, (_, expanded) in shares.items():
        assert 0.93 <= expanded <= 0.97, (name, expanded)
    assert np.mean([plain for plain, _ in shares.values()]) < np.mean([expanded for _, expanded in shares.values()])
