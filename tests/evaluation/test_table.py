"""The result as text, and again without running anything."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, complains
from scoring import made

from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import table


def evaluated(**models):
    scores = made({name: lambda c, k, _, v=value: v for name, value in models.items()}, turns=2, profiles="ab")
    return evaluation(scores, Eval(seed=1, resamples=50), Scale(0, 100), Calibration(), JudgeFree())


def test_notes_say_what_cannot_be_compared():
    text = table(evaluated(base=50.0, x=75.0))
    assert "Scores are on a scale of 0-100" in text and "With 2 profiles intervals are too narrow and no p" in text
    assert "Of possible" in text and "not given, no oracle" in text and "no reply was judged against another persona" in text
    assert "+50.0 %" in text and "Cost: the form" not in text
    alone = table(evaluated(y=3.0))
    assert "No model is called base" in alone and "vs base" not in alone


@pytest.mark.slow
def test_the_command_prints_a_result_again(tmp_path):
    def run(text):
        (tmp_path / "eval.json").write_text(text)
        command = [sys.executable, "-m", "stages.evaluation.table", str(tmp_path / "eval.json")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    result = evaluated(base=50.0)
    assert run(json.dumps(result)).stdout == table(result) + "\n"
    complains(run('{"models": {}}'), "eval.json: is not a result of stages.eval")
