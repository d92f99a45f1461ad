"""Words, and how much of one text is in another."""

import pytest

from stages.text import ngrams


def test_words_are_lower_case_and_keep_their_apostrophes():
    assert ngrams.words("I\u2019ve 2 CATS, l'été_x — don't!") == ["i've", "2", "cats", "l'été", "x", "don't"]


def test_signs_of_chinese_and_japanese_are_words():
    assert ngrams.words("我养蜜蜂，don't カメ・ラ") == ["我", "养", "蜜", "蜂", "don't", "カ", "メ", "ラ"]
    assert ngrams.coverage("我养蜜蜂。", "我在屋顶上养蜜蜂，怎么办？") == pytest.approx(2 / 3)  # of pairs of signs
    assert ngrams.coverage("我养蜜蜂。", "蜂蜜我养不起。") == pytest.approx(1 / 3)
    assert ngrams.words("साइकिल ที่") == ["साइकिल", "ท", "ี", "่"]  # marks are no ends of words


def test_stems_meet_and_function_words_carry_nothing():
    assert ngrams.content("I mend the nets, mending them") == {"mend", "net"}


@pytest.mark.parametrize(
    "fact, text, share",
    [("I mend old nets.", "The nets!", 1 / 3), ("I mend nets.", "Mending a net", 1.0), ("I am.", "", 1.0)],
)
def test_coverage_of_a_fact(fact, text, share):
    assert ngrams.coverage(fact, text) == share


@pytest.mark.parametrize("text, share", [("a b c a b c", 1 / 4), ("so so so so", 1 / 2), ("a b", 0.0)])
def test_repetition(text, share):
    assert ngrams.repetition(text) == share


@pytest.mark.parametrize(
    "text, sources, share",
    [
        ("I like red apples and pears.", [], 0.0),
        ("I like red apples and pears.", ["You like red apples!"], 1 / 4),
        ("I like red apples.", ["I like red apples.", "No."], 1.0),
        ("Red apples", ["Red apples"], 0.0),  # too short to be taken from anywhere
    ],
)
def test_what_of_a_text_stands_in_others(text, sources, share):
    assert ngrams.containment(text, sources) == share


@pytest.mark.parametrize("a, b, share", [("a b c d", "b c d e", 1 / 3), ("hi", "hi", 1.0), ("hi", "Hi", 0.0)])
def test_jaccard(a, b, share):
    assert ngrams.jaccard(a, b) == ngrams.jaccard(b, a) == share
