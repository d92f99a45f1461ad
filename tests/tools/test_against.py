"""What a report says of another revision: its answer, params and prompts, read from git alone."""

import json
import subprocess
from pathlib import Path

import pytest
from scoring import made

from stages.core.cli import UserError
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.tools import against, blocks


def git(*words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True)


def result(score, judge):
    """A result of one model whose mean is `score`."""
    scores = made({"a.b": lambda *_: score}, turns=2, profiles="ab")
    found = evaluation(scores, Eval(seed=1, resamples=50), Scale(1, 5), Calibration(), JudgeFree())
    found["protocol"]["params"] = {"judge": {"model": judge}, "dpo": {"beta": score}, "eval": {"resamples": 1000 * score}}
    return found


def write(files):
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository of two commits whose params, prompts and results differ; the second one is tagged `new`."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    for text, temp, score, judge in (("Be kind.", 0.5, 1.5, "a:b"), ("Be | `kind`.\n```", 5e-6, 2.5, "c:d")):
        write({
            "prompts/user.txt": f"[system]\n{text}\n",
            "params.yaml": f"user: {{temp: {temp}, model: x}}\neval: {{resamples: {1000 * score:.0f}}}\n",
            "results/eval.json": json.dumps(result(score, judge)),
        })  # fmt: skip
        git("add", "-A")
        git("commit", "-qm", f"score {score}")
    git("tag", "new")


def page(name, judge="c:d"):
    return "".join(blocks.markdown("Test", list(against.section(name, result(2.5, judge)))))


def row(text, name):
    """Cells of the row that begins with `name`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_other_results_answer_comes_first_then_what_differs(history):
    text = page("main~1")
    assert "main~1 is " in text and "score 1.5; now is the workspace" in text
    order = [
        text.index(part) for part in ("### What was found in main~1", "judge was not calib", "### Params", "### Prompts")
    ]
    assert order == sorted(order)
    assert row(text, "user.temp") == ["0.5", "5e-06"] and "user.model" not in text
    assert "-Be kind.\n+Be | `kind`." in text and "--- a/prompts/user.txt" in text


def test_another_protocol_is_not_measured_in_the_same_way(history):
    text = page("main~1")
    assert "Not measured in the same way" in text and row(text, "params.judge.model") == ["a:b", "c:d"]
    assert "params.dpo" not in text, "what was trained on is compared, not measured with"


def test_another_bootstrap_is_no_other_measurement(history):
    text = page("main~1", judge="a:b")
    assert "Not measured in the same way" not in text and row(text, "eval.resamples") == ["1500", "2500"]


def test_nothing_changed_is_said(history):
    text = page("new")
    assert text.count("No difference.") == 2 and "Not measured in the same way" not in text


def test_the_workspace_is_what_is_compared(history):
    write({"prompts/user.txt": "[system]\nBe short.\n", "params.yaml": "user: {model: x}\n"})
    text = page("new", judge="e:f")
    assert "+Be short." in text and row(text, "user.temp") == ["5e-06", "absent"]
    assert row(text, "params.judge.model") == ["c:d", "e:f"]


def test_an_experiment_by_its_name_and_a_revision_without_a_result(history):
    git("update-ref", "refs/exps/ab/cdef/quiet-lake", "main~1")
    git("update-ref", "refs/exps/exec/EXEC_HEAD", "main")
    assert row(page("quiet-lake"), "user.temp") == ["0.5", "5e-06"]
    git("update-ref", "refs/exps/cd/cdef/quiet-lake", "main")
    with pytest.raises(UserError, match="ambiguous Git revision 'quiet-lake'"):
        against.commit_of("quiet-lake")
    with pytest.raises(UserError, match="'nowhere'"):
        against.commit_of("nowhere")
    for change in ("git rm -q results/eval.json", "echo '{}' > results/eval.json"):
        subprocess.run(f"mkdir -p results && {change} && git add -A", shell=True, check=True)
        git("commit", "-qm", "none")
        assert "HEAD has no results/eval.json as stage eval writes it" in page("HEAD")
