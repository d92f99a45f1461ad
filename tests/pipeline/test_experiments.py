"""Experiments for real: a queue of two at once, and the page that compares revisions."""

import csv
import hashlib
import io
import json
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, complains, reply_to
from repository import commit, repository, sh

TEMPS = (0.4, 0.6)


@pytest.fixture(scope="module")
def queued(tmp_path_factory):
    """Two experiments that differ in one temperature, queued, then run two at once; the workspace was edited in between."""
    from conftest import Server

    server = Server()
    both, seen = threading.Event(), set()

    def reply(body: dict) -> str:
        if body["temperature"] in TEMPS and body["messages"][0]["content"].startswith("You are a helpful assistant who"):
            seen.add(body["temperature"])
            if len(seen) == 2:
                both.set()
            both.wait(120)  # the first call of its own waits until the other experiment makes one too
        return reply_to(body)

    server.reply = reply
    project = repository(
        tmp_path_factory.mktemp("queue") / "repo", server.url, "roleplay",
        roleplay__turns=2, roles__preferred_temp=0.5, llm__endpoints__scripted__deadline_s=300.0,
        llm__endpoints__scripted__timeout_s=250.0,
    )  # fmt: skip
    here = project.folder
    sh(here, "dvc", "exp", "run", "--queue", "-S", f"roles.preferred_temp={','.join(map(str, TEMPS))}")
    # edits after queueing are not part of what is queued
    (here / "stages/roleplay.py").write_text("raise SystemExit('the code of the workspace')\n")
    (here / "prompts/inducer.txt").write_text("no prompt\n")
    sh(here, "dvc", "queue", "start", "-j", "2")
    try:
        end = time.monotonic() + 300
        while any(word in (status := sh(here, "dvc", "queue", "status")) for word in ("Queued", "Running")):
            assert time.monotonic() < end, status
            time.sleep(1)
    finally:
        sh(here, "dvc", "queue", "stop", "--kill", check=False)
        server.stop()
    sh(here, "git", "checkout", "-q", ".")
    return project, server, both.is_set(), status


@pytest.mark.slow
def test_two_of_a_queue_run_at_once_with_the_code_they_were_queued_with(queued):
    _, _, both, status = queued
    assert status.count("Success") == 2 and "Failed" not in status, status
    assert both, "the two did not run at the same time"


@pytest.mark.slow
def test_what_they_share_is_asked_once(queued):
    _, server, _, _ = queued
    asked = [hashlib.sha256(json.dumps(b, sort_keys=True).encode()).hexdigest() for b in server.requests]
    assert len(asked) == len(set(asked))
    shared = [b for b in server.requests if b["temperature"] not in TEMPS]
    own = [b for b in server.requests if b["temperature"] in TEMPS]
    assert len(own) == 2 * 4 * 2 and len(shared) < 2 * len(shared) - len(own)  # first turns at the very least


@pytest.mark.slow
def test_the_table_has_params_and_metrics_of_each(queued):
    project, *_ = queued
    table = list(csv.DictReader(io.StringIO(sh(project.folder, "dvc", "exp", "show", "--csv"))))
    rows = {r["roles.preferred_temp"]: r for r in table if r["typ"].startswith("branch")}
    assert {float(k) for k in rows} == set(TEMPS)
    for row in rows.values():
        assert row["Experiment"] and row["trees"] == "4" and float(row["calls.all.calls"]) > 0 and row["State"] != "Failed"


@pytest.mark.slow
def test_two_experiments_by_name_on_one_page(queued):
    project, *_ = queued
    names = [
        line.split()[-1] for line in sh(project.folder, "dvc", "exp", "list", "--name-only").splitlines() if line.strip()
    ]
    done = project._run(["stages.common.compare", *names], check=True)
    assert "| roles.preferred_temp |" in done.stdout and "## Prompts\n\nNo difference." in done.stdout
    for name in names:
        assert name in done.stdout


