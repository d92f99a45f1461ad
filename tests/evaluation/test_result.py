"""The result from scores: comparisons with base, several judges, the wrong persona, models without a score."""

import pytest
from scoring import ABSENT, PEOPLE, made

from stages.core.cli import UserError
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import case_rows, evaluation, headline_judges
from stages.evaluation.scores import Judgement, Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import table


def evaluated(scores, calibration=None):
    return evaluation(scores, Eval(seed=1, resamples=300), Scale(1, 5), calibration or Calibration(), JudgeFree())


def test_the_gain_is_measured_on_replies_that_both_have():
    def sft(case, turn, _):
        """The case on which it would have been best is missing, the last turns of another are unscored or missing."""
        if case == 0 or (case, turn) == (5, 4):
            return ABSENT
        return None if (case, turn) in ((1, 3), (1, 4)) else 3 + case % 2

    scores = made({"base": lambda c, k, _: 2 + c % 2, "sft": sft})
    found = evaluated(scores)
    assert found["models"]["sft"]["n_cases"] == 5 and found["models"]["base"]["n_cases"] == 6
    assert found["models"]["sft"]["unscored"] == 3 and found["models"]["sft"]["no_row"] == 1
    gain = found["vs_base"]["sft"]
    assert gain["n_cases"] == 5 and gain["difference"] == 1.0 and gain["difference_ci"] == [1.0, 1.0]
    text = table(found)
    assert "sft: 1 of its 20 turns are missing or not judged." in text and "gave no score to 2 of 43 replies" in text
    assert len([r for r in case_rows(scores, ["judge"]) if r["model"] == "sft"]) == 5


def test_a_wrong_persona_and_an_oracle_tell_fit_from_flattery():
    planted = {
        "base": lambda c, k, persona: 2 + (c + k) % 2,
        "sft": lambda c, k, persona: 4 + (c + k) % 2,  # flattering: everybody likes it
        "dpo": lambda c, k, persona: (3 if persona == "right" else 2) + (c + k) % 2,
        "oracle": lambda c, k, persona: 5 if persona == "right" else 2,
    }
    found = evaluated(made(planted, personas=("right", "wrong")))
    proper = {n: m["personalisation"]["value"] for n, m in found["models"].items()}
    assert proper == {"base": 0, "sft": 0, "dpo": 1, "oracle": 3}
    gains = {n: g["difference"] for n, g in found["vs_base"].items()}
    assert gains["sft"] == 2 > gains["dpo"] == 1
    more = {n: g["personalisation"] for n, g in found["vs_base"].items()}
    assert more["sft"]["difference"] == 0 and more["sft"]["p"] == 1.0
    assert more["dpo"]["difference"] == 1 and more["dpo"]["ci"] == [1, 1] and more["dpo"]["p_holm"] <= 0.1
    assert found["vs_base"]["dpo"]["share_of_gain"] == {"value": 0.4, "ci": [0.4, 0.4], "why": None}


def two_judges():
    """`good` tells four models apart; `bad` scores by case and turn alone, and gives none to the first reply."""
    names = ("base", "sft", "dpo", "oracle")
    scores = made({name: lambda c, k, _, n=n: 1 + n for n, name in enumerate(names)}, judges=("good",))
    for name in names:
        for case, profile in enumerate(PEOPLE):
            for turn in range(1, 5):
                score = None if (case, turn) == (0, 1) else 1 + (case + turn) % 5
                row = Judgement(
                    model=name, judge="bad", case=f"c{case}", turn=turn, score=score, profile=profile, spread=0.5
                )
                scores.add(row, "bad")
    return scores


def test_a_judge_that_failed_is_left_out_and_marked():
    judges = {"good": {"passed": True, "accuracy": 0.9}, "bad": {"passed": False, "accuracy": 0.2}}
    found = evaluated(two_judges(), Calibration(judges=judges, made_data=["good"]))
    assert found["protocol"]["judges"] == ["good"] and found["vs_base"]["dpo"]["difference"] == 2
    text = table(found)
    assert "bad (!)" in text and "(!) bad failed its calibration (accuracy 0.20)" in text
    assert "good made the training data, too" in text and "Judge by judge" in text
    assert found["judges"]["bad"]["models"]["dpo"]["difference"] == 0 and found["judges"]["bad"]["unscored"] == 4
    assert found["judges"]["bad"]["spread"] == 0.5 and found["judges"]["good"]["spread"] is None
    assert found["agreement"]["replies"] == 92 and found["agreement"]["alpha"] < 0.5


def test_without_calibration_the_score_is_the_mean_of_the_judges_where_all_gave_one():
    found = evaluated(two_judges())
    assert found["protocol"]["judges"] == ["bad", "good"] and found["models"]["base"]["unscored"] == 1
    assert found["vs_base"]["dpo"]["difference"] == 1 and found["judges"]["good"]["passed"] is None
    assert found["judges"]["good"]["made_data"] is None


def test_a_judge_must_have_judged_every_model():
    scores = made({"base": lambda c, k, _: 2})
    more = made({"sft": lambda c, k, _: 3}, judges=("other",))
    scores.scores |= more.scores
    scores.cases |= more.cases
    with pytest.raises(UserError, match=r"no judge scored every model: judge, other"):
        headline_judges(scores, {})


def test_a_model_without_any_score_is_null_everywhere():
    found = evaluated(made({"base": lambda c, k, _: 3, "x": lambda c, k, _: None}, turns=2, profiles="abc"))
    nothing = found["models"]["x"]
    assert nothing["al"] == [None, None] and nothing["unscored"] == 6 and nothing["n_cases"] == 3
    assert [nothing[k] for k in ("al_mean", "area", "ir", "n_ir", "r2")] == [None] * 5
    gain = found["vs_base"]["x"]
    assert gain["n_cases"] == 0 and gain["p"] is None and gain["p_holm"] is None and gain["ci"] == [None, None]
    assert "judge gave no score to 6 of 12 replies" in table(found)
    assert nothing["degeneration"] is None
