"""Extract pairs: labels, exact histories, filters, balance, the gate; planted faults are found at their rate."""

import json
from dataclasses import replace

import pytest
from conftest import complains

from stages.dialogue import tree
from stages.pairs import measures
from stages.pairs.selection import balance, decide, label, pair_row, row_fault, sft_rows
from stages.pairs.settings import ExtractPairs, Filters, Require

SYSTEM = [{"role": "system", "content": "S"}]
OFF = Filters(*[None] * 9, False, False)
P = ExtractPairs(1, "", "drop", 0.2, None, OFF, Require(None, None, None, None, None))


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
    t = a_tree()
    decisions = decide(t, "train", P)
    pairs = [pair_row(t, d, SYSTEM) for d in decisions if d.chosen]
    assert [p["chosen"][0]["content"] for p in pairs] == ["preferred 1 of 0", "rejected 2 of 0"]
    assert pairs[1]["prompt"] == [
        *SYSTEM,
        {"role": "user", "content": "U1 of 0"},
        {"role": "assistant", "content": "rejected 1 of 0"},
        {"role": "user", "content": "U2 of 0"},
    ]
    sft = sft_rows(t, SYSTEM, {})
    assert len(sft) == 3 and all(r["completion"][0]["content"].startswith("preferred") for r in sft)
    assert [m["content"] for m in sft[2]["prompt"]] == [
        "S", "U1 of 0", "rejected 1 of 0", "U2 of 0", "preferred 2 of 0", "U3 of 0",
    ]  # fmt: skip
    assert [(d.chosen, d.reason) for d in decisions] == [
        ("preferred", "agreed"), ("rejected", "agreed"), (None, "disagreement")
    ]  # fmt: skip


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
    assert [d.reason for d in decide(t, "train", P)] == ["identical", "agreed", "disagreement"]


def write(project, trees):
    (project.folder / "data/trees.jsonl").write_text("".join(json.dumps(t) + "\n" for t in trees))


def test_train_and_validation_share_no_persona(project):
    write(project, [a_tree(n) for n in range(10)])
    project.set(extract_pairs__balance_length=None)
    project.run("extract_pairs")
    train, val = (project.rows(f"data/pairs/{part}.jsonl") for part in ("train", "val"))
    who = [{r["prompt"][1]["content"].split()[-1] for r in part} for part in (train, val)]
    assert len(who[1]) == 2 and len(who[0]) == 8 and not who[0] & who[1]
    assert set(train[0]) == {"prompt", "chosen", "rejected"}
    assert set(project.rows("data/sft/train.jsonl")[0]) == {"prompt", "completion"}
    decisions = project.rows("data/pairs/decisions.jsonl")
    assert len(decisions) == 30 and {(d["chosen"], d["reason"]) for d in decisions} == {
        ("preferred", "agreed"), ("rejected", "agreed"), ("preferred", "disagreement")
    }  # fmt: skip


def test_nothing_left_to_train_on(project):
    write(project, [a_tree(n, [("preferred", "rejected")] * 3) for n in range(4)])
    project.set(extract_pairs__on_disagreement="drop", extract_pairs__require__min_pairs=None,
                extract_pairs__require__max_length_predicts=None, extract_pairs__require__max_unrevealed=None)  # fmt: skip
    complains(project.run("extract_pairs", check=False), "no rows for pairs_train, pairs_val")
    assert json.loads((project.folder / "results/extract_pairs.json").read_text())["dropped"] == {"disagreement": 12}


ITEMS = [
    "I mend fishing nets on the beach at Elmina.",
    "My left thumb has been stiff since a hook went through it.",
    "I keep three ducks in an upturned canoe.",
    "I am saving for a nursing college in Cape Coast.",
    "I am blunt.",
]
PLAIN = "Take a slow walk, drink some water and go to bed early tonight."


def planted(number, every, plant, verdicts=("preferred", "preferred")):
    """A tree of one decision, clean but for every `every`-th one, which `plant` spoils."""
    answers = [{"first": f, "chosen": c} for f, c in zip(("preferred", "rejected"), verdicts, strict=True)]
    said = f"{ITEMS[0]} What about plan {number}?"
    user = {"id": "u", "turn": 1, "role": "user", "text": said, "item": 0, "note": [0], "verdicts": answers}
    replies = {"p": f"{PLAIN} Number {number} suits nets.", "r": f"Read a good book and rest now. Number {number} is fine."}
    nodes = [user, *({"id": f"u/{k}", "turn": 1, "role": tree.REPLIES[k], "text": v} for k, v in replies.items())]
    if every and number % every == 0:
        plant(*nodes)
    return {"id": f"t{number}", "items": ITEMS, "nodes": nodes}


def recite(user, preferred, rejected):
    preferred["text"] = " ".join(ITEMS[:3])


def leak(user, preferred, rejected):
    preferred["text"] = f"As you keep three ducks in an upturned canoe, {PLAIN}"


def note_leak(user, preferred, rejected):
    user["note"] = [0, 3]


