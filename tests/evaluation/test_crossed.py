"""Crossed choice: identities, planted models, and groups that cannot be crossed."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scoring import group, user

from stages.evaluation import crossed

SCORES = st.integers(2, 5).flatmap(lambda n: arrays(float, (n, n), elements=st.integers(-400, 0).map(lambda x: x / 4)))


@given(SCORES, st.randoms())
def test_the_order_of_users_changes_nothing(scores, rng):
    order = rng.sample(range(len(scores)), len(scores))
    assert crossed.pair_accuracy(scores[order][:, order]) == pytest.approx(crossed.pair_accuracy(scores))
    assert crossed.top1(scores[order][:, order]) == pytest.approx(crossed.top1(scores))


@given(SCORES, st.data())
def test_what_a_reply_is_worth_in_itself_changes_nothing(scores, data):
    worth = data.draw(arrays(float, len(scores), elements=st.floats(-50, 50)))
    assert crossed.pair_accuracy(scores + worth) == crossed.pair_accuracy(scores)
    assert crossed.top1(scores + worth) == crossed.top1(scores)


@given(st.integers(2, 6), st.data())
def test_a_model_that_ignores_the_history_is_at_chance_exactly(n, data):
    row = data.draw(arrays(float, n, elements=st.floats(-400, 0)))
    assert crossed.pair_accuracy(np.tile(row, (n, 1))) == 0.5
    assert crossed.top1(np.tile(row, (n, 1))) == pytest.approx(1 / n)


def test_adapting_flat_and_echoing_models_are_told_apart():
    """Replies of unlike length and echo: of user 0 the longest, of user 1 the one that everybody's history holds most of."""
    rng = np.random.default_rng(1)
    length, echo = np.array([-300.0, -100.0, -50.0, -80.0]), np.array([0.0, 90.0, 10.0, 5.0])

    def accuracy(fit, echoed):
        each = [length + echoed * echo * rng.uniform(0.5, 1.5, (4, 1)) + fit * np.eye(4) for _ in range(40)]
        return crossed.measured(crossed.by_group(each), 500, 1)

    adapting, flat, echoing = accuracy(5, 0), accuracy(0, 0), accuracy(0, 1)
    assert adapting["pair_accuracy"] == {"value": 1.0, "ci": [1.0, 1.0]} and adapting["top1"]["value"] == 1.0
    assert flat["pair_accuracy"] == {"value": 0.5, "ci": [0.5, 0.5]} and flat["top1"]["value"] == 0.25
    low, high = echoing["pair_accuracy"]["ci"]
    assert low < 0.5 < high and low > 0.3 and high < 0.7


def test_known_values():
    scores = np.array([[-1.0, -5.0, -9.0], [-2.0, -6.0, -9.0], [-1.0, -4.0, -8.0]])
    # pairs: 0 and 1: -7 and -7, a tie; 0 and 2: -9 over -10; 1 and 2: -14 and -13
    assert crossed.pair_accuracy(scores) == pytest.approx(0.5)
    assert crossed.top1(scores) == pytest.approx(1 / 3)  # rows less the columns' means: [+, 0, -], [-, -, -], [+, ++, ++]


def test_the_summary_holds_each_kind_and_each_reading():
    groups = [group(0, "both"), group(1, "both"), group(2, "temperament")]
    right, equal = np.eye(4), np.zeros((4, 4))
    found = crossed.summary(groups, {"history": [right, equal, right], "no_history": [equal] * 3}, 200, 1)
    assert found["pair_accuracy"]["value"] == 0.8333 and found["by_kind"]["both"]["pair_accuracy"]["value"] == 0.75
    assert found["twins"]["no_history"]["pair_accuracy"] == {"value": 0.5, "ci": [0.5, 0.5]}
    assert found["overlap"]["pair_accuracy"]["value"] == 1.0, "these replies name what their own user likes"
    assert (found["groups"], found["pairs"], found["chance"]["top1"]) == (3, 18, 0.25)
    (row, *_) = crossed.rows(groups, {"history": [right, equal, right]})
    assert row["users"] == ["u0", "u1", "u2", "u3"] and row["log_probs"]["history"] == right.tolist() and row["top1"] == 1


def test_readings_cut_a_history_at_its_exchanges():
    history = user(0)["history"]
    assert crossed.seen(history, "none") == [] and crossed.seen(history, "history") == history
    assert crossed.seen(history, "first_1") == history[:2] and crossed.seen(history, "last_1") == history[2:]
    assert crossed.seen(history, "last_9") == crossed.seen(history, "first_9") == history
    assert crossed.curve([group()]) == ["first_1", "last_1"]
    assert crossed.seen([], "history") == crossed.seen([], "last_1") == [], "a user of whom nothing was seen"


def test_the_best_replies_are_those_that_top1_counts():
    draw = random.Random(1)
    for _ in range(50):
        scores = np.array([[draw.choice((-3.0, -2.0, -1.5)) for _ in range(3)] for _ in range(3)])
        margins = scores - scores.mean(0)
        for row, best in zip(margins, crossed.best(scores), strict=True):
            assert {*np.flatnonzero(best)} == {j for j in range(3) if row[j] > row.max() - 1e-8}
        assert crossed.top1(scores) == pytest.approx(np.mean([b[i] / b.sum() for i, b in enumerate(crossed.best(scores))]))


def test_fewer_groups_are_alike_by_kind():
    kinds = ["a", "a", "a", "b", "b", "c"]
    groups = [group(n, kind) for n, kind in enumerate(kinds)]
    assert [g["group"] for g in crossed.most(groups, 4)] == ["g0", "g1", "g3", "g5"]
    assert crossed.most(groups, 99) == groups


def test_a_gain_is_on_the_groups_that_both_have():
    first, second = {"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.5, "b": 0.5, "x": 1.0}
    assert crossed.gain(first, second, 100, 1)["difference"] == 0.25


def test_arms_are_compared_with_base_on_the_groups_that_both_have():
    groups, right, equal, wrong = [group(n) for n in range(8)], np.eye(4), np.zeros((4, 4)), -np.eye(4)

    def rows(matrices, some=groups):
        found = crossed.rows(some, {"history": matrices, "no_history": [equal] * len(some)})
        return [{**r, "log_probs": {k: np.array(m) for k, m in r["log_probs"].items()}} for r in found]

    arms = {"base": rows([equal] * 8), "dpo": rows([right] * 8), "sft": rows([wrong] * 7, groups[1:]), "critique": []}
    found = crossed.compared(arms, "base", 200, 1)
    assert set(found["models"]) == {"base", "dpo", "sft"} and set(found["vs_base"]) == {"dpo", "sft"}
    assert found["models"]["dpo"]["no_history"]["pair_accuracy"]["value"] == 0.5
    gain = found["vs_base"]["dpo"]
    assert (gain["difference"], gain["ci"]) == (0.5, [0.5, 0.5])
    assert gain["p"] == pytest.approx(2 / 2**8, abs=1e-6) and gain["p_holm"] == pytest.approx(4 / 2**8, abs=1e-5)
    assert found["vs_base"]["sft"]["difference"] == -0.5 and found["vs_base"]["sft"]["p"] == 2 / 2**7
    assert found["about"]["overlap"]["pair_accuracy"]["value"] == 1.0 and found["about"]["top1_chance"] == 0.25
    assert crossed.compared({"base": []}, "base", 10, 1) == {"models": {}, "vs_base": {}, "about": None}
