"""Report: everything that is there is shown, what is not is said to be missing, and texts stay texts."""

import json
import re
import subprocess
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from conftest import Project, complains
from repository import as_dvc_sees_it
from scoring import made, with_choice

from stages.evaluation.answer import answer
from stages.evaluation.inputs import Calibration
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval

pytestmark = pytest.mark.slow

TURNS = 3
ODD = '<img src="x"> & | $y$'  # a model's name that HTML, Markdown and LaTeX would read


def write(project, models=("base", "dpo", "oracle"), planted=None, judges=("embedded",), calibration=None):
    """results/eval.json for some models; returns the result. `planted`: of scoring.with_choice."""

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
    if planted:
        result = with_choice(result, planted)
    result["protocol"] |= {"params": {"judge": {"model": "scripted:tiny"}}, "versions": {"numpy": "2.4.6"}}
    (project.folder / "results").mkdir()
    (project.folder / "results/eval.json").write_text(json.dumps(result))
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
    """(project, what was printed, the page, the Markdown, the result) of three models whose judge failed its calibration."""
    project = Project(tmp_path_factory.mktemp("report"), "http://127.0.0.1:1/v1")
    judge = {"passed": False, "accuracy": 0.2125, "length_bias": 0.4, "n": 60}
    planted = {"base": 0.5, "dpo": 2.5, "oracle": 0.5}
    result = write(project, planted=planted, calibration={"judges": {"embedded": judge}, "made_data": ["embedded"]})
    return project, *written(project), result


def test_the_page_opens_with_the_answer_and_its_figure(default):
    *_, page, text, result = default
    first, *more = answer(result)
    assert text.index(f"**{first}**") < text.index("\n".join(more).strip()) < text.index("## What did it cost?")
    assert page.index("Better than base") < page.index("pairs right") < page.index("<svg") < page.index("<table")
    assert page.count("pairs right") == 2, "the answer's table and the figure's axis"
    for mark in ("chance", "shared words", "shown better than base", "without the history"):
        assert mark in page


def test_the_page_holds_the_whole_result_and_folds_a_judge_that_failed(default):
    _, printed, page, text, _ = default
    assert "results/report.html" in printed
    parts = [
        "AL(1)", "right-wrong", "of possible", "N-R2", "unscored", "95 % interval", "embedded (!)", "failed its calibration",
        "(accuracy 0.21)", "made the training data", "versions.numpy", "2.4.6", "params.judge.model",
    ]  # fmt: skip
    for part in parts:
        assert part in page and part in text, part
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert "FAILED" in opened and "AL(1)" not in opened and "2.4.6" not in opened
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == 2 and "<svg" not in text
    for svg in drawn:
        ElementTree.fromstring(svg)
    assert "://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page and "default-src 'none'" in page


def test_on_a_phone_tables_scroll_and_the_page_does_not(chrome, default):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get((default[0].folder / "results/report.html").as_uri())
    assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    assert chrome.execute_script("return [...document.querySelectorAll('.wide')].some(e => e.scrollWidth > e.clientWidth)")


def test_the_scores_of_a_judge_that_passed_stand_open(project):
    write(project, calibration={"judges": {"embedded": {"passed": True, "accuracy": 0.9, "length_bias": 0.0}}})
    opened = re.sub(r"<details>.*?</details>", "", written(project)[1], flags=re.S)
    assert "AL(1)" in opened and "of possible" not in opened


def test_the_same_result_gives_the_same_page(default):
    project, *first, _ = default
    assert written(project) == tuple(first)


def test_a_result_of_an_earlier_run_is_said_to_be_one(project):
    as_dvc_sees_it(project)
    write(project)
    *_, text = written(project)
    assert text.index("An earlier run: files, code or params of eval have changed") < text.index("**")


def test_what_is_missing_is_named(project):
    write(project, models=("mine", "theirs"))
    _, _, text = written(project)
    for part in ("**Not measured: whether", "No model is called base", "Not measured.", "not calibrated"):
        assert part in text, part


def test_names_stay_text(project):
    write(project, models=("base", ODD), judges=("a|b", "c"))
    _, page, text = written(project)
    assert "<img" not in page and "&lt;img src=&#34;x&#34;&gt; &amp; | $y$" in page
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 20
    rules = 0
    for head, rule in pairwise(tables):
        if set(rule) <= set("|-:"):
            rules += 1
            assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", rule))
    assert rules > 5 and "Krippendorff" in text and "a\\|b" in text


def test_what_differs_from_a_revision_comes_after_the_answer(project):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=project.folder, check=True)

    result = write(project)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "before <b>")
    result["protocol"]["params"]["judge"]["model"] = "another"
    (project.folder / "results/eval.json").write_text(json.dumps(result))
    _, page, text = written(project, "--against", "HEAD")
    assert (
        text.index("**") < text.index("## Against HEAD") < text.index("## What did it cost?") and "before &lt;b&gt;" in page
    )
    assert text.count("Not measured: whether") == 2, "of both results"
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
