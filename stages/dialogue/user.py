"""The simulated user: one turn that reveals one item of its persona. Shared by roleplay and converse.

What it says depends on what it is shown: with `history` 0 only the fact it is to reveal (all that a 135M model can hold),
with more that many earlier exchanges, its persona and the last reply.
"""

from stages.core.files import seed_of
from stages.core.prompts import Message, Prompt
from stages.dialogue.transcript import Exchange
from stages.llm.client import Answer, Client
from stages.llm.settings import Role
from stages.personas.persona import Persona

USER_TURN_STOPS = ("\n",)


def messages(prompt: Prompt, persona: Persona, past: list[Exchange], fact: str, history: int) -> list[Message]:
    """Chat for the user model: examples first, then the persona, then what was said, the new fact last.

    With `history` > 0 the chat of turn t+1 starts with that of turn t (as long as no more than `history` turns were made),
    so a server's prefix cache holds.
    """
    chat = prompt.messages()
    start = max(0, len(past) - history) if history else len(past)
    for i in range(start, len(past) + 1):
        parts = []
        if history and i == start:
            parts.append(prompt.part("persona", persona=persona.text))
        if history and i > 0:
            parts.append(prompt.part("reply", reply=past[i - 1].reply))
        parts.append(prompt.part("fact", fact=past[i].fact if i < len(past) else fact))
        chat.append({"role": "user", "content": "\n".join(parts)})
        if i < len(past):
            chat.append({"role": "assistant", "content": past[i].said})
    return chat


async def user_turn(
    client: Client,
    role: Role,
    prompt: Prompt,
    persona: Persona,
    past: list[Exchange],
    fact: str,
    *,
    history: int,
    seed: tuple[object, ...],
) -> Answer[str]:
    """What the user says next. `seed` names the turn: (stage seed, path); persona and role are added here."""
    chat = messages(prompt, persona, past, fact, history)
    return await client.ask(role, chat, seed_of(*seed, persona.id, "user"), str.strip)
