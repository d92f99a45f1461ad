"""The simulated user: what its model is shown."""

import asyncio

import pytest
from fakes import FakeClient, prompt, prompts, section
from hypothesis import given
from hypothesis import strategies as st

from stages.core.files import seed_of
from stages.dialogue import user
from stages.dialogue.settings import UserTalker
from stages.dialogue.transcript import Exchange
from stages.llm.endpoint import CallFailed
from stages.personas.persona import Persona

PROMPT = prompt("user")
PERSONA = Persona("I fish.", "I am shy, loud, and kind.")
PAST = [Exchange("I fish.", "I fish. Where?", "At sea."), Exchange("I am shy.", "I am shy. Help?", "Breathe.")]
SHORT = st.text(max_size=9)


def shown(history, past=PAST):
    """What follows the examples."""
    return user.messages(PROMPT, PERSONA, past, "I am loud.", history)[len(PROMPT.messages()) :]


def test_without_history_the_fact_is_all_that_is_shown():
    assert shown(0) == [{"role": "user", "content": PROMPT.part("fact", fact="I am loud.")}]


def test_with_history_the_persona_the_replies_and_the_facts_are_shown():
    first, *rest = shown(1)
    assert first["content"].split("\n") == [
        PROMPT.part("persona", persona=PERSONA.text), "They answered: At sea.", "Fact: I am shy."
    ]  # fmt: skip
    assert [m["content"] for m in rest] == ["I am shy. Help?", "They answered: Breathe.\nFact: I am loud."]
    assert [m["content"] for m in shown(9)][1:4] == [
        "I fish. Where?",
        "They answered: At sea.\nFact: I am shy.",
        "I am shy. Help?",
    ]


@given(past=st.lists(st.builds(Exchange, SHORT, SHORT, SHORT), max_size=6), history=st.integers(0, 8))
def test_the_chat_grows_with_the_conversation(past, history):
    chat = user.messages(PROMPT, PERSONA, past, "new fact", history)
    roles = [m["role"] for m in chat]
    assert roles[0] == "system" and roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]
    assert "new fact" in chat[-1]["content"]
    if history > len(past) > 0:
        assert user.messages(PROMPT, PERSONA, past[:-1], past[-1].told, history) == chat[:-2]
    if history == 0:
        assert PERSONA.profile not in chat[-1]["content"]


def test_a_turn_is_one_call_seeded_by_its_place():
    client = FakeClient(lambda *_: "  I am loud. What now? ")
    speaker = user.User(client, section(UserTalker, "user", history=2), PROMPT)
    assert asyncio.run(speaker.write(PERSONA, PAST, "I am loud.", (7, "u/p/u"))) == ("I am loud. What now?", False)
    ((role, chat, seed),) = client.asked
    assert role.name == "user" and role.stop == ("\n",) and seed == seed_of(7, "u/p/u", PERSONA.id, "user")
    assert chat == user.messages(PROMPT, PERSONA, PAST, "I am loud.", 2)


NATURAL = prompts("natural")["user"]


def written(said, past=(), min_turns=2):
    speaker = user.User(FakeClient(lambda *_: said), section(UserTalker, "user", history=9, min_turns=min_turns), NATURAL)
    return asyncio.run(speaker.write(PERSONA, past, "(Chat.)", (7, "u")))


def test_a_natural_user_has_its_persona_in_view_and_its_chat_only_grows():
    chat = user.messages(NATURAL, PERSONA, PAST, "(Chat.)", 9)
    assert PERSONA.text in chat[0]["content"] and [m["role"] for m in chat[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert chat[1]["content"] == f"{NATURAL.part('start')}\n\n{PAST[0].told}" and chat[2]["content"] == PAST[0].message
    assert chat[-1]["content"] == f"{PAST[1].reply}\n\n(Chat.)"
    assert user.messages(NATURAL, PERSONA, PAST[:1], PAST[1].told, 9) == chat[:-2]
    assert user.messages(NATURAL, PERSONA, PAST, "(Chat.)", 0)[1:] == chat[-1:]


@pytest.mark.parametrize(
    "said, turns, found",
    [
        ("Fine.\n\nBye\n[end]", 1, ("Fine.\n\nBye", True)),
        ("Bye [END] ", 2, ("Bye", True)),
        ("Bye\n[end]", 0, ("Bye", False)),  # too soon: it is a message as any other
        ("[end]", 2, ("", True)),
        ("Bye\n**[END]**", 2, ("Bye", True)),
        ("Bye [end].", 2, ("Bye", True)),
        ("The [end] of it.", 2, ("The [end] of it.", False)),
    ],
)
def test_a_natural_user_may_leave_after_its_least_number_of_turns(said, turns, found):
    assert written(said, PAST[:turns]) == found


def test_a_natural_user_that_leaves_too_soon_is_asked_again():
    with pytest.raises(CallFailed, match="unreadable"):
        written("[end]", PAST[:1])


def test_what_a_user_is_told_for_a_turn():
    scheduled = [user.told(PROMPT, PERSONA, 1, turn) for turn in range(1, 6)]
    assert [kept["item"] for kept, _ in scheduled] == [*PERSONA.schedule(1), PERSONA.schedule(1)[0]]
    for kept, words in (user.told(NATURAL, PERSONA, 1, turn) for turn in range(1, 6)):
        assert all(PERSONA.items[i] in words for i in kept["agenda"])
        assert words == NATURAL.part("small_talk") or kept["agenda"]
