"""Labels that a bag of words tells without the conversation."""

import random

import pytest

from stages.pairs.context_free import Replies, context_free_predicts

WORDS = {
    "en": ["net", "boat", "rope", "duck", "canoe", "hook", "sand", "tide", "salt", "wind"],
    "zh": list("网船绳鸭舟钩沙潮盐风"),
    "ar": ["شبكة", "قارب", "حبل", "بطة", "زورق", "خطاف", "رمل", "مد", "ملح", "ريح"],
}


def texts(language, seed, mark=""):
    drawn = random.Random(seed).choices(WORDS[language], k=9)
    return ("" if language == "zh" else " ").join([*drawn, *([mark] if mark else [])])


@pytest.mark.slow
@pytest.mark.parametrize("language, mark", [("en", "warmly"), ("en", "!"), ("zh", "哈哈"), ("ar", "أهلا")])
def test_a_style_of_the_chosen_replies_is_told(language, mark):
    pairs = [Replies(f"t{n // 4}", texts(language, n, mark), texts(language, -n - 1), "") for n in range(80)]
    assert context_free_predicts(pairs)["accuracy"] > 0.95
    alike = [Replies(p.tree, texts(language, n), p.other, "") for n, p in enumerate(pairs)]
    low, high = context_free_predicts(alike)["ci"]
    assert low <= 0.5 <= high


@pytest.mark.slow
def test_somebody_elses_note_is_no_style():
    """Each reply names what its note says; the misinformed one's note is the next tree's."""

    def names(n, turn):
        return f"person{n % 20} thing{n % 20} {texts('en', 97 * n + turn)}"

    pairs = [
        Replies(f"t{n}", names(n, turn), names(n + 1, turn + 9), f"t{(n + 1) % 20}") for n in range(20) for turn in range(4)
    ]
    found = context_free_predicts(pairs)
    assert found["folds"] == 20 and found["ci"][0] <= 0.5 <= found["ci"][1]
    assert context_free_predicts([Replies(p.tree, p.chosen, p.other, "") for p in pairs])["accuracy"] < 0.3  # without `of`


def test_a_reply_that_two_trees_have_is_not_fitted_on():
    pairs = [Replies(f"t{n}", texts("en", n), texts("en", (n + 1) % 30), "") for n in range(30)]
    found = context_free_predicts(pairs)
    assert found["ci"][0] <= 0.5 <= found["ci"][1]


def test_many_trees_are_left_out_in_parts_and_one_gives_nothing():
    many = [Replies(f"t{n}", texts("en", n, "warmly"), texts("en", -n - 1), "") for n in range(60)]
    found = context_free_predicts(many)
    assert found["folds"] == 20 and found["accuracy"] > 0.9 and found["ci"][0] > 0.7
    assert context_free_predicts(many[:1]) is context_free_predicts([]) is None
