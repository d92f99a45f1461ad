"""Role-play: the stage's command line and what a rerun pays for; the trees themselves are in tests/dialogue/test_grow.py."""

import json
from collections import Counter

import pytest
from conftest import Server, a_round, complains, reply_to
from fakes import encode
from http_faults import hang_up

from stages import roleplay
from stages.llm import local

pytestmark = pytest.mark.slow

PEOPLE = [
    {"profile": "I fish at sea. I own two boats. My leg hurts.", "personality": "I am shy, loud, and kind."},
    {"profile": "I sell old maps. I walk to work. My cat is blind.", "personality": "I am vain, dry, and fair."},
    {"profile": "I bake bread. I keep bees. I rent a flat.", "personality": "I am odd, calm, and rude."},
]


def personas(project, number=3):
    path = project.folder / "data/personas/train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(p) + "\n" for p in PEOPLE[:number]))


@pytest.fixture
def ready(project, monkeypatch):
    """The project with three personas, two turns, and an encoder to which all texts are new."""
    monkeypatch.setattr(roleplay, "Encoder", lambda params: encode)
    personas(project)
    project.set(roleplay__turns=2)
    return project


def test_more_turns_and_more_personas_pay_for_the_new_calls_only(ready, server):
    personas(ready, 1)
    ready.run("roleplay")
    assert len(server.requests) == 1 * 2 * 6  # user, inducer, preferred, rejected, verifier twice
    before = ready.rows("data/trees.jsonl")
    metrics = json.loads((ready.folder / "results/roleplay.json").read_text())
    assert metrics["trees"] == 1 and metrics["user_turns"] == 2 and metrics["calls"]["verifier"]["calls"] == 4
    ready.set(roleplay__turns=3)
    ready.run("roleplay")
    assert len(server.requests) == 1 * 3 * 6
    for old, new in zip(before, ready.rows("data/trees.jsonl"), strict=True):
        assert {n["id"]: n["text"] for n in old["nodes"]}.items() <= {n["id"]: n["text"] for n in new["nodes"]}.items()
    personas(ready, 2)
    ready.run("roleplay")
    assert len(server.requests) == 2 * 3 * 6
    trees = (ready.folder / "data/trees.jsonl").read_bytes()
    ready.run("roleplay")
    assert len(server.requests) == 2 * 3 * 6 and (ready.folder / "data/trees.jsonl").read_bytes() == trees


def test_a_replica_that_dies_midway_leaves_the_same_trees_and_nothing_is_answered_twice(ready, server, monkeypatch):
    ready.set(roleplay__turns=4)
    ready.run("roleplay")
    trees, calls = (ready.folder / "data/trees.jsonl").read_bytes(), len(server.requests)
    monkeypatch.setenv("DVC_ROOT", str(ready.folder / "elsewhere"))  # where no reply is stored
    two, answered, broken = Server(), [], []

    def reply(of):
        def said(body):
            if of is two and len(answered) >= 24:  # as a process that is killed leaves its requests
                broken.append(body)
                return hang_up
            answered.append((of, json.dumps(body)))
            return reply_to(body)

        return said

    server.reply, two.reply = reply(server), reply(two)
    ready.set(llm__endpoints__scripted__base_url=[server.url, two.url])
    ready.run("roleplay")
    two.stop()
    assert (ready.folder / "data/trees.jsonl").read_bytes() == trees
    assert len({body for _, body in answered}) == len(answered) == calls == 3 * 4 * 6
    assert broken and {of for of, _ in answered[:24]} == {server, two} and all(of is server for of, _ in answered[24:])


def test_in_a_later_round_the_policy_writes_all_replies(ready, server, monkeypatch):
    started = []

    def start(folder, **_):
        started.append(folder.name)
        return local.Engine(server.url, "policy", "key", None)

    monkeypatch.setattr(local, "start", start)
    (ready.folder / "models/dpo").mkdir(parents=True)
    (ready.folder / "models/dpo/model.safetensors").write_text("weights")
    replies = ["informed", "uninformed", "misinformed"]
    ready.set(roleplay__replies=replies, rounds={"2": a_round(roleplay={"seed": 2, "turns": 1})})
    ready.run("roleplay_round", "2")
    asked = Counter((body["model"], body["messages"][0]["content"][:20]) for body in server.requests)
    assert started == ["dpo"] and sum(asked.values()) == 3 * 9  # user, inducer, three replies, two verdicts on two pairs
    assert sum(n for (model, _), n in asked.items() if model == "policy") == 3 * 3
    policy, others = ({start for model, start in asked if model == name} for name in ("policy", "tiny"))
    assert policy.isdisjoint(others)
    metrics = json.loads((ready.folder / "results/rounds/2/roleplay.json").read_text())
    served = [metrics["calls"][who]["served"] for who in ("preferred", "rejected", "misinformed")]
    assert all(name.startswith("sha256:") for name in served)
    first = ready.rows("data/rounds/2/trees.jsonl")
    ready.run("roleplay")
    assert len(server.requests) == 3 * 9 + 3 * 2 * 9 and first != ready.rows("data/trees.jsonl")


def test_failed_calls_are_written_down_up_to_their_allowed_share(ready, server):
    def reply(body):
        system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        return "" if "knows the user" in system and "maps" in last.split("About me:")[0] else reply_to(body)

    server.reply = reply
    ready.set(roleplay__max_failed_share=0.2, roleplay__turns=4)
    ready.run("roleplay")
    failed = ready.rows("data/failed/roleplay.jsonl")
    assert [(f["role"], f["reason"]) for f in failed] == [("preferred", "empty")]
    trees = ready.rows("data/trees.jsonl")
    assert [len(t["ended"]) for t in trees] == [0, 1, 0] and max(n["turn"] for n in trees[1]["nodes"]) == 4
    ready.set(roleplay__max_failed_share=0.0)
    complains(ready.run("roleplay", check=False), "roleplay.jsonl", "empty")


def test_personas_that_are_none(ready):
    (ready.folder / "data/personas/train.jsonl").write_text('{"profile": "I fish."}\n')
    complains(ready.run("roleplay", check=False), "train.jsonl:1: a persona needs")


def test_letters_are_refused_by_a_prompt_set_that_does_not_quote(ready):
    ready.set(roles__inducer_form="letters")
    complains(ready.run("roleplay", check=False), "roles.inducer_form: letters needs an inducer that quotes, which", "small")
