"""Report: everything that is there is shown, what is not is said to be missing, and texts stay texts."""

import json
import re
import subprocess
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from conftest import ROOT, complains

from stages.core.statistics import rounded
from stages.evaluation.result import cases, score_results
from stages.evaluation.scores import Judged, Scale, Scores
from stages.evaluation.settings import Eval
from stages.tools import figures, report

TURNS = 3
ODD = '<img src="x"> & |'  # a model's name that HTML and Markdown would read


def scored(models, judges=("embedded",)):
    scores = Scores()
    for m, model in enumerate(models):
        for case in range(6):
            for turn in range(1, TURNS + 1):
                for judge in judges:
                    for persona in ("right", "wrong"):
                        value = min(5.0, 1 + case % 2 + m * (persona == "right"))
                        missing = model == "dpo" and case == 0 and turn == 3
                        row = Judged(
                            model, judge, persona, f"c{case}", turn, None if missing else value, f"p{case // 2}", None
                        )
                        scores.add(row, f"{model} {case} {turn} {judge} {persona}")
    scores.finish("test")
    return scores


def seen(value):
    """What recognition says, as stage eval writes it."""
    by_turn = {"mrr": [value] * TURNS, "mrr_ci": [[value, value]] * TURNS, "top1": [0.5] * TURNS}
    return by_turn | {"mrr_mean": value, "mrr_mean_ci": [value, value], "top1_mean": 0.5, "top1_mean_ci": [0, 1]}


@pytest.fixture
def made(tmp_path):
    """A function that writes results/ (and all else) for some models and gives the folder."""

    def write(models=("base", "dpo", "oracle"), witness=True, judges=("embedded",), calibration=None):
        results = tmp_path / "results"
        (results / "judge").mkdir(parents=True, exist_ok=True)
        scores, worth = scored(models, judges), (calibration or {}).get("judges", {})
        made_data = set((calibration or {}).get("made_data", ()))
        result, chosen, _ = score_results(scores, Eval(seed=1, resamples=200), worth, made_data, Scale.read("1-5"))
        if witness:
            for model in models:
                above = {"above_message": 0.1, "above_message_ci": [0.0, 0.2], "above_message_p": 0.25, "so_far": seen(0.75)}
                later = {look: {"mean": 0.5, "ci": [0.4, 0.6]} for look in ("reply", "new", "recalls")}
                result["models"][model]["recognition"] = seen(0.625) | above | {"later": later, "over_no_memory": None}
                form = ("words", "repetition", "repeats_earlier", "loops", "echo", "distinct_1", "distinct_2", "distinct_3")
                result["models"][model]["degeneration"] = dict.fromkeys(form, 0.375)
            result["recognition"] = {
                "personas": 6, "chance_mrr": 0.4083, "chance_top1": 0.1667, "user_of": "base",
                "from_user_message": seen(0.5625), "from_user_turns": seen(0.9375),
            }  # fmt: skip
        (results / "eval.json").write_text(json.dumps(result))
        (results / "eval_cases.jsonl").write_text("".join(json.dumps(r) + "\n" for r in cases(scores, chosen, {})))
        cost = {"calls": {"judge": {"calls": 17, "prompt_tokens": 4321, "completion_tokens": 5, "cost_usd": 0.0123}}}
        (results / "judge" / "base.json").write_text(json.dumps(cost))
        if calibration:
            (results / "judge" / "calibration.json").write_text(json.dumps(calibration))
        return results

    return write


def write_report(project, results, root=ROOT):
    words = ["--results", str(results), "--lock", str(root / "dvc.lock"), "--params", str(root / "params.yaml")]
    out = ["--html", str(results / "report.html"), "--markdown", str(results / "report.md")]
    done = project._run(["stages.tools.report", *words, *out], check=True)
    return done, (results / "report.html").read_text(), (results / "report.md").read_text()


def test_the_page_holds_the_whole_result(project, made):
    calibration = {
        "judges": {"embedded": {"passed": False, "accuracy": 0.2125, "length_bias": 0.4, "n": 60}},
        "made_data": ["embedded"],
    }
    done, page, text = write_report(project, made(calibration=calibration))
    assert "report.html" in done.stdout
    for said in (page, text):
        for part in ("AL(1)", "right-wrong", "of possible", "N-R2", "unscored", "95 % interval", "0.94", "0.56", "0.41"):
            assert part in said, part
        assert (
            "embedded (!)" in said
            and "failed its calibration" in said
            and "0.2125" in said
            and "made the training data" in said
        )
        assert "4321" in said and "0.0123" in said, "cost"
        assert "user.temp" in said and lock_digest("models/base") in said and "numpy" in said
        assert "no earlier result in git" in said
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == 4 and "<svg" not in text
    for svg in drawn:
        ElementTree.fromstring(svg)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page and "default-src 'none'" in page
    assert set(re.findall(r'(?:stroke|fill)="(#\w+)"', "".join(drawn))) <= {"#000", "#777", "#ddd"}, "greys alone"


