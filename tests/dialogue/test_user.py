"""The simulated user: what its model is shown."""

import asyncio

from fakes import FakeClient, prompt, section
from hypothesis import given
from hypothesis import strategies as st

from stages.core.files import seed_of
from stages.dialogue import user
from stages.dialogue.settings import UserTalker
from stages.dialogue.transcript import Exchange
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
