"""Extract pairs: labels, exact histories, splits, counts."""

import json
from collections import Counter

import pytest
from conftest import complains

from stages.common import tree
from stages.extract_pairs import label, rows

SYSTEM = [{"role": "system", "content": "S"}]


def a_tree(number=0, verdicts=(("preferred", "preferred"), ("rejected", "rejected"), ("preferred", "rejected"))):
    """Three turns: the rejected reply continues first, then the preferred one."""
    nodes, node_id = [], "u"
    for turn, (answers, onward) in enumerate(zip(verdicts, "rpp", strict=True), 1):
        nodes.append({"id": node_id, "turn": turn, "role": "user", "text": f"U{turn} of {number}", "item": 0, "note": [],
                      "verdicts": [{"chosen": a} for a in answers]})  # fmt: skip
        for name, role in tree.REPLIES.items():
            nodes.append({"id": f"{node_id}/{name}", "turn": turn, "role": role, "text": f"{role} {turn} of {number}"})
        node_id += f"/{onward}/u"
    return {"id": f"t{number}", "nodes": nodes}


def test_prompt_is_the_exact_path_and_chosen_is_the_verifiers_word():
    counts = Counter()
    sft, pairs = rows(a_tree(), SYSTEM, "drop", counts)
    assert [p["chosen"][0]["content"] for p in pairs] == ["preferred 1 of 0", "rejected 2 of 0"]
    assert pairs[1]["prompt"] == [
        *SYSTEM,
        {"role": "user", "content": "U1 of 0"},
        {"role": "assistant", "content": "rejected 1 of 0"},
        {"role": "user", "content": "U2 of 0"},
    ]
    assert len(sft) == 3 and all(r["completion"][0]["content"].startswith("preferred") for r in sft)
    assert [m["content"] for m in sft[2]["prompt"]] == [
        "S", "U1 of 0", "rejected 1 of 0", "U2 of 0", "preferred 2 of 0", "U3 of 0",
    ]  # fmt: skip
    assert counts == {
        "decisions": 3, "verifier_agreed": 2, "chosen_preferred": 1, "chosen_rejected": 1, "verifier_disagreement": 1,
        "dropped_disagreement": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "verdicts, drop, keep",
    [
        (["preferred", "preferred"], "preferred", "preferred"),
        (["rejected", "rejected"], "rejected", "rejected"),
        (["preferred", "rejected"], None, "preferred"),
        (["preferred", None], None, "preferred"),
        ([], None, "preferred"),
    ],
)
def test_labels(verdicts, drop, keep):
    node = {"verdicts": [{"chosen": v} for v in verdicts]}
    assert label(node, "drop")[0] == drop
    assert label(node, "keep_informed")[0] == keep


def test_identical_replies_are_no_pair():
    t = a_tree()
    t["nodes"][1]["text"] = t["nodes"][2]["text"] = "Same words."
    counts = Counter()
    assert len(rows(t, SYSTEM, "keep_informed", counts)[1]) == 2 and counts["dropped_identical"] == 1


def test_train_and_validation_share_no_persona(project):
    trees = [a_tree(n) for n in range(10)]
    (project.folder / "data/trees.jsonl").write_text("".join(json.dumps(t) + "\n" for t in trees))
    project.run("extract_pairs")
    train, val = (project.rows(f"data/pairs/{part}.jsonl") for part in ("train", "val"))
    who = [{r["prompt"][1]["content"].split()[-1] for r in part} for part in (train, val)]
    assert len(who[1]) == 2 and len(who[0]) == 8 and not who[0] & who[1]
    assert set(train[0]) == {"prompt", "chosen", "rejected"}
    assert set(project.rows("data/sft/train.jsonl")[0]) == {"prompt", "completion"}


def test_nothing_left_to_train_on(project):
    trees = [a_tree(n, [("preferred", "rejected")] * 3) for n in range(4)]
    (project.folder / "data/trees.jsonl").write_text("".join(json.dumps(t) + "\n" for t in trees))
    project.set(extract_pairs__on_disagreement="drop")
    complains(project.run("extract_pairs", check=False), "no rows for pairs_train, pairs_val", "'dropped_disagreement': 12")