def tell_all(user, preferred, rejected):
    user["text"] += f" {ITEMS[1]} {ITEMS[3]}"


def name(user, preferred, rejected):
    preferred["text"] = f"Based on your profile, {PLAIN}"


def assist(user, preferred, rejected):
    user["text"] = "I am here to help. How can I help you today?"


def direct(user, preferred, rejected):
    preferred["text"] = f"*smiles warmly at you* {PLAIN}"


def repeat(user, preferred, rejected):
    rejected["text"] = "go home and rest " * 8


def measured(trees, p=P):
    decisions = [d for t in trees for d in decide(t, "train", p)]
    return measures.pair_measures([(d.measures, d.chosen or "preferred") for d in decisions]), decisions


@pytest.mark.parametrize(
    "plant, where",
    [
        (recite, "leaks.reply_recites"), (leak, "leaks.reply_unrevealed"), (note_leak, "leaks.note_unrevealed"),
        (tell_all, "leaks.user_unrevealed"), (name, "leaks.reply_names_inference"), (assist, "user_confused"),
        (direct, "stage_directions"), (repeat, "repetitive"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("every", [0, 3, 10])
def test_planted_faults_are_found_at_their_rate(plant, where, every):
    found, _ = measured([planted(n, every, plant) for n in range(200)])
    for part in where.split("."):
        found = found[part]
    assert found == pytest.approx(len([n for n in range(200) if every and n % every == 0]) / 200, abs=0.02)


def test_a_clean_set_is_clean():
    found, decisions = measured(
        [planted(n, 0, recite) for n in range(100)],
        replace(P, filters=Filters(3, 0.8, 3, 0, 0, 0, 0.5, 0.3, None, True, True)),
    )
    assert all(d.reason == "agreed" for d in decisions)
    assert (
        not any(found["leaks"].values()) and found["repetitive"] == found["user_confused"] == found["stage_directions"] == 0
    )


@pytest.mark.parametrize(
    "plant, filters, reason",
    [
        (recite, {"recited": 2}, "recited"), (leak, {"unrevealed": 0}, "unrevealed"),
        (assist, {"confused": True}, "confused"),
        (direct, {"confused": True}, "confused"), (repeat, {"repetition": 0.5}, "repetition"),
        (repeat, {"length_ratio": 1.8}, "length_ratio"), (name, {"names_inference": True}, "names_inference"),
        (tell_all, {"user_unrevealed": 0}, "user_unrevealed"), (note_leak, {"note_unrevealed": 0}, "note_unrevealed"),
    ],
)  # fmt: skip
def test_each_filter_drops_what_it_names_and_is_off_by_null(plant, filters, reason):
    trees = [planted(n, 4, plant) for n in range(40)]
    on = [d.reason for d in measured(trees, replace(P, filters=replace(OFF, **filters)))[1]]
    assert on.count(reason) == 10 and on.count("agreed") == 30
    assert all(d.reason == "agreed" for d in measured(trees)[1])


def two_turns(first: str, second: str, note: list[int] | None):
    """A tree whose user first tells of nets, then of ducks; `second` is the informed reply to the latter."""
    kept = {} if note is None else {"note": note}
    says = [f"{ITEMS[0]} What now?", f"{ITEMS[2]} Any advice?"]
    nodes = [
        {"id": "u", "turn": 1, "role": "user", "text": says[0], "item": 0, **({} if note is None else {"note": note[:1]})},
        {"id": "u/p", "turn": 1, "role": "preferred", "text": first},
        {"id": "u/r", "turn": 1, "role": "rejected", "text": PLAIN},
        {"id": "u/p/u", "turn": 2, "role": "user", "text": says[1], "item": 2, **kept},
        {"id": "u/p/u/p", "turn": 2, "role": "preferred", "text": second},
        {"id": "u/p/u/r", "turn": 2, "role": "rejected", "text": PLAIN},
    ]  # fmt: skip
    return {"id": "t", "items": ITEMS, "nodes": nodes}


@pytest.mark.parametrize(
    "second, note, pairs, row",
    [
        ("Mend a fishing net while your ducks sleep.", [0, 2], ["recalled", "not_asked"], ""),
        ("Let your three ducks sleep in the canoe.", [0, 2], ["recalled", "recalled"], "recalled"),  # of this message only
        ("Mend a fishing net while your ducks sleep.", [2], ["recalled", "recalled"], "recalled"),  # told, but not noted
        ("Let your three ducks sleep in the canoe.", None, ["not_asked", "not_asked"], ""),  # trees without notes pass
    ],
)
def test_a_reply_that_recalls_nothing_is_not_learnt(second, note, pairs, row):
    p = replace(P, on_disagreement="keep_informed", filters=replace(OFF, recalled=2))
    found = decide(two_turns("Mend the fishing nets on the beach.", second, note), "train", p)
    assert [d.reason for d in found] == pairs
    assert [row_fault(d, p.filters) for d in found] == ["", row]  # at the first turn there is nothing to recall
    if note:
        shares = measures.pair_measures([(d.measures, "preferred") for d in found])["recalls"]
        assert shares == {"chosen": 0.5 * (row == ""), "other": 0.0}


def test_what_was_replied_before_may_be_rejected_but_not_learnt():
    again = "Mend the fishing nets on the beach. Your ducks will like it."
    t = two_turns("Mend the fishing nets on the beach.", again, [0, 2])
    p = replace(P, on_disagreement="keep_informed", filters=replace(OFF, loops=0.3))
    found = decide(t, "train", p)
    assert [d.reason for d in found] == ["not_asked", "loops"] and row_fault(found[1], p.filters) == "loops"
    assert found[1].measures["preferred_loops"] == pytest.approx(5 / 10, abs=1e-4)  # of ten 3-grams the first five
    t["nodes"][4]["text"], t["nodes"][5]["text"] = t["nodes"][5]["text"], again
    assert [d.reason for d in decide(t, "train", p)] == ["not_asked", "not_asked"]


def test_a_faulty_preferred_reply_is_not_imitated_either():
    t = planted(0, 1, leak)
    assert len(sft_rows(t, SYSTEM, {})) == 1 and not sft_rows(t, SYSTEM, {"u": "unrevealed"})


@pytest.mark.parametrize("first", [0.0, 0.3, 0.5, 1.0])
def test_position_bias_and_order_agreement_are_recovered(first):
    """A verifier that takes the first reply shown in a share of the pairs, and is right in the others."""
    answers = [("preferred", "rejected") if n < first * 100 else ("preferred", "preferred") for n in range(100)]
    _, decisions = measured([planted(n, 0, recite, answers[n]) for n in range(100)])
    found = measures.verdict_measures([d.turn for d in decisions])
    assert found["order_agreement"] == pytest.approx(1 - first, abs=0.02)
    assert found["took_first_shown"] == pytest.approx(first + (1 - first) / 2, abs=0.02)
    assert found["informed_wins"] == (None if first == 1.0 else 1.0) and found["unreadable"] == 0


def sized(number, longer):
    """A tree whose chosen reply is longer than the other one, by a little more in each, or shorter."""
    t = planted(number, 0, recite)
    long, short = (" ".join(f"w{i}x{number}{k}" for i in range(n)) for k, n in enumerate((12 + number % 7, 10)))
    t["nodes"][1]["text"], t["nodes"][2]["text"] = (long, short) if longer else (short, long)
    return t


def test_length_balance_holds_what_it_promises_and_drops_the_most_unequal_first():
    found, decisions = measured([sized(n, n % 5 > 0) for n in range(100)])
    assert found["length_predicts"] == pytest.approx(0.8) and found["length_ratio"] > 1.2
    balance(decisions, 0.55, 1)
    kept = [d for d in decisions if d.chosen]
    assert measures.length_predicts([d.lengths for d in kept]) <= 0.55 and 36 <= len(kept) <= 46
    assert {d.reason for d in decisions if not d.chosen} == {"length_balance"}
    dropped = [d.lengths[0] - d.lengths[1] for d in decisions if not d.chosen]
    assert min(dropped) >= max(d.lengths[0] - d.lengths[1] for d in kept)
    again = measured([sized(n, n % 5 > 0) for n in range(100)])[1]
    balance(again, 0.55, 1)
    assert [d.chosen for d in again] == [d.chosen for d in decisions]


def test_balance_that_cannot_be_had_drops_nothing():
    decisions = measured([sized(n, True) for n in range(20)])[1]
    balance(decisions, 0.55, 1)
    assert all(d.chosen for d in decisions)


def test_the_gate_says_what_is_not_met_and_by_how_much(project):
    write(project, [sized(n, True) for n in range(20)])
    project.set(extract_pairs__require__min_pairs=30, extract_pairs__require__min_order_agreement=0.9)
    complains(
        project.run("extract_pairs", check=False),
        "min_pairs is 30, the data has 20, 10 short", "max_length_predicts is 0.7, the data has 1.0, 0.3 over",
        "decisions.jsonl",
    )  # fmt: skip
    assert not (project.folder / "data/pairs/train.jsonl").exists()
    assert len(project.rows("data/pairs/decisions.jsonl")) == 20  # what to look at is there


def test_trees_of_ones_own(project):
    write(project, [])
    (project.folder / "data/mine.jsonl").write_text("".join(json.dumps(planted(n, 0, recite)) + "\n" for n in range(30)))
    project.set(extract_pairs__trees="data/mine.jsonl", extract_pairs__balance_length=None)
    project.set(extract_pairs__require__max_length_predicts=None)
    project.run("extract_pairs")
    assert len(project.rows("data/pairs/train.jsonl")) == 24
    (project.folder / "data/mine.jsonl").write_text(
        json.dumps(planted(0, 0, recite)) + '\n{"id": "x", "nodes": [{"id": 3}]}\n'
    )
    complains(project.run("extract_pairs", check=False), "data/mine.jsonl:2: not a tree")
