"""Calibrate: the items, what is asked, and judges of known worth."""

import json
from collections import Counter
from statistics import fmean

import numpy as np
import pytest
from conftest import ROOT, complains
from hypothesis import given
from hypothesis import strategies as st

from stages.core import prompts
from stages.core.prompts import Prompt
from stages.judging import calibration
from stages.judging.calibration import BEST, KINDS
from stages.judging.settings import Calibrate

ITEMS = calibration.read(ROOT / "data/calibration/items.jsonl")
SETTINGS = Calibrate(seed=1, resamples=500, min_accuracy=0.75, max_length_bias=0.3, min_scored=0.9)


def words(item):
    return len(item["reply"].split())


def test_sixty_items_of_twelve_people():
    assert len(ITEMS) == 60 and Counter(i["kind"] for i in ITEMS) == dict.fromkeys(KINDS, 12)
    assert len({i["profile"] for i in ITEMS}) == len({i["personality"] for i in ITEMS}) == 12
    assert len({i["reply"] for i in ITEMS}) == 60
    for context in {i["context"] for i in ITEMS}:
        same = [i for i in ITEMS if i["context"] == context]
        assert len({json.dumps([i["profile"], i["conversation"], i["message"]]) for i in same}) == 1
        assert 1 <= len(same[0]["conversation"]) <= 3


def test_length_does_not_tell_the_kinds_apart():
    """Each kind has six short and six long replies, so a judge that goes by length alone is right half of the time."""
    for kind in KINDS:
        lengths = sorted(words(i) for i in ITEMS if i["kind"] == kind)
        assert lengths[5] <= 17 and lengths[6] >= 30
        assert fmean(lengths) == pytest.approx(fmean(map(words, ITEMS)), rel=0.1)
    for sign in (1, -1):
        found = worth([float(sign * words(i)) for i in ITEMS])
        assert 0.35 <= found["accuracy"] <= 0.65 and found["length_bias"] == sign and not found["passed"]


def rows(scores):
    return [{"score": s, "mass": None} for s in scores]


def worth(scores, again=None):
    return calibration.worth(ITEMS, rows(scores), rows(again or scores), SETTINGS)


def test_a_judge_that_knows_is_told_from_one_that_does_not():
    knows = worth([5.0 if i["kind"] == BEST else 2.0 for i in ITEMS])
    assert knows["passed"] and knows["accuracy"] == 1 and knows["accuracy_ci"] == [1, 1] and knows["comparisons"] == 48
    assert knows["length_bias"] is None and knows["means"][BEST] == 5 and knows["failed"] == []
    flat = worth([3.0] * 60)
    assert not flat["passed"] and flat["accuracy"] == 0.5 and flat["accuracy_ci"] == [0.5, 0.5]
    assert flat["self_agreement"] is None
    flattered = worth([{"flattering": 5.0, BEST: 4.0}.get(i["kind"], 1.0) for i in ITEMS])
    assert flattered["accuracy_by_kind"] == {"generic": 1, "wrong_person": 1, "flattering": 0, "reciting": 1}
    backwards = worth([1.0 if i["kind"] == BEST else 2.0 for i in ITEMS])
    assert backwards["accuracy"] == 0 and "accuracy 0.0, below 0.75" in backwards["failed"]


def test_length_bias_fails_a_judge_that_is_right():
    long = worth([words(i) / 100 + (3.0 if i["kind"] == BEST else 1.0) for i in ITEMS])
    assert long["accuracy"] == 1 and long["length_bias"] == 1 and not long["passed"] and long["long_minus_short"] > 0.2
    assert long["failed"] == ["length bias 1.0, beyond 0.3"]


def test_unscored_replies_are_counted_and_compared_with_nothing():
    scores = [5.0 if i["kind"] == BEST else 2.0 for i in ITEMS]
    scores[ITEMS.index(next(i for i in ITEMS if i["kind"] == BEST))] = None
    found = worth(scores)
    assert found["unscored"] == 1 and found["n"] == 59 and found["comparisons"] == 44 and found["passed"]
    few = worth([s if n % 2 else None for n, s in enumerate(scores)])
    assert not few["passed"] and few["failed"][0].startswith("scored 0.50 of the replies")
    none = worth([None] * 60)
    assert none["accuracy"] is None and not none["passed"] and none["means"][BEST] is None


