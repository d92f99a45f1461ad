"""Rows of other data among the pipeline's own: shares, stable draws, faults."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.cli import UserError
from stages.training.dataset import mixed


def row(i, kind="own"):
    said = [{"role": "user", "content": f"{kind} {i}"}]
    return {"prompt": said, "completion": [{"role": "assistant", "content": "x"}]}


OWN = [row(i) for i in range(30)]
CHAT, CODE = Path("mix/chat.jsonl"), Path("mix/code.jsonl")
EXTRA = {CHAT: [row(i, "chat") for i in range(40)], CODE: [row(i, "code") for i in range(40)]}


def count(rows, kind):
    return sum(r["prompt"][0]["content"].startswith(kind) for r in rows)


def test_each_file_makes_up_its_share_of_all_rows():
    rows = mixed(OWN, EXTRA, {"chat": 0.3, "code": 0.2}, 1)
    assert rows[:30] == OWN and len(rows) == 60
    assert (count(rows, "chat"), count(rows, "code")) == (18, 12)


def test_nothing_is_added_without_a_share():
    assert mixed(OWN, {}, {}, 1) == OWN
    assert mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": 0.0}, 1) == OWN


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99), st.randoms())
def test_a_greater_share_or_file_keeps_what_was_drawn(a, b, seed, random):
    small, great = (mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": s}, seed) for s in sorted((a, b)))
    assert great[: len(small)] == small
    shuffled = random.sample(EXTRA[CHAT], len(EXTRA[CHAT]))
    assert mixed(OWN, {CHAT: shuffled}, {"chat": max(a, b)}, seed) == great, "the order of lines does not matter"


def test_the_seed_decides_which_rows_are_drawn():
    draws = [json.dumps(mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": 0.3}, seed)) for seed in range(5)]
    assert len(set(draws)) == 5


def test_a_file_too_small_says_what_it_could_fill():
    few = {CHAT: EXTRA[CHAT][:10], CODE: EXTRA[CODE]}
    with pytest.raises(UserError, match=r"chat\.jsonl: sft\.mix\.chat = 0\.4 needs 30 rows beside 30 .* has 10") as e:
        mixed(OWN, few, {"chat": 0.4, "code": 0.2}, 1)
    share = float(str(e.value).rpartition(" ")[2])
    assert 0.19 < share <= 0.2
    assert count(mixed(OWN, few, {"chat": share, "code": 0.2}, 1), "chat") == 10
