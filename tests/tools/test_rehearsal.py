"""The rehearsal, but for running it: its stages find what they read, and its server passes for the models asked."""

import json
import shlex

import pytest
from conftest import ROOT

from benchmarks import rehearsal

pytestmark = pytest.mark.slow


def test_every_stage_finds_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made: set[str] = set()
    order = rehearsal.prepare(tmp_path, 0.01, "http://127.0.0.1:9/v1")
    assert len(order) > 20
    for name, command, outs in order:
        made.update(outs)
        if any(out.startswith("models/") for out in outs):
            continue  # is not rehearsed
        for path in (word for word in shlex.split(command) if "/" in word):
            made_before = any(path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in made)
            assert (tmp_path / path).exists() or made_before, (name, path)


def test_the_script_answers_as_the_model_that_is_asked():
    chat = [{"role": "system", "content": "You rate replies."}, {"role": "user", "content": "Rate it."}]
    body = json.dumps({"model": "script", "seed": 1, "messages": chat}).encode()
    answer = rehearsal.Script(latency=0).answer(body)[3]
    assert answer["model"] == "script" and answer["choices"][0]["message"]["content"] in "12345"
