"""Converse: the same user for every arm, the exact messages of each arm, and any model under test."""

import asyncio
import json

import pytest
from conftest import complains

from stages import converse
from stages.core import params, prompts
from stages.core.cli import UserError
from stages.dialogue import assistant
from stages.dialogue.transcript import Exchange
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.personas.persona import Persona
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


def talk(project, arm):
    """The conversation of an arm of params.yaml, its model served by the scripted server as `tested`."""
    p = params.load("converse", converse.Params)
    a = project.params.arms[arm]

    async def work():
        async with Client(PaidCalls("converse", p.llm, {}), 0) as client:
            system = prompts.load(project.folder / f"prompts/{a.prompt}.txt")
            tested = assistant.Tested(p, client, "scripted:tested", system, a.strategy, a.memory)
            user = prompts.load(project.folder / "prompts/user.txt")
            return await assistant.conversation(p, client, tested, Persona(**PERSON), user)

    return asyncio.run(work())


def told(server):
    """(system prompt, the messages after it) of each call to the model under test."""
    chats = [b["messages"] for b in server.requests if b["model"] == "tested"]
    assert all(c[0]["role"] == "system" for c in chats)
    for c in chats:
        assert [m["role"] for m in c[1:]] == ["user", "assistant"] * (len(c) // 2 - 1) + ["user"]
    return [(c[0]["content"], [m["content"] for m in c[1:]]) for c in chats]


def said(turns):
    return [x for t in turns for x in (t["user"], t["reply"])]


def test_user_of_converse_is_the_user_of_roleplay(ready, server):
    """Same prompt, same settings: where nothing of the conversation is shown, the calls are word for word the same."""
    assert ready.params.user.history == 0
    (ready.folder / "data/personas/train.jsonl").write_text(json.dumps(PERSON) + "\n")
    ready.run("roleplay")

    def users():
        return {
            json.dumps(b["messages"]) for b in server.requests if b["messages"][0]["content"].startswith("You are a person")
        }

    of_roleplay = users()
    talk(ready, "base")
    assert len(of_roleplay) == 4 and users() == of_roleplay


@pytest.mark.parametrize("arm", ["base", "oracle", "remind"])
def test_plain_arms_see_all_that_was_said(ready, server, arm):
    turns = talk(ready, arm)["turns"]
    calls = told(server)
    prompt = prompts.load(ready.folder / f"prompts/{arm if arm != 'base' else 'assistant'}.txt").part(
        "system", persona=Persona(**PERSON).text
    )
    assert len(turns) == 4
    assert calls == [(prompt, [*said(turns[:k]), turns[k]["user"]]) for k in range(4)]
    assert (PERSON["profile"] in prompt) == (arm == "oracle")


def test_without_memory_only_the_last_message_is_seen(ready, server):
    turns = talk(ready, "base_no_memory")["turns"]
    assert [chat for _, chat in told(server)] == [[t["user"]] for t in turns] and len(turns) == 4


def test_retrieval_shows_the_most_similar_exchanges_in_their_order(ready, server, monkeypatch):
    import numpy as np

    from stages.text import encoder

    seen = []

    def encoder(p):
        assert p.model.startswith("package:")

        def encode(texts):  # the nearest to anything is what was said first, then third
            seen.append(texts)
            return np.array([[1.0, 0], [0.9, 0.1], [0.1, 0.9], [0.8, 0.2]][: len(texts)])

        return encode

    monkeypatch.setattr(embed, "Encoder", encoder)
    ready.set(converse__similar=2)
    turns = talk(ready, "retrieval")["turns"]
    chats = [chat for _, chat in told(server)]
    assert chats[2] == [*said(turns[:2]), turns[2]["user"]]  # no more than two: all of them
    assert chats[3] == [*said([turns[0], turns[2]]), turns[3]["user"]]
    assert seen == [[turns[3]["user"], *(f"{t['user']} {t['reply']}" for t in turns[:3])]]


def test_the_encoder_finds_what_is_like_the_message(ready):
    from stages.text.encoder import Encoder
    from stages.text.settings import EncoderParams

    past = [
        Exchange("", "My boat leaks at the stern.", "Seal it."),
        Exchange("", "I love baking rye bread.", "Try a sourdough."),
        Exchange("", "My daughter plays the drums.", "How nice."),
        Exchange("", "The engine of my boat is old.", "Have it looked at."),
    ]
    encode = Encoder(EncoderParams(model=ready.params.encoder.model, revision="", sha256="", batch_size=8))
    assert assistant.most_similar(encode, past, "Which paint is good for a boat?", 2) == [past[0], past[3]]
    assert assistant.most_similar(encode, past, "How hot must the oven be for a loaf?", 1) == [past[1]]


def test_critique_keeps_only_the_revision_in_the_conversation(ready, server):
    turns = talk(ready, "critique")["turns"]
    prompt = prompts.load(ready.folder / "prompts/critique.txt")
    ask, again = prompt.part("critique"), prompt.part("revise")
    expected = []
    for k, t in enumerate(turns):
        drafted = [*said(turns[:k]), t["user"]]
        expected += [drafted, [*drafted, t["draft"], ask], [*drafted, t["draft"], ask, t["critique"], again]]
    assert [chat for _, chat in told(server)] == expected and len(expected) == 12
    assert all(len({t["draft"], t["critique"], t["reply"]}) == 3 for t in turns)


def test_a_draft_is_the_reply_of_the_base_arm(ready, server):
    """Same system prompt, so the reply cache has the first draft already."""
    base = talk(ready, "base")["turns"]
    assert talk(ready, "critique")["turns"][0]["draft"] == base[0]["reply"]
    assert len(told(server)) == 4 + 11


def test_only_the_reply_after_the_thought_is_said(ready, server):
    answers = iter(
        ["They fish. Reply: Mend the net.", "no mark here", '**Reply:** "Sell one boat."', "Reply: a reply: Rest."]
    )
    scripted = server.reply
    server.reply = lambda body: next(answers) if body["model"] == "tested" else scripted(body)
    turns = talk(ready, "fewshot")["turns"]
    assert [t["reply"] for t in turns] == ["Mend the net.", "no mark here", "Sell one boat.", "Rest."]
    assert [t["unparsed"] for t in turns] == [False, True, False, False]
    assert turns[0]["raw"] == "They fish. Reply: Mend the net."
    prompt = prompts.load(ready.folder / "prompts/fewshot.txt")
    examples = [m["content"] for m in prompt.messages()[1:]]
    calls = [chat for _, chat in told(server)]
    for k, chat in enumerate(calls):
        lines = "".join(f"\nUser: {t['user']}\nYou: {t['reply']}" for t in turns[:k]) or " nothing."
        assert chat == [*examples, prompt.part("last", conversation=lines, message=turns[k]["user"])]
    bodies = [b for b in server.requests if b["model"] == "tested"]
    assert {b["max_tokens"] for b in bodies} == {ready.params.converse.tokens + ready.params.converse.thought_tokens}


@pytest.mark.parametrize("text", ["", "Think.", "Reply:", "Reply: ", "Replying now"])
def test_a_thought_without_a_reply_is_told(text):
    with pytest.raises(ValueError):
        assistant.parse_reply(text)


def test_a_served_model_stands_in_the_same_table(ready, server):
    """One line of `arms` gives conversations and judgements of a model behind an API."""
    ready.params.arms.other = {**ready.params.arms.base, "model": "scripted:tested"}
    ready.write()
    ready.run("converse", "other")
    ready.run("judge", "other")
    turns = ready.rows("data/conversations/other.jsonl")[0]["turns"]
    assert len(told(server)) == len(turns) == 4
    rows = ready.rows("data/judgements/other.jsonl")
    assert [r["turn"] for r in rows] == [1, 2, 3, 4] and all(1 <= r["score"] <= 5 for r in rows)
    told_of = json.loads((ready.folder / "results/converse/other.json").read_text())
    assert told_of["model"] == told_of["identity"] == "scripted:tested" and told_of["unparsed"] == 0


def test_replies_without_a_mark_are_counted(ready):
    ready.params.arms.other = {**ready.params.arms.fewshot, "model": "scripted:tested"}
    ready.write()
    ready.run("converse", "other")
    assert json.loads((ready.folder / "results/converse/other.json").read_text())["unparsed"] == 4


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub client without a network, its cache in a folder of the test."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_the_hub_is_taken_from_the_clients_cache(hub, tmp_path):
    commit = "0123456789012345678901234567890123456789"
    folder = hub / "models--somebody--personal" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    base = tmp_path / "base"
    assert assistant.bound(f"somebody/personal@{commit}", base, base) == (assistant.UNDER_TEST, folder)
    (hub / "models--somebody--personal/refs").mkdir()
    (hub / "models--somebody--personal/refs/main").write_text(commit)
    assert assistant.bound("somebody/personal", base, base) == (assistant.UNDER_TEST, folder)
    assert assistant.bound("openai:gpt-4o", base, base) == ("openai:gpt-4o", None)
    assert assistant.bound("local", base, base) == ("embedded", base)
    assert assistant.bound("local", tmp_path / "sft", base) == (assistant.UNDER_TEST, tmp_path / "sft")


def test_a_model_that_cannot_be_had_is_one_line(ready, hub):
    ready.params.arms.other = {**ready.params.arms.base, "model": "nobody/nothing"}
    ready.write()
    complains(ready.run("converse", "other", check=False), "arms: model nobody/nothing cannot be had from the Hub")
    assert assistant.snapshot("nobody/nothing", fetch=False) is None  # what the plan asks


@pytest.mark.parametrize("key, value", [("strategy", "guess"), ("memory", "some"), ("model", "a b")])
def test_faults_of_an_arm_are_named_with_all_others(ready, key, value):
    ready.params.arms.sft[key] = value
    ready.write()
    faults = check.check()
    assert len(faults) == 1 and faults[0].startswith(f"arms.sft.{key}: {value!r}"), faults


def test_a_strategy_needs_its_parts_of_the_prompt(ready):
    ready.params.arms.base.strategy = "critique"
    with pytest.raises(UserError, match=r"has no part \[critique\], which strategy critique needs"):
        talk(ready, "base")
