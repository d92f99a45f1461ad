"""Converse: the stage's command line and the faults of an arm; the conversations are in tests/dialogue."""

import json

import pytest
from conftest import complains

from stages.tools import check

PERSON = {"profile": "I fish at sea. I own two boats. My leg hurts. I nap.", "personality": "I am shy, loud, and kind."}


@pytest.fixture
def ready(project, monkeypatch):
    """The project with one eval persona, as the working folder."""
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "eval.jsonl").write_text(json.dumps(PERSON) + "\n")
    monkeypatch.chdir(project.folder)
    return project


def arm(project, name="other", like="base", **changes):
    """Add an arm, served by the scripted server as `tested` unless changed."""
    project.params.arms[name] = {**project.params.arms[like], "model": "scripted:tested", **changes}
    project.write()


@pytest.mark.slow
def test_a_served_model_stands_in_the_same_table(ready, server):
    """One line of `arms` gives conversations and judgements of a model behind an API."""
    arm(ready)
    ready.run("converse", "other")
    ready.run("judge", "other")
    turns = ready.rows("data/conversations/other.jsonl")[0]["turns"]
    assert len([b for b in server.requests if b["model"] == "tested"]) == len(turns) == 4
    rows = ready.rows("data/judgements/other.jsonl")
    assert [r["turn"] for r in rows] == [1, 2, 3, 4] and all(1 <= r["score"] <= 5 for r in rows)
    metrics = json.loads((ready.folder / "results/converse/other.json").read_text())
    assert metrics["model"] == metrics["identity"] == "scripted:tested"
    assert (metrics["cases"], metrics["turns"], metrics["unparsed"]) == (1, 4, 0)
    assert ready.rows("data/failed/converse_other.jsonl") == []


@pytest.mark.slow
def test_probes_and_read_outs_go_to_a_file_of_their_own(ready):
    """The conversations keep their bytes."""
    arm(ready)
    made = [ready.folder / f"data/{name}/other.jsonl" for name in ("conversations", "probe_replies")]
    ready.run("converse", "other")
    alone = made[0].read_bytes()
    assert made[1].read_bytes() == b""
    ready.set(converse__probes=3, converse__read_out=[2])
    ready.run("converse", "other")
    rows = ready.rows("data/probe_replies/other.jsonl")
    assert made[0].read_bytes() == alone and [r["kind"] for r in rows] == ["read_out", *["probe"] * 3]
    assert all(r["reply"] and r["outcome"] == "ok" and r["told"] for r in rows)
    calls = json.loads((ready.folder / "results/converse/other.json").read_text())["calls"]
    assert calls["model under test"]["calls"] == 4 + 4


def test_replies_without_a_mark_are_counted(ready):
    arm(ready, like="fewshot")
    ready.run("converse", "other")
    assert json.loads((ready.folder / "results/converse/other.json").read_text())["unparsed"] == 4


def test_failed_turns_are_written_down_up_to_their_allowed_share(ready, server):
    server.reply = lambda body: ""
    arm(ready)
    complains(ready.run("converse", "other", check=False), "converse_other.jsonl", "user (scripted:tiny)", "empty (1)")
    assert [f["reason"] for f in ready.rows("data/failed/converse_other.jsonl")] == ["empty"]


def test_a_model_that_the_hub_does_not_give_is_one_line(ready, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    arm(ready, model="nobody/nothing")
    complains(ready.run("converse", "other", check=False), "arms: model nobody/nothing cannot be had from the Hub")


@pytest.mark.parametrize("key, value", [("strategy", "guess"), ("memory", "some"), ("model", "a")])
def test_faults_of_an_arm_are_named(ready, key, value):
    arm(ready, "sft", "sft", **{key: value if key != "model" else "a?b"})
    (fault,) = check.check()
    assert fault.startswith(f"arms.sft.{key}: ") and "found" in fault
    complains(ready.run("converse", "sft", check=False), f"arms.sft.{key}: ")


def test_memory_similar_that_shows_every_exchange_is_a_fault(ready):
    arm(ready, memory="similar")
    ready.set(converse__similar=3)
    complains(ready.run("converse", "other", check=False), "arms.other.memory: the 3 similar ones of 3 earlier exchanges")


def test_a_strategy_needs_its_parts_of_the_prompt(ready):
    arm(ready, strategy="critique")
    complains(ready.run("converse", "other", check=False), "assistant.txt: has no part [critique]")
