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
