"""Rows of other data among the pipeline's own: shares, stable draws, faults."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.cli import UserError
from stages.training import mix


def row(i, kind="own"):
    said = [{"role": "user", "content": f"{kind} {i}"}]
    return {"prompt": said, "completion": [{"role": "assistant", "content": "x"}]}


OWN = [row(i) for i in range(30)]
CHAT, CODE = Path("mix/chat.jsonl"), Path("mix/code.jsonl")
EXTRA = {CHAT: [row(i, "chat") for i in range(40)], CODE: [row(i, "code") for i in range(40)]}


def count(rows, kind):
    return sum(r["prompt"][0]["content"].startswith(kind) for r in rows)


def test_each_file_makes_up_its_share_of_all_rows():
    rows = mix.mixed(OWN, EXTRA, {"chat": 0.3, "code": 0.2}, 1)
    assert rows[:30] == OWN and len(rows) == 60
    assert (count(rows, "chat"), count(rows, "code")) == (18, 12)


def test_nothing_is_added_without_a_share():
    assert mix.mixed(OWN, {}, {}, 1) == OWN
    assert mix.mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": 0.0}, 1) == OWN


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99), st.randoms())
def test_a_greater_share_or_file_keeps_what_was_drawn(a, b, seed, random):
    small, great = (mix.mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": s}, seed) for s in sorted((a, b)))
    assert great[: len(small)] == small
    shuffled = random.sample(EXTRA[CHAT], len(EXTRA[CHAT]))
    assert mix.mixed(OWN, {CHAT: shuffled}, {"chat": max(a, b)}, seed) == great, "the order of lines does not matter"


def test_the_seed_decides_which_rows_are_drawn():
    draws = [json.dumps(mix.mixed(OWN, {CHAT: EXTRA[CHAT]}, {"chat": 0.3}, seed)) for seed in range(5)]
    assert len(set(draws)) == 5


def test_a_file_too_small_says_what_it_could_fill():
    few = {CHAT: EXTRA[CHAT][:10], CODE: EXTRA[CODE]}
    with pytest.raises(UserError, match=r"chat\.jsonl: sft\.mix\.chat = 0\.4 needs 30 rows beside 30 .* has 10") as e:
        mix.mixed(OWN, few, {"chat": 0.4, "code": 0.2}, 1)
    share = float(str(e.value).rpartition(" ")[2])
    assert 0.19 < share <= 0.2
    assert count(mix.mixed(OWN, few, {"chat": share, "code": 0.2}, 1), "chat") == 10


def test_rows_of_messages_train_the_last_reply(tmp_path):
    talk = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    (tmp_path / "own.jsonl").write_text("\n".join([json.dumps({"messages": talk, "id": 7}), "", json.dumps(row(1))]))
    found = list(mix.read(mix.source(tmp_path, "own")))
    assert found == [(1, {"prompt": talk[:3], "completion": talk[3:]}), (3, row(1))]


@pytest.mark.parametrize(
    "line, text",
    [({"messages": []}, "`messages` must be a list of messages"), ({"prompt": "a", "completion": "b"}, "`prompt` must be"),
     ({"messages": [{"role": "user", "content": "a"}]}, "must end with a reply"), (["x"], "`prompt`"),
     ({"messages": [{"role": "assistant", "content": "a"}]}, "must end with a reply"), ({"text": "a"}, "`prompt`")],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_line(tmp_path, line, text):
    (tmp_path / "own.jsonl").write_text(json.dumps(row(1)) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r"own\.jsonl:2: .*" + text):
        list(mix.read(tmp_path / "own.jsonl"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"own\.jsonl: no such file, but sft\.mix\.own"):
        mix.source(tmp_path, "own")
