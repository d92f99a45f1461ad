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
TRAIN = rows("data/crossed/train.jsonl")
PROBES = rows("data/probes/messages.jsonl")


def test_natural_trees_are_trees():
    found = tree.read_trees(ROOT / "data/natural/trees.jsonl")
    assert len(found) == len({t["id"] for t in found}) == len({t["profile"] for t in found}) >= 120
    assert sum(len(list(tree.decisions(t))) for t in found) >= 600


def faults_of_notes(t: dict) -> list[str]:
    """Where a note does not grow by quotes of the user."""
    nodes = tree.index(t)
    users = [n for n in t["nodes"] if n["role"] == "user"]
    faults = [] if 4 <= len(users) <= 5 else ["number of turns"]
    for node in users:
        before = tree.parent(node["id"])
        earlier = next((n["note"] for n in reversed(tree.path(nodes, before)) if n["role"] == "user"), [])
        new = [q["item"] for q in node["quotes"]]
        right = {
            "note": sorted([*earlier, *new]) == node["note"] and len(set(node["note"])) == len(node["note"]),
            "quotes": all(q["quote"] in node["text"] for q in node["quotes"]),
            "items": max(node["note"], default=0) < len(t["items"]),
            "the conversation goes on after the reply that continues": before is None or nodes[before]["continues"],
        }
        faults += [f"{node['id']}: {what}" for what, holds in right.items() if not holds]
    return faults


def test_a_note_grows_by_quotes_of_the_user():
    assert {t["id"]: faults for t in TREES if (faults := faults_of_notes(t))} == {}
    broken = json.loads(json.dumps(TREES[0]))
    broken["nodes"][0]["note"] = [*broken["nodes"][0]["note"], 99]
    assert faults_of_notes(broken)


@pytest.mark.parametrize("groups, least", [(GROUPS, 60), (TRAIN, 110)], ids=["groups", "train"])
def test_groups_for_crossed_choice(groups, least):
    assert len(groups) == len({g["group"] for g in groups}) == len({g["message"] for g in groups}) >= least
    assert set(Counter(g["kind"] for g in groups)) == {"temperament", "circumstances", "both"}
    for g in groups:
        assert len(g["users"]) == 4 and len({u["id"] for u in g["users"]}) == 4
        words = [len(re.findall(r"[\w']+", u["reply"].replace("\u2019", "'"))) for u in g["users"]]
        mean = sum(words) / 4
        assert all(abs(n - mean) <= max(3, 0.15 * mean) for n in words), g["group"]
        for u in g["users"]:
            assert [m["role"] for m in u["history"]] == ["user", "assistant"] * (len(u["history"]) // 2)
            assert 3 <= len(u["history"]) // 2 <= 6 and u["reply"].strip()


def test_groups_for_training_share_no_text_with_those_for_evaluation():
    def texts(groups):
        return {" ".join(t.split()) for g in groups for t in (g["message"], *(u["reply"] for u in g["users"]))}

    assert len(texts(TRAIN)) == 5 * len(TRAIN) and not texts(TRAIN) & texts(GROUPS)


def test_probes():
    assert len(PROBES) == len({p["id"] for p in PROBES}) == len({" ".join(p["message"].split()) for p in PROBES}) >= 40
    assert all({*p} == {"id", "kind", "message"} and p["message"].strip() for p in PROBES)
