"""Pages of an earlier run: stages behind them that would run anew are named, files that are not there are not."""

import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from repository import as_dvc_sees_it, jsonl
from trees import a_tree

from stages.tools.earlier import earlier

pytestmark = pytest.mark.slow
NO_GIT = {"core": {"no_scm": True}}
PIPELINE = {
    "roleplay": {"cmd": "cp params.json trees.jsonl", "params": [{"params.json": ["turns"]}], "outs": ["trees.jsonl"]},
    "judge": {"foreach": ["base", "dpo"], "do": {
        "cmd": "cp trees.jsonl ${item}.jsonl", "deps": ["trees.jsonl"], "outs": ["${item}.jsonl"]}},
    "eval": {"cmd": "cp base.jsonl cases.jsonl", "deps": ["base.jsonl", "dpo.jsonl"], "outs": ["cases.jsonl"]},
    "external": {"cmd": "cp trees.jsonl external.jsonl", "deps": ["trees.jsonl"], "outs": ["external.jsonl"]},
}  # fmt: skip


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A pipeline, all of it run but stage external."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(json.dumps({"stages": PIPELINE}))
    Path("params.json").write_text('{"turns": 4}')
    with Repo.init(no_scm=True) as repo:
        repo.reproduce(["eval"])


def test_stages_behind_a_page_that_would_run_anew_are_named(ran):
    assert earlier("eval", "external") is None, "what never ran shows nothing"
    for name in ("trees.jsonl", "base.jsonl"):
        Path(name).unlink()
    assert earlier("eval") is None, "files that are not there have not changed"
    Path("params.json").write_text('{"turns": 5}')
    with Repo(config=NO_GIT) as repo:
        repo.reproduce(["roleplay"])
    assert "run: files, code or params of judge have changed" in earlier("eval"), "roleplay is renewed"
    Path("params.json").write_text('{"turns": 6}')
    assert " of roleplay have changed" in earlier("roleplay") and " of roleplay, judge have" in earlier("judge")


def test_a_clone_without_the_cache_is_of_this_run(ran):
    shutil.rmtree(".dvc/cache")
    Path("trees.jsonl").unlink()
    assert earlier("eval") is None


def test_a_pipeline_that_cannot_be_asked(ran):
    with Repo(config=NO_GIT) as repo, repo.lock:
        assert "Not known" in earlier("eval")
    Path("dvc.yaml").write_text("stages: []")
    assert "Not known" in earlier("eval")


def test_browse_says_it(project):
    as_dvc_sees_it(project)
    jsonl(project.folder / "data/trees.jsonl", [a_tree(0)])
    done = project._run(["stages.tools.browse", "--out", "page.html"], check=True)
    assert "params of roleplay have changed" in done.stderr and (project.folder / "page.html").exists()
