"""Experiments for real: a queue of two at once, and one of them beside the workspace."""

import csv
import hashlib
import io
import json
import re
import sys
import threading
import time

import pytest
from conftest import Server, reply_to
from repository import repository, sh

TEMPS = (0.4, 0.6)


@pytest.fixture(scope="module")
def queued(tmp_path_factory):
    """Two experiments that differ in one temperature, queued, then run two at once; the workspace was edited in between."""
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
    (here / "prompts/small/inducer.txt").write_text("no prompt\n")
    sh(here, "dvc", "queue", "start", "-j", "2")
    try:
        end = time.monotonic() + 300
        while any(word in (status := sh(here, "dvc", "queue", "status")) for word in ("Queued", "Running")):
            assert time.monotonic() < end, status
            time.sleep(3)  # asking costs as much as a stage
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
def test_an_experiment_by_name_beside_the_workspace(queued):
    project, *_ = queued
    name = sh(project.folder, "dvc", "exp", "list", "--name-only").split()[-1]
    code = (
        "from stages.tools import against, blocks; now = {'protocol': {}, 'scale': '1-5'}; "
        f"print(''.join(blocks.markdown('', list(against.section({name!r}, now)))))"
    )
    text = sh(project.folder, sys.executable, "-c", code)
    assert re.search(r"\n\| roles\.preferred_temp +\|", text) and name in text
    assert "### Prompts\n\nNo difference." in text and f"{name} has no results/eval.json" in text
