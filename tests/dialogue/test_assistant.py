"""The model under test: the exact messages of each strategy and memory, and what is read from its replies."""

import asyncio

import numpy as np
import pytest
from fakes import FakeClient, prompt, section

from stages.core.cli import UserError
from stages.core.files import seed_of
from stages.dialogue import assistant
from stages.dialogue.settings import Converse
from stages.dialogue.transcript import Exchange, lines
from stages.personas.persona import Persona
from stages.text import encoder
from stages.text.settings import EncoderParams

PERSONA = Persona("I fish at sea.", "I am shy, loud, and kind.")
PAST = [Exchange("", f"Question {n}", f"Answer {n}") for n in range(3)]
SEEN = [x for e in PAST for x in (e.message, e.reply)]
C = section(Converse, "converse")


def ask(client, name="assistant", strategy="reply", memory="all", past=PAST, **changes):
    """The model's record for one message."""
    c, embedding = section(Converse, "converse", **changes), section(EncoderParams, "encoder")
    tested = assistant.ModelUnderTest(c, embedding, client, "x", prompt(name), strategy, memory)
    return asyncio.run(tested.answer(PERSONA, past, "Now what?", (1, 4)))


def chats(client, name="assistant"):
    """Contents of each call after the head of the prompt; the roles alternate."""
    head, found = prompt(name).messages(**({"persona": PERSONA.text} if name == "oracle" else {})), []
    for _, chat, _ in client.asked:
        assert chat[: len(head)] == head
        rest = chat[len(head) :]
        assert [m["role"] for m in rest] == ["user", "assistant"] * (len(rest) // 2) + ["user"]
        found.append([m["content"] for m in rest])
    return found


@pytest.mark.parametrize("name", ["assistant", "oracle", "remind"])
def test_a_plain_arm_sees_all_that_was_said(name):
    client = FakeClient()
    record = ask(client, name)
    assert chats(client, name) == [[*SEEN, "Now what?"]] and set(record) == {"reply", "outcome"}
    ((role, chat, seed),) = client.asked
    assert (PERSONA.profile in chat[0]["content"]) == (name == "oracle")
    assert role.tokens == C.tokens and seed == seed_of(1, 4, PERSONA.id, "reply")


def test_without_memory_only_the_message_is_seen():
    client = FakeClient()
    ask(client, memory="none")
    assert chats(client) == [["Now what?"]]


def test_memory_similar_shows_the_most_similar_exchanges_in_their_order(monkeypatch):
    asked = []

    def loaded(params):
        def encode(texts):  # the nearest to anything is the first exchange, then the third
            asked.append(texts)
            return np.array([[1.0, 0], [0.9, 0.1], [0.1, 0.9], [0.8, 0.2]])

        return encode

    monkeypatch.setattr(encoder, "Encoder", loaded)
    client = FakeClient()
    ask(client, memory="similar", similar=2)
    ask(client, memory="similar", similar=2, past=PAST[:2])  # no more than two: all of them
    assert chats(client) == [[*SEEN[:2], *SEEN[4:], "Now what?"], [*SEEN[:4], "Now what?"]]
    assert asked == [["Now what?", *(f"{e.message} {e.reply}" for e in PAST)]]


@pytest.mark.slow
def test_the_encoder_finds_what_is_like_the_message():
    past = [
        Exchange("", "My boat leaks at the stern.", "Seal it."),
        Exchange("", "I love baking rye bread.", "Try a sourdough."),
        Exchange("", "My daughter plays the drums.", "How nice."),
        Exchange("", "The engine of my boat is old.", "Have it looked at."),
    ]
    encode = encoder.Encoder(section(EncoderParams, "encoder"))
    assert assistant.most_similar(encode, past, "Which paint is good for a boat?", 2) == [past[0], past[3]]
    assert assistant.most_similar(encode, past, "How hot must the oven be for a loaf?", 1) == [past[1]]


def test_critique_asks_for_a_draft_a_critique_and_the_revision():
    client = FakeClient()
    record = ask(client, "critique", "critique")
    first = [*SEEN, "Now what?"]
    second = [*first, record["draft"], prompt("critique").part("critique")]
    assert chats(client, "critique") == [first, second, [*second, record["critique"], prompt("critique").part("revise")]]
    assert len({record["draft"], record["critique"], record["reply"]}) == 3


def test_a_draft_is_the_reply_of_the_base_arm():
    """Same system prompt, so the same call, whose reply is stored."""
    base, critique = FakeClient(), FakeClient()
    assert ask(base)["reply"] == ask(critique, "critique", "critique")["draft"]
    assert base.calls() < critique.calls()


@pytest.mark.parametrize(
    "text, reply",
    [
        ("They fish. Reply: Mend the net.", "Mend the net."), ('**Reply:** "Sell one boat."', "Sell one boat."),
        ("Shy. Reply: ¿Vas? 🍲", "¿Vas? 🍲"), ("害羞。Reply：好的。", "好的。"),
        ("Reply: a reply: Rest.", "Rest."), ("no mark here", None), ("", None), ("Reply: ", None), ("Replying now", None),
    ],
)  # fmt: skip
def test_only_the_reply_after_the_thought_is_said(text, reply):
    client = FakeClient(lambda *_: text)
    record = ask(client, "fewshot", "reason")
    assert record["reply"] == (text.strip() if reply is None else reply) and record["unparsed"] == (reply is None)
    assert record["raw"] == text.strip()
    assert chats(client, "fewshot") == [[prompt("fewshot").part("last", conversation=lines(PAST), message="Now what?")]]
    assert client.asked[0][0].tokens == C.tokens + C.thought_tokens


def test_a_thought_about_nothing_earlier():
    client = FakeClient()
    ask(client, "fewshot", "reason", past=[])
    assert chats(client, "fewshot") == [["Earlier: nothing.\nNow: Now what?"]]


def test_a_strategy_needs_its_parts_of_the_prompt():
    with pytest.raises(UserError, match=r"has no part \[critique\], which strategy critique needs"):
        ask(FakeClient(), "assistant", "critique")
