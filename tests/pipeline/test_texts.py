"""The texts written for this project keep the form that their data cards state."""

import json
import re
from collections import Counter

import pytest
from conftest import ROOT

from stages.dialogue import tree


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / path).read_text().splitlines()]


TREES = rows("data/natural/trees.jsonl")
GROUPS = rows("data/crossed/groups.jsonl")


def test_natural_trees_are_trees():
    found = tree.read_trees(ROOT / "data/natural/trees.jsonl")
    assert len(found) == len({t["id"] for t in found}) == len({t["profile"] for t in found}) >= 120
    assert sum(len(list(tree.decisions(t))) for t in found) >= 600


@pytest.mark.parametrize("t", TREES, ids=lambda t: t["id"])
def test_a_note_grows_by_quotes_of_the_user(t):
    nodes = tree.index(t)
    users = [n for n in t["nodes"] if n["role"] == "user"]
    assert 4 <= len(users) <= 5
    for node in users:
        before = tree.parent(node["id"])
        earlier = next((n["note"] for n in reversed(tree.path(nodes, before)) if n["role"] == "user"), [])
        new = [q["item"] for q in node["quotes"]]
        assert sorted([*earlier, *new]) == node["note"] and len(set(node["note"])) == len(node["note"])
        assert all(q["quote"] in node["text"] for q in node["quotes"]) and max(node["note"], default=0) < len(t["items"])
        assert before is None or nodes[before]["continues"], "the conversation goes on after the reply that continues"


def test_groups_for_crossed_choice():
    assert len(GROUPS) == len({g["message"] for g in GROUPS}) >= 60
    assert set(Counter(g["kind"] for g in GROUPS)) == {"temperament", "circumstances", "both"}
    for g in GROUPS:
        assert len(g["users"]) == 4 and len({u["id"] for u in g["users"]}) == 4
        words = [len(re.findall(r"[\w']+", u["reply"].replace("\u2019", "'"))) for u in g["users"]]
        mean = sum(words) / 4
        assert all(abs(n - mean) <= max(3, 0.15 * mean) for n in words), g["group"]
        for u in g["users"]:
            assert [m["role"] for m in u["history"]] == ["user", "assistant"] * (len(u["history"]) // 2)
            assert 3 <= len(u["history"]) // 2 <= 6 and u["reply"].strip()
