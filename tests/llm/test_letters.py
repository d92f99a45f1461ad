"""Letters and words that answer, and the probabilities told beside them."""

import math

import pytest

from stages.llm.letters import FLOOR, letter, log_odds, told


@pytest.mark.parametrize(
    "text, place", [("B", 1), ("(b)", 1), ("The answer is C.", 2), ("**A**", 0), ("D", None), ("Because", None), ("", None)]
)
def test_an_answer_names_one_of_the_letters_and_nothing_else(text, place):
    if place is None:
        with pytest.raises(ValueError, match="no letter"):
            letter(text, 3)
    else:
        assert letter(text, 3) == place


def test_the_letters_share_the_probability_that_is_told():
    reply = {"logprobs": [["B", [["B", math.log(0.5)], [" b", math.log(0.1)], ["A", math.log(0.2)], ["so", math.log(0.1)]]]]}
    assert told(reply, 1, 3) == pytest.approx([0.25, 0.75, 0], abs=1e-5)
    assert told({}, 1, 3) is None


def test_log_odds_are_of_all_spellings_of_two_words_in_the_first_token():
    yes = [["Yes", math.log(0.4)], [' "yes', math.log(0.2)], ["yesterday", -1]]
    said = [*yes, ["no", math.log(0.1)], ["No.", math.log(0.1)]]
    reply = {"logprobs": [["Yes", said], ["no", [["no", 0.0]]]]}
    assert log_odds(reply, "yes", "no") == pytest.approx(math.log(3), abs=1e-4)
    assert log_odds(reply, "no", "yes") == pytest.approx(-math.log(3), abs=1e-4)


def test_log_odds_of_a_word_that_is_not_told_are_bounded_and_of_two_are_even():
    sure = {"logprobs": [["yes", [["yes", 0.0], ["no", None]]]]}
    assert log_odds(sure, "yes", "no") == pytest.approx(-math.log(FLOOR), abs=1e-4)
    assert log_odds({"logprobs": [["Hm", [["Hm", 0.0]]]]}, "yes", "no") == log_odds({}, "yes", "no") == 0