def test_an_interval_of_chance_covers_it():
    noise = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        low, high = worth(list(noise.random(60)))["accuracy_ci"]
        covered += low <= 0.5 <= high
    assert covered >= 34


@given(st.lists(st.integers(1, 5), min_size=2, max_size=20))
def test_ranks_are_those_of_the_definition(values):
    by_hand = [sum(v < x for v in values) + sum(v == x for v in values) / 2 for x in values]
    assert calibration.ranks(np.array(values, dtype=float)) == pytest.approx(np.array(by_hand) - np.mean(by_hand))


def test_agreement_with_itself():
    a = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert calibration.agreement(a, a) == 1 and calibration.agreement([2.0] * 5, [2.0] * 5) is None
    assert calibration.agreement(a, a[::-1]) < 0 and calibration.agreement([*a, None], [*a, 1.0]) == 1
    # Krippendorff's alpha by its definition over all pairable values
    b = [1.0, 3.0, 3.0, 4.0, 4.0]
    every = a + b
    expected = np.mean([(x - y) ** 2 for i, x in enumerate(every) for j, y in enumerate(every) if i != j])
    assert calibration.agreement(a, b) == pytest.approx(
        1 - np.mean([(x - y) ** 2 for x, y in zip(a, b, strict=True)]) / expected, abs=1e-4
    )


def test_the_second_asking_turns_the_examples_around():
    prompt = prompts.load(ROOT / "prompts/judge.txt")
    chat, again = prompt.parts, calibration.turned(prompt).parts
    assert again[0] == chat[0] and again[-1] == chat[-1] and again[1:3] == chat[-3:-1] and sorted(again) == sorted(chat)
    one = Prompt(ROOT, (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "{reply}")))
    assert calibration.turned(one) == one


def calibrated(project):
    project.run("calibrate")
    return json.loads((project.folder / "results/judge/calibration.json").read_text())


def test_judges_side_by_side_and_the_makers_of_the_data(project, server):
    replies = {i["reply"] for i in ITEMS if i["kind"] == BEST}

    def says(body):
        fits = body["messages"][-1]["content"].rsplit("Reply: ", 1)[1] in replies
        return {"good": "5" if fits else "2", "flat": "3"}[body["model"]]

    server.reply = says
    project.set(judge__models=["scripted:good", "scripted:flat"], roles__verifier_model="scripted:flat")
    found = calibrated(project)
    good, flat = found["judges"]["scripted:good"], found["judges"]["scripted:flat"]
    assert good["passed"] and good["accuracy"] == 1 and good["self_agreement"] == 1 and not good["made_data"]
    assert not flat["passed"] and flat["accuracy"] == 0.5 and flat["made_data"]
    assert found["made_data"] == ["scripted:flat", "scripted:tiny"] and found["items"] == 60
    assert len(server.requests) == found["calls"]["all"]["calls"] == 240
    assert "reverse order" in found["self_agreement_between"] and "greedy" in found["self_agreement_between"]
    shown = {json.dumps(b["messages"][1:-1]) for b in server.requests}
    assert len(shown) == 2


@pytest.mark.parametrize(
    "change, says",
    [
        ({"kind": "nice"}, "kind 'nice' is none of"),
        ({"reply": None}, "items.jsonl:3: a calibration item needs reply"),
        ({"conversation": [{"user": "x"}]}, "items.jsonl:3: a calibration item needs conversation"),
        ({"context": "c99"}, "context c01 has 0 items of kind wrong_person"),
        ({"id": "c01-tailored"}, "id c01-tailored is there more than once"),
    ],
)
def test_faults_of_the_items_are_named(project, change, says):
    path = project.folder / "data/calibration/items.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join(lines))
    complains(project.run("calibrate", check=False), says)
    path.write_text("")
    complains(project.run("calibrate", check=False), "holds no calibration item")
