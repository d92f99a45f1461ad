"""Report: everything that is there is shown, what is not is said to be missing, and texts stay texts."""

import json
import re
import subprocess
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from conftest import Project, complains
from scoring import made

from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import case_rows, evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.tools import report

pytestmark = pytest.mark.slow

TURNS = 3
ODD = '<img src="x"> & | $y$'  # a model's name that HTML, Markdown and LaTeX would read


def ranking(value):
    """A part of recognition, as stage eval writes it."""
    by_turn = {"mrr": [value] * TURNS, "mrr_ci": [[value, value]] * TURNS, "top1": [0.5] * TURNS}
    return by_turn | {"mrr_mean": value, "mrr_mean_ci": [value, value], "top1_mean": 0.5, "top1_mean_ci": [0, 1]}


def with_recognition(result):
    """The result with what conversations would have measured."""
    for model in result["models"].values():
        above = {"above_message": 0.1, "above_message_ci": [0.0, 0.2], "above_message_p": 0.25, "so_far": ranking(0.75)}
        later = {name: {"mean": 0.5, "ci": [0.4, 0.6]} for name in ("reply", "new", "recalls")}
        model["recognition"] = ranking(0.625) | above | {"later": later, "over_no_memory": None}
        form = ("words", "repetition", "repeats_earlier", "loops", "echo", "distinct_1", "distinct_2", "distinct_3")
        model["degeneration"] = dict.fromkeys(form, 0.375)
    result["recognition"] = {
        "personas": 6, "chance_mrr": 0.4083, "chance_top1": 0.1667, "user_of": "base",
        "from_user_message": ranking(0.5625), "from_user_turns": ranking(0.9375),
    }  # fmt: skip


def write(project, models=("base", "dpo", "oracle"), recognition=True, judges=("embedded",), calibration=None):
    """results/ for some models, all that a report reads; returns the result."""

    def score(n, model):
        return lambda case, turn, persona: (
            None if (model, case, turn) == ("dpo", 0, 3) else min(5.0, 1 + case % 2 + n * (persona == "right"))
        )

    scores = made(
        {model: score(n, model) for n, model in enumerate(models)},
        TURNS, judges, ("right", "wrong"), [f"p{case // 2}" for case in range(6)],
    )  # fmt: skip
    known = Calibration(**calibration or {})
    result = evaluation(scores, Eval(seed=1, resamples=200), Scale(1, 5), known, JudgeFree())
    if recognition:
        with_recognition(result)
    rows = case_rows(scores, result["protocol"]["judges"], {})
    result["protocol"] |= {"params": {"judge": {"model": "scripted:tiny"}}, "versions": {"numpy": "2.4.6"}}
    folder = project.folder / "results"
    folder.mkdir()
    (folder / "eval.json").write_text(json.dumps(result))
    (folder / "eval_cases.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return result


def written(project, *words):
    """(what was printed, the page, the Markdown)."""
    done = project._run(["stages.tools.report", *words], check=True)
    return done.stdout, *((project.folder / "results" / f"report.{end}").read_text() for end in ("html", "md"))


def cells(text, name):
    """Cells of the first row of the Markdown that begins with `name`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """(project, what was printed, the page, the Markdown) of three models whose judge failed its calibration."""
    project = Project(tmp_path_factory.mktemp("report"), "http://127.0.0.1:1/v1")
    judge = {"passed": False, "accuracy": 0.2125, "length_bias": 0.4, "n": 60}
    write(project, calibration={"judges": {"embedded": judge}, "made_data": ["embedded"]})
    return project, *written(project)


def test_the_page_holds_the_whole_result(default):
    _, printed, page, text = default
    assert "results/report.html" in printed
    parts = [
        "AL(1)", "right-wrong", "of possible", "N-R2", "unscored", "95 % interval", "0.94", "0.56", "0.41", "embedded (!)",
        "failed its calibration", "(accuracy 0.21)", "made the training data", "versions.numpy", "2.4.6",
        "params.judge.model",
    ]  # fmt: skip
    for part in parts:
        assert part in page and part in text, part
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == 3 and "<svg" not in text
    for svg in drawn:
        ElementTree.fromstring(svg)
    assert "://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page and "default-src 'none'" in page


def test_the_same_result_gives_the_same_page(default):
    project, *first = default
    assert written(project) == tuple(first)


def test_a_verdict_needs_the_interval_and_the_corrected_p(default):
    # six cases in three profiles: the interval excludes 0, but no p can be below 0.25
    assert cells(default[-1], "dpo") == ["cannot be told from base", "cannot be told from base", "not measured"]

    def verdict(value, ci, p):
        return report.verdict({"difference": value, "ci": ci, "p": p}, "difference", "ci", "p")

    assert verdict(1.0, [0.5, 1.5], 0.01) == "above base" and verdict(-1.0, [-2.0, -0.5], 0.01) == "below base"
    assert verdict(1.0, [0.5, 1.5], 0.2) == verdict(1.0, [-0.5, 1.5], 0.01) == "cannot be told from base"
    assert verdict(None, [None, None], None) == "not measured"


def test_cases_are_counted_beside_base(default):
    section = default[-1].split("## Differences to base")[1]
    assert cells(section, "dpo") == ["6", "6", "0", "0", "+1.00", "+1.00 to +1.00"]


def test_what_is_missing_is_named(project):
    write(project, models=("mine", "theirs"), recognition=False)
    _, _, text = written(project)
    for part in ("No model is called base", "no measure without a judge", "not calibrated"):
        assert part in text, part
    assert "Differences to base" not in text and "Above or below base" not in text


def test_names_stay_text(project):
    write(project, models=("base", ODD), judges=("a|b", "c"))
    _, page, text = written(project)
    assert "<img" not in page and "&lt;img src=&#34;x&#34;&gt; &amp; | $y$" in page
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 40
    rules = 0
    for head, rule in pairwise(tables):
        if set(rule) <= set("|-:"):
            rules += 1
            assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", rule))
    assert rules > 10 and "Krippendorff" in text and "a\\|b" in text


def test_what_differs_from_a_revision_comes_first(project):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=project.folder, check=True)

    result = write(project)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "before <b>")
    mean = result["models"]["dpo"]["al_mean"]
    result["models"]["dpo"]["al_mean"] = 1.25
    result["protocol"]["params"]["judge"]["model"] = "another"
    (project.folder / "results/eval.json").write_text(json.dumps(result))
    _, page, text = written(project, "--against", "HEAD")
    assert text.index("## Against HEAD") < text.index("## Result") and "before &lt;b&gt;" in page
    before, now = text.split("## Result")
    assert cells(before.split("Alignment by turn")[1], "dpo")[4] == f"{mean:.2f}"
    assert cells(now.split("Alignment by turn")[1], "dpo")[4] == "1.25"
    assert cells(text, "params.judge.model") == ["scripted:tiny", "another"]
    complains(project._run(["stages.tools.report", "--against", "nowhere"], check=False), "'nowhere'")


def test_a_result_of_another_kind_is_refused(project):
    write(project)
    path = project.folder / "results/eval.json"
    path.write_text('{"models": {}}')
    complains(project._run(["stages.tools.report"], check=False), "eval.json", "dvc repro eval")
    path.unlink()
    complains(project._run(["stages.tools.report"], check=False), "eval.json", "make repro")
    assert not (project.folder / "results/report.html").exists()
