"""How a score is read from an answer, the expected score, and the wrong persona."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.judging.judge import expected, parse_score, summary, wrong_persona


@pytest.mark.parametrize(
    "text, score",
    [
        ("4", 4),
        ("4.", 4),
        ("Score: 4/5", 4),
        ("**4**", 4),
        ("four", 4),
        ("4 out of 5", 4),
        ("Four.", 4),
        ("5/5", 5),
        (" 1\n", 1),
        ("1. 1", 1),
        ("**Score:** 4", 4),
        ("Final answer: four", 4),
        ("My score is 4.", 4),
        ('{"score": 4}', 4),
        ("<score>4</score>", 4),
        ("\\boxed{4}", 4),
        ("4.0", 4),
        ("4 of 5 stars", 4),
        ("4 out of", 4),  # cut by the token limit
        ("评分：4分", 4),
        ("4 (out of 5)", 4),
        ("Note : 4 sur 5", 4),
        ("Bewertung: 4 von 5", 4),
    ],
)
def test_scores_are_read(text, score):
    assert parse_score(text) == score


@pytest.mark.parametrize(
    "text",
    ["", "between 3 and 4", "3 or 4", "good", "0", "7", "10", "3.5", "4th rate", "-", "This one is great.", "No one",
     "the user mentions two cats", "4 because it fits", "Score: 4, as two cats", "-4", "4/10", "4 reasons", "1. 2",
     "4%", "45"],
)  # fmt: skip
def test_other_answers_are_unscored(text):
    with pytest.raises(ValueError):
        parse_score(text)


@given(st.lists(st.floats(0.001, 1), min_size=5, max_size=5))
def test_expected_score_lies_within_the_scale_and_covers_what_it_says(weights):
    total = sum(weights) * 1.25
    top = [[str(s), math.log(w / total)] for s, w in enumerate(weights, 1)]
    score, mass = expected({"logprobs": [["3", top]]}, 3)
    assert 1 <= score <= 5 and mass == pytest.approx(0.8)
    assert score == pytest.approx(sum(s * w for s, w in enumerate(weights, 1)) / sum(weights))


def test_without_a_token_for_the_score_nothing_is_expected():
    assert expected({}, 4) is None
    assert expected({"logprobs": [["fo", [["fo", -0.1]]], ["ur", [["ur", -0.1]]]]}, 4) is None
    assert expected({"logprobs": [["4", [["5", None], ["4", math.log(0.5)]]]]}, 4) == (4.0, 0.5)


def case(name, profile, personality):
    return {"id": name, "profile": profile, "personality": personality}


def test_the_wrong_persona_differs_in_both_texts_where_it_can():
    cases = [case(f"{p}{c}", f"profile {p}", f"character {c}") for p in range(4) for c in range(3)]
    for c in cases:
        wrong = wrong_persona(1, c, cases)
        assert wrong["profile"] != c["profile"] and wrong["personality"] != c["personality"]
        assert wrong_persona(1, c, cases[::-1]) == wrong  # whatever their order
    assert len({wrong_persona(1, c, cases)["id"] for c in cases}) > 3
    same = [case(f"{p}", f"profile {p}", "character") for p in range(3)]
    assert all(wrong_persona(1, c, same)["profile"] != c["profile"] for c in same)
    assert wrong_persona(1, same[0], [same[0], {**same[0], "id": "again", "personality": "another"}]) is None


def test_summary_counts_scores_and_reasons():
    scored = [{"score": 3.6, "mass": 0.8}, {"score": 4, "mass": None}, {"score": 1, "mass": 0.5}]
    rows = [*scored, {"score": None, "mass": None, "reason": "empty"}]
    assert summary(rows) == {"scores": {"1": 1, "4": 2}, "unscored": {"empty": 1}, "from_logprobs": 2, "least_mass": 0.5}
