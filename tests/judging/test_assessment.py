"""Assessment of judges whose quality is known, on the repository's calibration items."""

from statistics import fmean

import numpy as np
import pytest
from conftest import ROOT

from stages.judging.assessment import assessment, self_agreement
from stages.judging.calibration import BEST, KINDS, read
from stages.judging.settings import Calibrate

ITEMS = read(ROOT / "data/calibration/items.jsonl")
SETTINGS = Calibrate(seed=1, resamples=500, min_accuracy=0.75, max_length_bias=0.3, min_scored=0.9)


def words(item):
    return len(item["reply"].split())


def rows(scores):
    return [{"score": s, "mass": None} for s in scores]


def assessed(scores, again=None):
    return assessment(ITEMS, rows(scores), rows(again or scores), SETTINGS)


def test_length_does_not_tell_the_kinds_apart():
    """Each kind has six short and six long replies, so a judge that goes by length alone is right half of the time."""
    for kind in KINDS:
        lengths = sorted(words(i) for i in ITEMS if i["kind"] == kind)
        assert lengths[5] <= 17 and lengths[6] >= 30
        assert fmean(lengths) == pytest.approx(fmean(map(words, ITEMS)), rel=0.1)
    for sign in (1, -1):
        found = assessed([float(sign * words(i)) for i in ITEMS])
        assert 0.35 <= found["accuracy"] <= 0.65 and found["length_bias"] == sign and not found["passed"]


def test_a_judge_that_knows_is_told_from_one_that_does_not():
    knows = assessed([5.0 if i["kind"] == BEST else 2.0 for i in ITEMS])
    assert knows["passed"] and knows["accuracy"] == 1 and knows["accuracy_ci"] == [1, 1] and knows["comparisons"] == 48
    assert knows["length_bias"] is None and knows["means"][BEST] == 5 and knows["failed"] == []
    flat = assessed([3.0] * 60)
    assert not flat["passed"] and flat["accuracy"] == 0.5 and flat["accuracy_ci"] == [0.5, 0.5]
    assert flat["self_agreement"] is None
    flattered = assessed([{"flattering": 5.0, BEST: 4.0}.get(i["kind"], 1.0) for i in ITEMS])
    assert flattered["accuracy_by_kind"] == {"generic": 1, "wrong_person": 1, "flattering": 0, "reciting": 1}
    backwards = assessed([1.0 if i["kind"] == BEST else 2.0 for i in ITEMS])
    assert backwards["accuracy"] == 0 and "accuracy 0.0, below 0.75" in backwards["failed"]


def test_length_bias_fails_a_judge_that_is_right():
    long = assessed([words(i) / 100 + (3.0 if i["kind"] == BEST else 1.0) for i in ITEMS])
    assert long["accuracy"] == 1 and long["length_bias"] == 1 and not long["passed"] and long["long_minus_short"] > 0.2
    assert long["failed"] == ["length bias 1.0, beyond 0.3"]


def test_unscored_replies_are_counted_and_compared_with_nothing():
    scores = [5.0 if i["kind"] == BEST else 2.0 for i in ITEMS]
    scores[ITEMS.index(next(i for i in ITEMS if i["kind"] == BEST))] = None
    found = assessed(scores)
    assert found["unscored"] == 1 and found["n"] == 59 and found["comparisons"] == 44 and found["passed"]
    few = assessed([s if n % 2 else None for n, s in enumerate(scores)])
    assert not few["passed"] and few["failed"][0].startswith("scored 0.50 of the replies")
    none = assessed([None] * 60)
    assert none["accuracy"] is None and not none["passed"] and none["means"][BEST] is None


def test_an_interval_of_chance_covers_it():
    noise = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        low, high = assessed(list(noise.random(60)))["accuracy_ci"]
        covered += low <= 0.5 <= high
    assert covered >= 34


def test_the_interval_is_wider_than_the_plain_percentiles():
    """Half of the twelve contexts are won: the plain percentiles of twelve tosses of a coin are 3/12 and 9/12."""
    won = {c: n % 2 == 0 for n, c in enumerate(sorted({i["context"] for i in ITEMS}))}
    low, high = assessed([(5.0 if won[i["context"]] else 1.0) if i["kind"] == BEST else 3.0 for i in ITEMS])["accuracy_ci"]
    assert low < 3 / 12 - 0.01 and high > 9 / 12 + 0.01


def test_agreement_with_itself():
    a = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert self_agreement(a, a) == 1 and self_agreement([2.0] * 5, [2.0] * 5) is None
    assert (
        self_agreement(a, a[::-1]) < 0
        and self_agreement([*a, None], [*a, 1.0]) == 1
        and self_agreement([None], [1.0]) is None
    )
