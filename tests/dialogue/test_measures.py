"""Measures of trees, on user turns whose faults and facts are known."""

from fakes import encode

from stages.dialogue import measures


def a_tree(number, *says):
    """A path of user turns, each followed by the same reply; the last item is never said."""
    items, nodes, node_id = [f"I mend old boats{number}.", "I bake.", "I nap."], [], "u"
    for turn, text in enumerate(says, 1):
        nodes.append({"id": node_id, "turn": turn, "role": "user", "text": text, "item": turn - 1, "note": [0]})
        nodes.append({"id": f"{node_id}/p", "turn": turn, "role": "preferred", "text": "Good luck with it all."})
        node_id += "/p/u"
    return {"profile": " ".join(items), "personality": "I am shy.", "items": items, "nodes": nodes}


def near_the_persona(texts):
    """An encoder that knows the number in a text, and of a text without one nothing."""
    import numpy as np

    found = np.zeros((len(texts), 4), dtype=np.float32)
    for row, text in enumerate(texts):
        found[row, next((n for n in range(3) if f"boats{n}" in text), 3)] = 1
    return found


def test_measures_of_user_turns():
    example = "I keep bees on the roof, what now?"
    trees = [
        a_tree(0, "I mend old boats0. How?", "I bake bread. How long?"),
        a_tree(1, "How can I help you today?", example),
        a_tree(2, "I mend a boat. What paint?", "Good luck with it all. I am off."),
    ]
    found = measures.measure(trees, [example], near_the_persona)
    assert found["user_turns"] == 6 and found["faulty_user_turns"] == round(2 / 6, 4)
    assert found["faults"] == {"assistant_talk": 1, "example_copy": 1}
    assert found["item_revealed"] == round(2 / 6, 4) and found["items_noted_per_turn"] == 0.75
    assert found["item_words_said"] == round((1 + 1 + 0 + 0 + 1 / 3 + 0) / 6, 4)
    top1 = found["persona_top1_from_user_turns"]
    assert top1["chance"] == 0.3333 and top1["by_turn"] == {1: 0.3333, 2: 0.3333} and top1["last"] == 0.3333


def test_a_copy_of_any_turn_before_is_a_fault():
    t = a_tree(0, "I mend old boats, how?", "I mend old boats, how?")
    assert measures.measure([t, a_tree(1, "I bake a lot.")], [], encode)["faults"] == {"copy": 1}


def test_recognition_looks_at_so_many_trees(monkeypatch):
    monkeypatch.setattr(measures, "RANKED", 2)
    trees = [a_tree(n, f"I mend old boats{n}. How?") for n in range(3)]
    assert measures.measure(trees, [], near_the_persona)["persona_top1_from_user_turns"] == {
        "chance": 0.5, "last": 1.0, "by_turn": {1: 1.0}
    }  # fmt: skip


def natural(*turns):
    """A path of user turns, each (text, quotes); no turn has a scheduled item."""
    t = a_tree(0, *(text for text, _ in turns))
    users = [n for n in t["nodes"] if n["role"] == "user"]
    for node, (_, quoted) in zip(users, turns, strict=True):
        del node["item"], node["note"]
        node["quotes"] = [{"item": i, "quote": quote} for i, quote in quoted]
    return {**t, "items": [*t["items"], "I am shy."]}


def test_what_users_declare_imply_and_hold_back():
    t = natural(
        ("I mend old boats0, y'know", [(0, "I mend old boats0")]),
        ("um, could I, sorry", [(3, "um, could I, sorry")]),
        ("thanks", []),
        ("the oven is hot already", [(1, "the oven is hot")]),
    )
    found = measures.disclosure([t])
    assert found["turns"] == {"declare": 0.25, "imply": 0.5, "nothing": 0.25}
    assert [found["disclosed"][turn] for turn in (1, 2, 4)] == [
        {"facts": 1, "traits": 0}, {"facts": 1, "traits": 1}, {"facts": 2, "traits": 1}
    ]  # fmt: skip
    assert found["words"] == round((5 + 4 + 1 + 5) / 4, 1) and found["notes"] is None
    by_note = a_tree(0, "I mend old boats0.", "ok")  # without quotes, of the notes
    assert measures.disclosure([by_note])["turns"] == {"declare": 0.5, "imply": 0.0, "nothing": 0.5}
    assert measures.disclosure([{"nodes": by_note["nodes"]}]) is None
    assert "item_revealed" not in measures.measure([t, t], [], encode)


def test_quotes_against_given_notes():
    t = natural(("a", [(0, "a")]), ("b", [(3, "b"), (1, "b")]))
    for node, note in zip([n for n in t["nodes"] if n["role"] == "user"], ([0], [0, 2, 3]), strict=True):
        node["note"] = note
    found = measures.agreement([t])
    assert found["all"] == {"given": 4, "found": 4, "both": 3, "precision": 0.75, "recall": 0.75}
    assert found["traits"] == {"given": 1, "found": 1, "both": 1, "precision": 1.0, "recall": 1.0}
    t["nodes"][0]["agenda"] = []
    assert measures.agreement([t])["all"]["given"] == 3  # of the turn that role-play did not make
