"""Recognition of the user from the model's words, and what a reply recalls."""

import numpy as np
import pytest
from scoring import BagOfWords

from stages.evaluation.recognition import chance, recalls, reciprocal_ranks

FACTS = ["I grow olive trees.", "I fix old radios.", "I teach deaf children.", "I sell fresh fish."]
PERSONAS = {str(n): fact for n, fact in enumerate(FACTS)}
ENCODE = BagOfWords()


def test_a_model_that_says_its_first_reply_again_is_not_recognised_anew():
    """What it says at turn 1 names its user; nothing after that is new, so it counts as a random ranking."""
    conversations = {
        case: {"turns": [{"turn": k, "user": "Hello.", "reply": f"So {fact.lower()} Good for you."} for k in (1, 2, 3)]}
        for case, fact in PERSONAS.items()
    }
    reply, new = (reciprocal_ranks(conversations, PERSONAS, list(PERSONAS), 3, q, ENCODE) for q in ("reply", "new"))
    assert (reply == 1).all() and (new[:, 0] == 1).all()
    assert new[:, 1:] == pytest.approx(chance(4))


def test_missing_turns_and_cases_have_no_rank_and_later_turns_are_left_out():
    turns = [{"turn": k, "user": FACTS[0], "reply": "Hm."} for k in (1, 3, 4)]
    ranks = reciprocal_ranks({"0": {"turns": turns}}, PERSONAS, ["0", "1"], 3, "message", ENCODE)
    assert ranks[0, 0] == ranks[0, 2] == 1 and np.isnan(ranks[0, 1]) and np.isnan(ranks[1]).all()


def test_all_turns_so_far_remember_what_one_turn_does_not():
    said = (FACTS[2], "I teach deaf children well.", "Old radios are nice.")
    conversations = {"2": {"turns": [{"turn": k, "user": text, "reply": "Hm."} for k, text in enumerate(said, 1)]}}
    message, so_far = (
        reciprocal_ranks(conversations, PERSONAS, ["2"], 3, query, ENCODE) for query in ("message", "messages")
    )
    assert so_far[0].tolist() == [1, 1, 1] and message[0, :2].tolist() == [1, 1] and message[0, 2] < 1


def test_a_reply_recalls_an_earlier_message_and_is_neither_echo_nor_loop():
    user = ["I mend boats in Oslo.", "My knee hurts.", "I bake rye bread.", "My mother is ill."]
    replies = {
        "echo": ["Mending boats in Oslo!", "So your knee hurts.", "Bake more rye bread.", "Your mother is ill."],
        "loop": ["Mend boats in Oslo."] * 4,
        "recalls": [
            "Go on.",
            "Mending a boat hurts it.",
            "Eat bread on the boat.",
            "Hurting knee, mend a boat in Oslo.",
        ],
    }
    conversations = {
        name: {"turns": [{"turn": k + 1, "user": u, "reply": r} for k, (u, r) in enumerate(zip(user, texts, strict=True))]}
        for name, texts in replies.items()
    }
    found = recalls(conversations, [*conversations, "not there"], 4)
    assert np.isnan(found[:, 0]).all() and np.isnan(found[3]).all()
    # one new word of each of two messages is none of either
    assert found[:3, 1:].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    conversations["recalls"]["turns"][3]["reply"] = "Let the knee rest, it hurts in Oslo."
    conversations["recalls"]["turns"][1]["reply"] = "Rest."
    assert recalls(conversations, ["recalls"], 4)[0, 1:].tolist() == [0, 0, 1]
