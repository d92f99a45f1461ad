"""Rows from groups of users."""

import json
from collections import Counter

import pytest
from scoring import group

from stages.core.cli import UserError
from stages.pairs import crossed

SYSTEM = [{"role": "system", "content": "Be brief."}]


def data():
    return {"sft_train": [], "sft_val": [], "pairs_train": [], "pairs_val": []}


def test_what_a_reply_is_worth_in_itself_is_chosen_as_often_as_rejected():
    found, made = [group(n) for n in range(5)], data()
    counts = crossed.add_rows(made, found, SYSTEM, 0.2)
    users = sum(len(g["users"]) for g in found)
    assert counts == {"groups": 5, "held_out": 1, "sft": users, "pairs": 3 * users}
    pairs = made["pairs_train"] + made["pairs_val"]
    assert Counter(p["chosen"][0]["content"] for p in pairs) == Counter(p["rejected"][0]["content"] for p in pairs)
    assert {p["kind"] for p in pairs} == {"crossed"} and len(made["sft_val"]) == 4 and len(made["pairs_val"]) == 12


def test_a_row_is_the_users_history_the_message_and_its_own_reply():
    g, made = group(), data()
    crossed.add_rows(made, [g, group(1)], SYSTEM, 0.5)
    prompts = {json.dumps(r["prompt"]): r["completion"][0]["content"] for r in made["sft_train"] + made["sft_val"]}
    for u in g["users"]:
        prompt = [*SYSTEM, *u["history"], {"role": "user", "content": g["message"]}]
        assert prompts[json.dumps(prompt)] == u["reply"]


def test_a_group_is_in_one_part():
    made = data()
    with pytest.raises(UserError, match="1 groups, and val_share holds out 1"):
        crossed.add_rows(made, [group()], [], 0.3)
    crossed.add_rows(made, [{**group(n), "message": f"What {n}?"} for n in range(10)], [], 0.3)
    messages = [{r["prompt"][-1]["content"] for r in made[f"sft_{part}"]} for part in ("train", "val")]
    assert not messages[0] & messages[1] and [len(m) for m in messages] == [7, 3]


def test_more_groups_keep_the_ones_before():
    found = [{**group(n), "group": f"g{n}"} for n in range(9)]
    few, more = crossed.drawn(found, 3, seed=1), crossed.drawn(found[::-1], 5, seed=1)
    assert few == more[:3] and len(more) == 5 and len(crossed.drawn(found, None, seed=1)) == 9
    assert few != crossed.drawn(found, 3, seed=2)


def test_a_folder_without_groups_gives_none_and_a_broken_group_one_line(tmp_path):
    assert crossed.read(tmp_path) == []
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(group()))
    with pytest.raises(UserError, match=r"b\.jsonl: group g0 is in another file, too"):
        crossed.read(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "g.jsonl").write_text(json.dumps({**group(), "users": []}))
    with pytest.raises(UserError, match=r"g.jsonl:1: `users` must be a list"):
        crossed.read(tmp_path)
