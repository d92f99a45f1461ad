"""A conversation of the evaluation: the user of role-play and a model under test."""

import asyncio

from fakes import FakeClient, by_role, prompt, prompts, section

from stages.dialogue.assistant import ModelUnderTest, conversation
from stages.dialogue.grow import whole_tree
from stages.dialogue.settings import Converse, Roleplay, UserTalker
from stages.dialogue.user import User
from stages.llm.settings import Roles
from stages.personas.persona import Persona
from stages.text.settings import EncoderParams

PERSONA = Persona("I fish at sea. I own two boats. My leg hurts. I nap.", "I am shy, loud, and kind.")
TALKER = section(UserTalker, "user")


def talk(client, turns=4):
    tested = ModelUnderTest(
        section(Converse, "converse"), section(EncoderParams, "encoder"), client, "x", prompt("assistant"), "reply", "all"
    )
    return asyncio.run(conversation(client, User(client, TALKER, prompt("user")), tested, PERSONA, 1, turns))


def test_each_turn_reveals_the_next_item_and_sees_the_turns_before():
    client = FakeClient()
    row = talk(client, turns=9)  # two more than there are items
    assert row["id"] == PERSONA.id and row["items"] == PERSONA.items and row["ended"] is None
    assert [t["item"] for t in row["turns"]] == [*PERSONA.schedule(1), *PERSONA.schedule(1)[:2]]
    assert [t["turn"] for t in row["turns"]] == [*range(1, 10)] and {t["outcome"] for t in row["turns"]} == {"ok"}
    assert all(PERSONA.items[t["item"]] in t["user"] for t in row["turns"])
    last = client.chats("model under test")[-1]
    said = [x for t in row["turns"] for x in (t["user"], t["reply"])]
    assert [m["content"] for m in last[1:]] == said[:-1]


def test_a_turn_that_fails_ends_the_conversation():
    client = FakeClient()
    client.reply = lambda role, chat, seed: "" if len(client.chats("user")) == 3 else by_role(role, chat, seed)
    row = talk(client)
    assert len(row["turns"]) == 2 and row["ended"] == {"turn": 3, "reason": "empty"}
    assert client.failed == [(f"{PERSONA.id} turn 3", "converse")]


def test_an_empty_reply_is_the_models_own_doing():
    client = FakeClient(lambda role, chat, seed: "" if role.name == "model under test" else by_role(role, chat, seed))
    assert [(t["reply"], t["outcome"]) for t in talk(client)["turns"]] == [("", "empty")] * 4


def test_its_user_is_that_of_roleplay():
    """Same prompt, same settings: where nothing of the conversation is shown, the calls are word for word the same."""
    assert TALKER.history == 0
    ours, theirs = FakeClient(), FakeClient()
    talk(ours)
    asyncio.run(
        whole_tree(section(Roleplay, "roleplay", turns=4), TALKER, section(Roles, "roles"), theirs, prompts(), PERSONA)
    )
    asked = [[(role, chat) for role, chat, _ in c.asked if role.name == "user"] for c in (ours, theirs)]
    assert asked[0] == asked[1] and len(asked[0]) == 4
