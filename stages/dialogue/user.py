"""The simulated user: one turn that reveals one item of its persona. Shared by roleplay and converse.

What it writes depends on what it is shown: with `history` 0 only the fact it is to reveal (all that a 135M model can hold),
with more that many earlier exchanges, its persona and the last reply.
"""

from stages.core.files import seed_of
from stages.core.prompts import Message, Prompt, alternating
from stages.dialogue.transcript import Exchange
from stages.llm.client import Client
from stages.llm.settings import Talker, role
from stages.personas.persona import Persona


def messages(prompt: Prompt, persona: Persona, past: list[Exchange], fact: str, history: int) -> list[Message]:
    """Chat for the user model, in which it is the assistant: examples first, then the exchanges shown, the new fact last.

    With `history` > 0 the chat of turn t+1 starts with that of turn t (as long as no more than `history` turns were made),
    so a server's prefix cache holds.
    """
    start = max(0, len(past) - history) if history else len(past)
    facts = [*(e.fact for e in past), fact]
    chat: list[str] = []
    for turn in range(start, len(facts)):
        parts = []
        if history and turn == start:
            parts.append(prompt.part("persona", persona=persona.text))
        if history and turn > 0:
            parts.append(prompt.part("reply", reply=past[turn - 1].reply))
        parts.append(prompt.part("fact", fact=facts[turn]))
        chat += ["\n".join(parts), *(e.message for e in past[turn : turn + 1])]
    return [*prompt.messages(), *alternating(chat)]


class User:
    """The simulated user of a stage run: who is asked, and with which prompt."""

    def __init__(self, client: Client, settings: Talker, prompt: Prompt):
        self.client, self.prompt, self.history = client, prompt, settings.history
        self.role = role(settings, "user", stop=prompt.stop("user"))

    async def write(self, persona: Persona, past: list[Exchange], fact: str, where: tuple[object, ...]) -> str:
        """The user's next message. `where` names the turn for its seed: (stage seed, path or number).

        Raises:
            CallFailed: no usable reply.
        """
        chat = messages(self.prompt, persona, past, fact, self.history)
        return (await self.client.ask(self.role, chat, seed_of(*where, persona.id, "user"), str.strip)).value