def lock_digest(path):
    found = re.search(rf"path: {path}\n\s+hash: md5\n\s+md5: (\S+)", (ROOT / "dvc.lock").read_text())
    return found[1]


def test_a_verdict_needs_the_interval_and_the_corrected_p(project, made):
    _, _, text = write_report(project, made())
    # six cases in three profiles: the interval excludes 0, but no p can be below 0.25
    assert "| dpo | cannot be told from base | cannot be told from base | not measured |" in text
    block = list(report.reading(verdicts({"dpo": 0.01, "sft": 0.2})))[-1]
    assert [r[:2] for r in block.rows[1:]] == [["dpo", "above base"], ["sft", "cannot be told from base"]]


def verdicts(p_holm):
    none = {"difference": None, "ci": [None, None], "p_holm": None}
    gains = {
        n: {"difference": 1.0, "difference_ci": [0.5, 1.5], "p_holm": p, "personalisation": none} for n, p in p_holm.items()
    }
    return {"protocol": {"models": list(gains)}, "vs_base": gains}


def test_what_is_missing_is_named(project, made):
    results = made(models=("mine", "theirs"), witness=False)
    (results / "judge" / "base.json").unlink()
    _, _, text = write_report(project, results, root=results / "none")
    for part in (
        "No model is called base",
        "no measure without a judge",
        "No calibration",
        "No metrics of a stage",
        "No dvc.lock",
    ):
        assert part in text, part
    assert "Differences to base" not in text


def test_names_stay_text(project, made):
    _, page, text = write_report(project, made(models=("base", ODD), judges=("a|b", "c")))
    assert "<img" not in page and "&lt;img src=&quot;x&quot;&gt;" in page
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 50
    for head, rule in pairwise(tables):
        if set(rule) <= set("|-:"):
            assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", rule))
    assert "Krippendorff" in text and "a\\|b" in text


def test_what_moved_since_the_revision_before(project, made, tmp_path):
    results = made()

    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    was = json.loads((results / "eval.json").read_text())
    was["models"]["dpo"]["al_mean"], was["protocol"]["turns"] = 1.25, 9
    now = (results / "eval.json").read_text()
    for number, content in enumerate((json.dumps(was), now)):
        (results / "eval.json").write_text(content)
        git("add", "-A")
        git("commit", "-qm", str(number))
    _, _, text = write_report(project, results)
    moved = text.split("## Since the revision before")[1].split("## Protocol")[0]
    now_mean = rounded(json.loads(now)["models"]["dpo"]["al_mean"])
    assert f"| models.dpo.al_mean | 1.25 | {now_mean:.4g} | {now_mean - 1.25:+.4g} |" in moved
    assert "| protocol.turns | 9 | 3 |" in moved and "models.base" not in moved


def test_a_result_of_another_kind_is_refused(project, made):
    results = made()
    words = ["--lock", "dvc.lock", "--params", "params.yaml", "--html", "a.html", "--markdown", "a.md"]
    (results / "eval.json").write_text('{"models": {}}')
    complains(
        project._run(["stages.tools.report", "--results", str(results), *words], check=False), "eval.json", "dvc repro eval"
    )
    (results / "eval.json").unlink()
    complains(
        project._run(["stages.tools.report", "--results", str(results), *words], check=False), "eval.json", "make repro"
    )
    assert not (project.folder / "a.html").exists()


@pytest.mark.parametrize(
    "low, high, expected",
    [(1, 5, [1, 2, 3, 4, 5]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 10, [2, 4, 6, 8, 10]), (-0.1, 0.1, None)],
)
def test_ticks_are_round_and_inside(low, high, expected):
    found = figures.ticks(low, high)
    assert expected is None or found == expected
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high + 1e-9


def test_figures_with_gaps_one_turn_and_nothing_known():
    gaps = figures.Line("a", [1, None, 2, 3], marker=True, band=[(0, 1), (None, None), (1, 2), (2, 4)])
    svg = figures.grid("t", [figures.Panel("p", [gaps])], (1, 4), (1, 5), "x", "y")
    assert svg.count("<polyline") == 3 and svg.count("<polygon") == 2, "two runs and the legend"
    ElementTree.fromstring(figures.grid("t", [figures.Panel("p", [figures.Line("a", [None])])], (1, 2), (0, 1), "x", "y"))
    ElementTree.fromstring(figures.strips("t", [figures.Strip("m", [], None, [None, None])], "x"))


def test_the_makefiles_words_are_the_parsers():
    makefile = (ROOT / "Makefile").read_text()
    words = makefile.split("python -m stages.tools.report")[1].split("\n\n")[0]
    assert re.findall(r"--(\w+)", words) == ["results", "lock", "params", "html", "markdown"]
