"""Extract pairs: the stage's command line and its gate; labels, filters, rows and measures are in tests/pairs."""

import json

import pytest
from conftest import complains
from trees import a_tree, planted, sized


@pytest.fixture
def ready(project):
    """The project with nothing required of the data, and no balance of length."""
    for name in project.params.extract_pairs.require:
        project.params.extract_pairs.require[name] = None
    project.set(extract_pairs__balance_length=None)
    return project


def write(project, trees, name="trees"):
    (project.folder / f"data/{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in trees))


def metrics(project):
    return json.loads((project.folder / "results/extract_pairs.json").read_text())


def test_rows_decisions_and_metrics_are_written(ready):
    write(ready, [a_tree(n) for n in range(10)])
    ready.run("extract_pairs")
    counts = {name: len(ready.rows(f"data/{name}.jsonl")) for name in ("pairs/train", "pairs/val", "sft/train", "sft/val")}
    assert counts == {"pairs/train": 24, "pairs/val": 6, "sft/train": 24, "sft/val": 6}
    assert set(ready.rows("data/pairs/train.jsonl")[0]) == {"prompt", "chosen", "rejected"}
    assert set(ready.rows("data/sft/train.jsonl")[0]) == {"prompt", "completion"}
    decisions = ready.rows("data/pairs/decisions.jsonl")
    assert len(decisions) == 30 and {(d["chosen"], d["reason"]) for d in decisions} == {
        ("preferred", "agreed"), ("rejected", "agreed"), ("preferred", "disagreement")
    }  # fmt: skip
    found = metrics(ready)
    assert found["rows"] == {name.replace("/", "_"): number for name, number in counts.items()} and found["held_out"] == 2
    assert found["kept"] == {"agreed_preferred": 10, "agreed_rejected": 10, "disagreement_preferred": 10}


def test_a_tree_with_a_lone_surrogate_gives_rows(ready):
    trees = [a_tree(n) for n in range(10)]
    for t in trees:
        t["nodes"][0]["text"] += " \ud83d"
    write(ready, trees)
    ready.run("extract_pairs")
    texts = [m["content"] for r in ready.rows("data/pairs/train.jsonl") for m in r["prompt"]]
    assert any(text.endswith(" \ufffd") for text in texts) and len(ready.rows("data/pairs/decisions.jsonl")) == 30


def test_train_and_validation_are_balanced_each_for_itself(ready):
    write(ready, [sized(n, n % 3 > 0) for n in range(30)])
    ready.set(extract_pairs__balance_length=0.6)
    ready.run("extract_pairs")
    for part in ("train", "val"):
        rows = ready.rows(f"data/pairs/{part}.jsonl")
        words = [[len(r[k][0]["content"].split()) for k in ("chosen", "rejected")] for r in rows]
        assert sum(a > b for a, b in words) / len(words) <= 0.6
    assert set(metrics(ready)["dropped"]) == {"length_balance"}


def test_nothing_left_to_train_on(ready):
    write(ready, [a_tree(n, [("preferred", "rejected")] * 3) for n in range(4)])
    ready.set(extract_pairs__on_disagreement="drop")
    complains(ready.run("extract_pairs", check=False), "no rows for pairs_train, pairs_val")
    assert metrics(ready)["dropped"] == {"disagreement": 12}


def test_the_gate_says_what_is_not_met_and_by_how_much(ready):
    write(ready, [sized(n, True) for n in range(20)])
    ready.set(extract_pairs__require__min_pairs=30, extract_pairs__require__max_length_predicts=0.7)
    complains(
        ready.run("extract_pairs", check=False),
        "min_pairs is 30, the data has 20, 10 short", "max_length_predicts is 0.7, the data has 1.0, 0.3 over",
        "decisions.jsonl",
    )  # fmt: skip
    assert not (ready.folder / "data/pairs/train.jsonl").exists()
    assert len(ready.rows("data/pairs/decisions.jsonl")) == 20  # what to look at is there


def test_trees_of_ones_own(ready):
    write(ready, [planted(n) for n in range(30)], "mine")
    ready.set(extract_pairs__trees="data/mine.jsonl")
    ready.run("extract_pairs")
    assert len(ready.rows("data/pairs/train.jsonl")) == 24
    write(ready, [planted(0), {"id": "x", "nodes": [{"id": 3}]}], "mine")
    complains(ready.run("extract_pairs", check=False), "data/mine.jsonl:2: not a tree")


@pytest.mark.slow
def test_trees_of_several_files_and_kinds(ready):
    trees = [planted(n) for n in range(20)]
    for t in trees:
        t["nodes"].append(
            {"id": "u/m", "turn": 1, "role": "misinformed", "text": f"Sell the goat. {t['id']} is late.", "of": "t1"}
        )
    write(ready, trees[:10])
    (ready.folder / "data/import/trees").mkdir(parents=True, exist_ok=True)
    write(ready, trees[10:], "import/trees/more")
    ready.set(extract_pairs__negatives=["uninformed", "misinformed"], extract_pairs__require__max_context_free=0.9)
    complains(ready.run("extract_pairs", check=False), "max_context_free is 0.9, the data has 1.0")
    ready.set(extract_pairs__require__max_context_free=None)
    ready.run("extract_pairs")
    rows = [r for part in ("train", "val") for r in ready.rows(f"data/pairs/{part}.jsonl")]
    assert [r["kind"] for r in rows].count("misinformed") == 20 == len(rows) - 20
    assert len(ready.rows("data/sft/train.jsonl") + ready.rows("data/sft/val.jsonl")) == 20
    found = metrics(ready)
    assert {kind: k["quality"]["pairs"] for kind, k in found["kinds"].items()} == {"uninformed": 20, "misinformed": 20}
    assert found["disclosure"]["turns"] == {"declare": 1.0, "imply": 0.0, "nothing": 0.0}
