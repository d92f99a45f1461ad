"""What a report says of another revision: params, prompts and metrics, read from git alone."""

import json
import subprocess
from pathlib import Path

import pytest

from stages.core.cli import UserError
from stages.tools import against, blocks


def git(*words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True)


def result(score, judge):
    model = {
        "n_cases": 3, "al": [score, score, score + 1], "al_ci": [[1, 2], [1, 2], [2, 3]], "al_mean": score + 0.5,
        "al_mean_ci": [1, 3], "recognition": {"mrr": [0.5], "mrr_mean": score / 4, "mrr_mean_ci": [0.25, 0.5]},
        "personalisation": {"value": score, "ci": [0.25, 0.75], "p": 0.5},
    }  # fmt: skip
    gain = {"relative_improvement": score / 10, "ci": [0.1, 0.5]}
    protocol = {"params": {"judge": {"model": judge}, "dpo": {"beta": score}}, "turns": 3}
    return {"scale": "1-5", "protocol": protocol, "models": {"a.b": model}, "vs_base": {"a.b": gain}}


def write(files):
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository of two commits whose params, prompts and results differ; the second one is tagged `new`."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    for text, temp, trees, score, judge in (("Be kind.", 0.5, 18, 1.5, "a:b"), ("Be | `kind`.\n```", 5e-6, 20, 2.5, "c:d")):
        write({
            "prompts/user.txt": f"[system]\n{text}\n", "params.yaml": f"user: {{temp: {temp}, model: x}}\n",
            "results/roleplay.json": json.dumps({"trees": trees, "by_turn": [score], "calls": {"all": {"calls": trees}}}),
            "results/judge/base.json": json.dumps({"passed": score > 2}),
            "results/eval.json": json.dumps(result(score, judge)),
            "results/plots/al.json": json.dumps([score]), "results/sft_live/metrics.json": json.dumps({"loss": score}),
        })  # fmt: skip
        git("add", "-A")
        git("commit", "-qm", f"score {score}")
    git("tag", "new")


def page(name):
    return "".join(blocks.markdown("Test", list(against.section(name))))


def row(text, name):
    """Cells of the row that begins with `name`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_what_differs_measures_first(history):
    text = page("main~1")
    assert "main~1 is " in text and "score 1.5; now is the workspace" in text
    assert row(text, "eval: models.a.b.al_mean") == ["2 (1 to 3)", "3 (1 to 3)"]
    assert row(text, "eval: models.a.b.personalisation.value") == ["1.5 (0.25 to 0.75)", "2.5 (0.25 to 0.75)"]
    assert row(text, "eval: models.a.b.recognition.mrr_mean") == ["0.375 (0.25 to 0.5)", "0.625 (0.25 to 0.5)"]
    assert row(text, "eval: vs_base.a.b.relative_improvement") == ["0.15 (0.1 to 0.5)", "0.25 (0.1 to 0.5)"]
    assert row(text, "roleplay: trees") == ["18", "20"] and row(text, "judge@base: passed") == ["False", "True"]
    assert row(text, "roleplay: calls.all.calls") == ["18", "20"]
    order = [text.index(part) for part in ("### Metrics", "relative_improvement", "trees", "### Params", "### Prompts")]
    assert order == sorted(order)
    for same in ("n_cases", "personalisation.p", "by_turn", "loss", "mrr |"):
        assert same not in text
    assert row(text, "user.temp") == ["0.5", "5e-06"] and "user.model" not in text
    assert "-Be kind.\n+Be | `kind`." in text and "--- prompts/user.txt" in text


def test_another_protocol_is_not_measured_in_the_same_way(history):
    text = page("main~1")
    assert "Not measured in the same way" in text and row(text, "params.judge.model") == ["a:b", "c:d"]
    assert "params.dpo" not in text, "what was trained on is compared, not measured with"


def test_nothing_changed_is_said(history):
    text = page("new")
    assert text.count("No difference.") == 3 and "Not measured" not in text


def test_the_workspace_is_what_is_compared(history):
    write({"prompts/user.txt": "[system]\nBe short.\n", "prompts/small/extra.txt": "[system]\nNew.\n"})
    Path("results/roleplay.json").unlink()
    text = page("new")
    assert "+Be short." in text and "+++ prompts/small/extra.txt" in text
    assert row(text, "roleplay: trees") == ["20", "absent"]


def test_an_experiment_by_its_name_and_a_revision_without_a_result(history):
    git("update-ref", "refs/exps/ab/cdef/quiet-lake", "main~1")
    git("update-ref", "refs/exps/exec/EXEC_HEAD", "main")
    assert row(page("quiet-lake"), "roleplay: trees") == ["18", "20"]
    git("update-ref", "refs/exps/cd/cdef/quiet-lake", "main")
    with pytest.raises(UserError, match="ambiguous Git revision 'quiet-lake'"):
        against.commit_of("quiet-lake")
    with pytest.raises(UserError, match="'nowhere'"):
        against.commit_of("nowhere")
    git("rm", "-q", "results/eval.json")
    git("commit", "-qm", "none")
    assert "HEAD has no results/eval.json" in page("HEAD")