def result(score: float, judge: str = "openai:gpt-4o") -> dict:
    model = {
        "n_cases": 3, "al": [score, score + 1], "al_ci": [[1, 2], [2, 3]], "al_mean": score + 0.5, "al_mean_ci": [1, 3],
        "ir": 1.0, "ir_ci": [0.5, 1.5], "unscored": 0, "recognition": {"mrr_mean": 0.75, "mrr_mean_ci": [0.7, 0.8]},
        "personalisation": {"value": 0.5, "ci": [0.25, 0.75]},
    }  # fmt: skip
    protocol = {"params": {"judge.model": judge}, "turns": 2}
    return {
        "scale": "1-5", "protocol": protocol, "models": {"base": model, "dpo": model},
        "vs_base": {
            "dpo": {"relative_improvement": 0.32, "ci": [0.1, 0.5], "share_of_gain": {"value": 0.5, "ci": [0.4, 0.6]}},
        },
    }  # fmt: skip


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository of two commits whose params, prompts, results and code differ."""
    monkeypatch.chdir(tmp_path)
    sh(tmp_path, "git", "init", "-q", "-b", "main")
    for text, temp, trees, score, judge in (("Be kind.", 0.5, 18, 1.5, "a:b"), ("Be | `kind`.\n```", 5e-6, 20, 2.5, "c:d")):
        for name, what in {
            "prompts/user.txt": f"[system]\n{text}\n", "params.yaml": f"roles: {{user_temp: {temp}, user_model: x}}\n",
            "results/roleplay.json": json.dumps({"trees": trees, "told": score, "calls": {"all": {"calls": trees}}}),
            "results/eval.json": json.dumps(result(score, judge)), "stages/eval.py": f"x = {score}\n",
            "results/plots/al.json": "[]", "results/sft_live/metrics.json": "{}",
        }.items():  # fmt: skip
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(what)
        commit(tmp_path, f"score {score}")
    sh(tmp_path, "git", "tag", "new")
    return tmp_path


def test_the_page_says_what_changed(history):
    text = compare.page(compare.version("main~1"), compare.version("new"))
    assert "| user.temp | 0.5 | 5e-06 |" in text and "user_model" not in text.partition("## Prompts")[0]
    assert "-Be kind.\n+Be | `kind`." in text and "--- main~1/prompts/user.txt" in text
    assert "Changed: stages/eval.py." in text
    assert "| roleplay: trees | 18 | 20 |" in text and "| roleplay: told | 1.5 | 2.5 |" in text
    assert "| roleplay: calls | 18 | 20 |" in text
    assert "| base | AL(1) | 1.5 (1 to 2) | 2.5 (1 to 2) |" in text
    assert "| dpo | mean AL against base | +32.0 % (+10.0 % to +50.0 %) | +32.0 % (+10.0 % to +50.0 %) |" in text
    assert "| dpo | mean MRR | 0.75 (0.7 to 0.8) |" in text and "| dpo | mean AL | 2 (1 to 3) | 3 (1 to 3) |" in text
    assert (
        "| dpo | share of possible gain | +50.0 % (+40.0 % to +60.0 %) |" in text and "| dpo | IR | 1 (0.5 to 1.5) |" in text
    )
    assert "| base | personalisation | 0.5 (0.25 to 0.75) |" in text
    assert "Not measured in the same way: params.judge.model differ." in text
    assert "main~1 (" in text and "score 1.5" in text


def test_nothing_changed_is_said(history):
    text = compare.page(compare.version("new"), compare.version("main"))
    assert text.count("No difference.") == 6 and "Not measured" not in text


def test_the_workspace_is_a_version_too(history):
    Path("prompts/user.txt").write_text("[system]\nBe short.\n")
    Path("prompts/extra.txt").write_text("[system]\nNew.\n")
    Path("results/eval.json").unlink()
    text = compare.page(compare.version("new"), compare.version("workspace"))
    assert "+Be short." in text and "+++ workspace/prompts/extra.txt" in text
    assert "| base | AL(1) | 2.5 (1 to 2) |  |" in text


def test_an_unknown_name_is_one_line(history):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "stages.common.compare", "nowhere"], env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    complains(done, "'nowhere'", "no revision and no experiment")
