"""Recompute: the table of eval from somebody else's per-turn scores."""

import csv
import json
import sys

import pytest
from conftest import complains
from scoring import PEOPLE

from stages.evaluation.inputs import Calibration, read_judgements
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import table
from stages.tools import recompute

MODELS = {"base": 0.0, "dpo": 0.5, "oracle": 0.75}


def recomputed(project, text, *words, name="scores.csv", check=True):
    (project.folder / name).write_text(text)
    project.set(eval__resamples=300)
    return project._run(["stages.tools.recompute", name, "--result", "results/eval.json", *words], check)


def result(project):
    return json.loads((project.folder / "results/eval.json").read_text())


def test_somebody_elses_scores_give_the_same_table(project):
    rows = [
        {"model": name, "case": f"c{c}", "turn": k, "score": min(5, 2 + c % 2 + rise * k), "profile": PEOPLE[c]}
        for name, rise in MODELS.items() for c in range(6) for k in range(1, 5)
    ]  # fmt: skip
    files = []
    for name in MODELS:
        own = [{**r, "id": r["case"]} for r in rows if r["model"] == name]
        files.append(project.folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(r) + "\n" for r in own))
    settings, scale = Eval(seed=project.params.eval.seed, resamples=300), Scale(1, 5)
    ours = evaluation(read_judgements(files, scale), settings, scale, Calibration(), JudgeFree())
    with (project.folder / "made.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    as_csv = recomputed(project, (project.folder / "made.csv").read_text(), "--cases", "results/cases.jsonl")
    assert result(project) == ours and as_csv.stdout == table(ours) + "\n" and len(project.rows("results/cases.jsonl")) == 18
    as_jsonl = recomputed(project, "".join(json.dumps(r) + "\n" for r in rows), name="scores.jsonl")
    assert as_jsonl.stdout == as_csv.stdout


def test_another_scale_blanks_and_missing_columns(project):
    text = (
        "Model,Case,Turn,Score\nbase,1,1,40\nbase,1,2,NA\nbase,2,1,60\nbase,2,2,\nx,1,1,100\nx,1,2,0\nx,2,1,100\nx,2,2,0\n\n"
    )
    recomputed(project, text, "--scale", "0-100")
    found = result(project)
    assert found["models"]["base"]["unscored"] == 2 and found["models"]["base"]["ir"] is None and found["scale"] == "0-100"
    assert found["vs_base"]["x"]["difference"] == 50 and found["vs_base"]["x"]["relative_improvement"] == 1.0
    assert found["protocol"]["profiles"] == 2, "without profiles every case stands for itself"


def test_faults_are_one_line(project):
    complains(recomputed(project, "model,case,turn\na,1,1\n", check=False), "scores.csv:1", "score")
    complains(recomputed(project, "model,case,turn,score\na,1,1,3\n", "--scale", "5-1", check=False), "scale 5-1")


def test_help_imports_nothing_heavy(monkeypatch, capsys):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", ["recompute", "--help"])
    with pytest.raises(SystemExit) as ended:
        recompute.main()
    assert ended.value.code == 0 and not {"torch", "pandas"} & (set(sys.modules) - before)
    assert "model`, `case`, `turn`" in capsys.readouterr().out
