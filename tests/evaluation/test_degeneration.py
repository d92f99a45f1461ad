"""Degeneration of replies: length, repetition, loops, echo, distinct-n."""

import numpy as np
import pytest

from stages.evaluation.degeneration import by_reply, distinct_shares

TURNS = [
    {"turn": 1, "user": "I like red apples.", "reply": "You like red apples, like red apples."},
    {"turn": 2, "user": "Yes.", "reply": "You like red apples, like red apples."},
    {"turn": 4, "user": "No.", "reply": "Eat pears."},
]


def test_each_reply_beside_itself_the_message_and_earlier_replies():
    found = by_reply({"c": {"turns": TURNS}}, ["c", "not there"], 3)
    assert all(np.isnan(values[1]).all() and np.isnan(values[0, 2]) for values in found.values()), "turn 4 is beyond"
    assert found["words"][0, :2].tolist() == [7, 7] and found["repetition"][0, 0] == pytest.approx(1 / 5)
    assert found["echo"][0, :2].tolist() == [2 / 5, 0]
    assert np.isnan(found["loops"][0, 0]) and np.isnan(found["repeats_earlier"][0, 0])
    assert found["loops"][0, 1] == found["repeats_earlier"][0, 1] == 1


def test_distinct_shares_are_over_all_replies():
    shares = distinct_shares({"c": {"turns": TURNS[:2]}, "d": {"turns": TURNS[2:]}})
    assert shares["distinct_1"] == round(6 / 16, 4) and shares["distinct_1"] < shares["distinct_2"]
