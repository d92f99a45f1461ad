"""Whole stages against models that take little, think, or answer oddly."""

import hashlib
import json

import pytest
from conftest import complains, completion, reply_to

pytestmark = pytest.mark.slow


def people(project, n=2):
    """Personas of the train part, without the stage that makes them."""
    project.run("seed_personas")
    pools = (project.rows(f"data/personas/seed_{pool}.jsonl") for pool in ("profiles", "personalities"))
    rows = [{"profile": f["text"], "personality": t["text"]} for f, t in zip(*pools, strict=False)][:n]
    (project.folder / "data/personas/train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return rows


def trees(project):
    return hashlib.sha256((project.folder / "data/trees.jsonl").read_bytes()).hexdigest()


def nodes(project):
    return [node for tree in project.rows("data/trees.jsonl") for node in tree["nodes"]]


def spoken(body):
    """What the model says, whatever the request carries besides."""
    return reply_to({"messages": body["messages"]})


@pytest.fixture
def played(project):
    people(project)
    project.set(roleplay__turns=2)
    return project


ALONE = {"model", "messages", "max_completion_tokens", "seed"}


def test_a_role_play_with_a_model_that_takes_nothing_and_thinks(played, server):
    def reply(body):
        if not body.keys() <= ALONE:
            name = min(body.keys() - ALONE)
            return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}}
        answer = completion(f"<think>\nwell, 2 or 1?\n</think>\n\n{spoken(body)}\nand more of it", body)
        return 200, answer

    server.reply = reply
    line = played.run("roleplay", check=False)
    complains(line, "tiny does not take ", "llm.endpoints.scripted.omit")
    asked = len(server.requests)
    assert asked <= 10  # those under way when the first was refused
    played.set(llm__endpoints__scripted__profile="openai", llm__endpoints__scripted__aliases={"tiny": "gpt-5-mini"})
    played.run("roleplay")
    made = trees(played)
    texts = [node["text"] for node in nodes(played)]
    assert texts and not any("think" in t or "\n" in t or "and more" in t for t in texts)
    server.reply = lambda body: spoken(body)  # the same without thoughts, from another cache
    played.set(llm__cache="elsewhere")
    played.run("roleplay")
    assert trees(played) == made


def test_half_characters_do_not_hang_a_stage_and_lose_nothing(played, server):
    server.reply = lambda body: spoken(body) + " \ud83d"
    played.run("roleplay")
    assert nodes(played) and all("\ud83d" not in node["text"] for node in nodes(played))
    assert any("\ufffd" in node["text"] for node in nodes(played))


def test_one_flagged_input_is_failed_alone_in_every_run(played, server):
    flagged = {"error": {"code": 403, "message": "Your input was flagged by moderation"}}
    facts = played.rows("data/personas/train.jsonl")[0]["profile"].rstrip(".").split(". ")
    bad = lambda body: any(fact in body["messages"][-1]["content"] for fact in facts)  # noqa: E731
    server.reply = lambda body: (403, flagged) if bad(body) else spoken(body)
    played.set(roleplay__max_failed_share=1.0)
    for _ in range(2):
        played.run("roleplay")
        failed = played.rows("data/failed/roleplay.jsonl")
        assert failed and {row["reason"] for row in failed} == {"filtered"} and nodes(played)
