"""Measures of one decision, on trees with planted faults."""

import pytest
from trees import ITEMS, PLAIN, planted, recite, two_turns

from stages.dialogue import tree
from stages.pairs import measures


def measured(t, number=-1):
    """Measures of a decision of a tree, the last one."""
    return measures.measure([measures.turn_at(t, *d, tree.index(t)) for d in tree.decisions(t)][number])


def test_a_decision_holds_what_was_known_then():
    t = two_turns("First.", "Second.", [0, 2])
    turn = measures.turn_at(t, *[*tree.decisions(t)][1], tree.index(t))
    assert (turn.tree, turn.node, turn.item, turn.note, turn.verdicts) == ("t", "u/p/u", 2, [0, 2], [])
    assert turn.replies == {"preferred": "Second.", "rejected": PLAIN} and turn.replied == ["First."]
    assert turn.before == f"{ITEMS[0]} What now?" and turn.written == f"{turn.before} {turn.user}"


def test_a_clean_decision_has_no_fault():
    found = measured(planted())
    none = {"user_unrevealed", "note_unrevealed", "user_confused", "similarity"}
    of_reply = ("unrevealed", "names_inference", "repetition", "loops", "directions", "recited")
    none |= {f"{who}_{name}" for who in ("preferred", "rejected") for name in of_reply}
    assert {name: found[name] for name in none} == dict.fromkeys(none, 0)
    assert found["preferred_words"] == 17 and found["rejected_words"] == 11


def test_items_that_are_held_but_were_not_revealed():
    found = measured(planted(every=1, plant=recite))
    assert found["preferred_recited"] == 3 and found["preferred_unrevealed"] == 2  # the turn itself revealed the first
    assert measures.unrevealed(ITEMS, " ".join(ITEMS), ITEMS[1]) == [0, 2, 3]  # the last has too few words to tell


def test_a_reply_that_names_its_notes_or_acts():
    t = planted()
    t["nodes"][1]["text"] = f"As you said in your profile, {PLAIN} *nods slowly at you*"
    found = measured(t)
    assert found["preferred_names_inference"] == found["preferred_directions"] == 1
    assert found["rejected_names_inference"] == found["rejected_directions"] == 0


@pytest.mark.parametrize(
    "text, found",
    [
        ("*nods slowly at you*", 1), ("*sigh*", 1), ("*Smiling*", 1), ("*she whispers back*", 1), ("*softly laughs*", 1),
        ("*leans in*", 1), ("*takes a deep breath*", 1), ("*clears throat*", 1), ("[smiles]", 1), ("(he sighs deeply)", 1),
        ("*really*", 0), ("*very much*", 0), ("**really**", 0), ("*The Great Gatsby*", 0), ("*always*", 0), ("*puts* it", 0),
        ("**Take care:** rest", 0), ("**Smile more**", 0), ("2 * 3 * 4", 0), ("*Nodes of Time*", 0), ("* one\n* two", 0),
    ],
)  # fmt: skip
def test_emphasis_is_no_stage_direction(text, found):
    t = planted()
    t["nodes"][1]["text"] = f"{PLAIN} {text}"
    assert measured(t)["preferred_directions"] == found


@pytest.mark.parametrize(
    "second, note, words",
    [
        ("Mend a fishing net while your ducks sleep.", [0, 2], 3),
        ("Let your three ducks sleep in the canoe.", [0, 2], 0),  # of this message only
        ("Mend a fishing net while your ducks sleep.", [2], 0),  # said, but not noted
        ("Let your three ducks sleep in the canoe.", None, None),  # a tree without notes
    ],
)
def test_words_of_an_earlier_item_that_a_reply_recalls(second, note, words):
    found = measured(two_turns("Mend the fishing nets on the beach.", second, note))
    assert found.get("preferred_recalled") == words


def test_loops_are_of_earlier_replies():
    first, again = "Mend the fishing nets on the beach.", "Mend the fishing nets on the beach. Your ducks will like it."
    t = two_turns(first, again, [0, 2])
    assert measured(t)["preferred_loops"] == pytest.approx(5 / 10, abs=1e-4)  # of ten 3-grams the first five
    assert measured(t, 0)["preferred_loops"] == 0
