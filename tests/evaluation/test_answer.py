"""The answer: what is said of a gain, of none, of its origin and cost, of a judge, and of what was not measured."""

import pytest
from scoring import PEOPLE, made, with_choice

from stages.evaluation.answer import LINES, WIDTH, answer, chosen, of_choice, verdict
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import measured
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval

PASSED = {"judges": {"judge": {"passed": True, "accuracy": 0.9}}}
FAILED = {"judges": {"judge": {"passed": False, "accuracy": 0.55}}, "made_data": ["judge"]}


def result(*names, calibration=None, loops=(), talked=True, better=()):
    """A result of six cases of two turns: arms in `loops` say one thing for ever, the judge prefers those in `better`."""
    scores = made({n: lambda c, k, _, n=n: 2 + 2 * (n in better) + c % 2 for n in names}, turns=2)

    def turns(name):
        replies = (
            ["We went home by the river."] * 2 if name in loops else ["Boats sink when it blows.", "My cat eats fresh fish."]
        )
        return [{"turn": k, "user": "Hi.", "reply": reply} for k, reply in enumerate(replies, 1)]

    talks = {n: {f"c{c}": {"turns": turns(n)} for c in range(len(PEOPLE))} for n in names if talked}
    return evaluation(
        scores, Eval(seed=1, resamples=100), Scale(1, 5), Calibration(**calibration or {}), measured(talks, scores.ids, 2)
    )


def said(found):
    """The answer in one line, once its form is looked at."""
    lines = answer(found)
    assert len(lines) <= LINES == 22 and max(map(len, lines)) <= WIDTH
    return " ".join(" ".join(lines).split())


def test_a_gain_its_origin_and_its_cost():
    found = result("base", "sft", "dpo", "dpo_no_memory", calibration=PASSED, loops=("dpo",), better=("sft",))
    text = said(with_choice(found, {"base": 0.5, "sft": 0.5, "dpo": 2.5, "dpo_no_memory": 0}))
    assert text.startswith("Better than base at inferring their user: dpo. ")
    assert "dpo: yes (without the history 0.50, dpo_no_memory 0.50)" in text
    assert "More than base: repeating earlier replies (base 0.00): dpo 1.00." in text
    assert "Not measured: bringing up the user where it does not help. With 6 users the intervals are too narrow." in text
    assert (
        "The judge? judge (accuracy 0.90) passed its calibration. It tells no arm from base." in text
    )  # p Holm 3 * 2 / 2^6


def test_no_gain_is_said_and_what_base_can_do():
    text = said(with_choice(result("base", "dpo"), {"base": 2.5, "dpo": 2.5}))
    assert text.startswith("No arm infers its user better than base. Base itself is above chance.")
    assert "base: yes (without the history 0.50)" in text and "At what cost? None is shown." in text
    assert "judge was not calibrated, so doubt it" in text
    text = said(with_choice(result("base", "dpo"), {"base": 2.5, "dpo": 0}))
    assert text.startswith("No arm infers its user better than base. Worse than base: dpo.")
    text = said(with_choice(result("base", "dpo"), {"base": 0, "dpo": 0}))
    assert "Base itself is at chance." in text and "base: nothing shown" in text


def test_what_was_told_otherwise_is_no_inference():
    found = with_choice(result("base", "oracle"), {"base": 0.5, "oracle": 2.5}, told=["oracle"])
    text = said(found)
    assert text.startswith("No arm infers its user better than base.")
    assert "Told its user without it, which is no inference: oracle." in text
    assert "base: yes" in said(with_choice(result("base", "dpo"), {"base": 1.5, "dpo": 1.5}))
    assert "base: shared words would do" in said(with_choice(result("base", "dpo"), {"base": 1.5, "dpo": 1.5}, words=1.0))


def test_a_judge_that_failed_is_not_quoted():
    text = said(result("base", "dpo", calibration=FAILED, better=("dpo",)))
    assert "Not to be believed: judge (accuracy 0.55) failed calibration" in text and "It made the training data" in text
    assert "above base" not in text
    assert "above base: dpo" in said(result("base", "dpo", calibration=PASSED, better=("dpo",)))


def test_over_personalisation_is_a_cost_where_it_was_measured():
    found = with_choice(result("base", "dpo"), {"base": 0.5, "dpo": 2.5})
    for name, value in (("base", 0.1), ("dpo", 0.4)):
        found["models"][name]["over_personalisation"] = {"value": value, "ci": [value, value]}
    found["vs_base"]["dpo"]["over_personalisation"] = {"difference": 0.3, "ci": [0.2, 0.4]}
    text = said(found)
    assert "More than base: bringing up the user where it does not help (base 0.10): dpo 0.40." in text
    assert "Not measured" not in text
    found["vs_base"]["dpo"]["over_personalisation"]["ci"] = [-0.1, 0.4]
    assert "None is shown." in said(found)


def test_what_was_not_measured_is_said():
    text = said(result("base", "dpo", talked=False))
    assert text.startswith("Not measured: whether a model infers its user.") and "pairs right" not in text
    assert "At what cost? Not measured: bringing up the user where it does not help, repeating itself within a" in text


@pytest.mark.parametrize("name", ["base", "mine"])
def test_one_arm_is_compared_with_nothing(name):
    assert said(with_choice(result(name), {name: 1})).startswith(
        f"Nothing to compare: crossed choice was measured of {name}"
    )


def test_many_arms_fit():
    names = ["base", *(f"an_arm_with_a_long_name_{n}" for n in range(30))]
    found = with_choice(result(*names, calibration=FAILED, loops=names[1:]), dict.fromkeys(names[1:], 2.5) | {"base": 0.5})
    lines = answer(found)
    assert said(found) and len(lines) == LINES and sum(line.startswith("an_arm") for line in lines) >= 5
    shown = sum(line.startswith(("base", "an_arm")) for line in lines)
    assert f"... and {len(names) - shown} more arms" in said(found)


def test_a_twin_without_memory_is_a_column_unless_it_is_alone():
    planted = {"base": 1, "base_no_memory": 0, "mine_no_memory": 0}
    found = with_choice(result(*planted), planted)
    assert [m["name"] for m in chosen(found)] == ["base", "mine_no_memory"]
    assert [of_choice(m) for m in chosen(found)] == ["not measured", "below base"]


def test_a_verdict_needs_the_interval_and_the_corrected_p():
    assert verdict(1.0, [0.5, 1.5], 0.01) == "above base" and verdict(-1.0, [-2.0, -0.5], 0.01) == "below base"
    assert verdict(1.0, [0.5, 1.5], 0.2) == verdict(1.0, [-0.5, 1.5], 0.01) == "cannot be told from base"
    assert verdict(1.0, [0.5, 1.5], None) == "cannot be told from base"
    assert verdict(None, [None, None], None) == "not measured"
