"""Selection: labels, filters by what they name, what may be learnt, and balance of length."""

import pytest
from fakes import YAML, section
from trees import ITEMS, PLAIN, a_tree, extracting, planted, recite, sized, two_turns

from stages.pairs import quality
from stages.pairs.selection import balance, decide, label, sft_fault
from stages.pairs.settings import ExtractPairs


def reasons(t, p):
    return [d.reason for d in decide(t, p)]


@pytest.mark.parametrize(
    "verdicts, reason, drop, keep",
    [
        (["preferred", "preferred"], "agreed", "preferred", "preferred"),
        (["rejected", "rejected"], "agreed", "rejected", "rejected"),
        (["preferred", "rejected"], "disagreement", None, "preferred"),
        (["preferred", None], "unreadable", None, "preferred"),
        ([], "not_asked", None, "preferred"),
    ],
)
def test_labels(verdicts, reason, drop, keep):
    asked = [{"chosen": v} for v in verdicts]
    assert label(asked, "drop") == (drop, reason)
    assert label(asked, "keep_informed") == (keep, reason)


def test_decisions_carry_the_verifiers_choice():
    decisions = decide(a_tree(), extracting())
    assert [(d.chosen, d.reason) for d in decisions] == [
        ("preferred", "agreed"), ("rejected", "agreed"), (None, "disagreement")
    ]  # fmt: skip
    assert decisions[1].record() == {
        "tree": "t0", "node": "u/r/u", "chosen": "rejected", "reason": "agreed", "measures": decisions[1].measures
    }  # fmt: skip


def test_identical_replies_are_no_pair():
    t = a_tree()
    t["nodes"][1]["text"] = t["nodes"][2]["text"] = "Same words."
    assert reasons(t, extracting()) == ["identical", "agreed", "disagreement"]


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


def copy(user, preferred, rejected):
    rejected["text"] = f"{preferred['text']} So."


@pytest.mark.parametrize(
    "plant, where, filters",
    [
        (recite, "leaks.reply_recites", {"recited": 2}),
        (leak, "leaks.reply_unrevealed", {"unrevealed": 0}),
        (note_leak, "leaks.note_unrevealed", {"note_unrevealed": 0}),
        (tell_all, "leaks.user_unrevealed", {"user_unrevealed": 0}),
        (name, "leaks.reply_names_inference", {"names_inference": True}),
        (assist, "user_confused", {"confused": True}),
        (direct, "stage_directions", {"confused": True}),
        (repeat, "repetitive", {"repetition": 0.5}),
        (repeat, "repetitive", {"length_ratio": 1.8}),
        (copy, None, {"similarity": 0.8}),
    ],
)
@pytest.mark.parametrize("every", [0, 3, 10])
def test_planted_faults_are_found_at_their_rate_and_dropped_by_the_filter_that_names_them(plant, where, filters, every):
    trees = [planted(n, every, plant) for n in range(60)]
    spoilt = len([n for n in range(60) if every and n % every == 0])
    off = [d for t in trees for d in decide(t, extracting())]
    assert all(d.reason == "agreed" for d in off)  # null is off
    found = quality.pair_measures([(d.measures, d.chosen) for d in off])
    for part in where.split(".") if where else []:
        found = found[part]
    assert not where or found == pytest.approx(spoilt / 60, abs=1e-4)
    on = [d.reason for t in trees for d in decide(t, extracting(**filters))]
    (reason,) = filters
    assert on.count(reason) == spoilt and on.count("agreed") == 60 - spoilt


def test_a_clean_set_passes_the_filters_of_the_repository():
    p = section(ExtractPairs, "extract_pairs", filters={**YAML["extract_pairs"]["filters"], "recalled": None})
    decisions = [d for n in range(100) for d in decide(planted(n), p)]
    assert all(d.reason == "agreed" for d in decisions) and len(decisions) == 100


@pytest.mark.parametrize(
    "second, note, pairs, row",
    [
        ("Mend a fishing net while your ducks sleep.", [0, 2], ["recalled", "not_asked"], ""),
        ("Let your three ducks sleep in the canoe.", [0, 2], ["recalled", "recalled"], "recalled"),
        ("Let your three ducks sleep in the canoe.", None, ["not_asked", "not_asked"], ""),  # trees without notes pass
    ],
)
def test_a_reply_that_recalls_nothing_is_not_learnt(second, note, pairs, row):
    p = extracting("keep_informed", recalled=2)
    found = decide(two_turns("Mend the fishing nets on the beach.", second, note), p)
    assert [d.reason for d in found] == pairs
    assert [sft_fault(d, p.filters) for d in found] == ["", row]  # at the first turn there is nothing to recall


def test_what_was_replied_before_may_be_rejected_but_not_learnt():
    again = "Mend the fishing nets on the beach. Your ducks will like it."
    t, p = two_turns("Mend the fishing nets on the beach.", again, [0, 2]), extracting("keep_informed", loops=0.3)
    assert reasons(t, p) == ["not_asked", "loops"] and sft_fault(decide(t, p)[1], p.filters) == "loops"
    t["nodes"][4]["text"], t["nodes"][5]["text"] = t["nodes"][5]["text"], again
    assert reasons(t, p) == ["not_asked", "not_asked"]


def test_length_balance_holds_what_it_promises_and_drops_the_most_unequal_first():
    def decisions():
        return [d for n in range(100) for d in decide(sized(n, n % 5 > 0), extracting())]

    found = decisions()
    assert quality.length_predicts([d.lengths for d in found]) == pytest.approx(0.8)
    balance(found, 0.55, 1)
    kept = [d for d in found if d.chosen]
    assert quality.length_predicts([d.lengths for d in kept]) <= 0.55 and 36 <= len(kept) <= 46
    assert {d.reason for d in found if not d.chosen} == {"length_balance"}
    dropped = [d.lengths[0] - d.lengths[1] for d in found if not d.chosen]
    assert min(dropped) >= max(d.lengths[0] - d.lengths[1] for d in kept)
    again = decisions()
    balance(again, 0.55, 1)
    assert [d.chosen for d in again] == [d.chosen for d in found]


def test_balance_out_of_reach_drops_nothing():
    decisions = [d for n in range(20) for d in decide(sized(n, True), extracting())]
    balance(decisions, 0.55, 1)
    assert all(d.chosen for d in decisions)
