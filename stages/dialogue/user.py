"""The simulated user, shared by roleplay and converse.

How it talks is said by its prompt set. A scheduled user is told one item of its persona to reveal, turn by turn: with
`history` 0 that is all it is shown (all that a 135M model can hold). A natural user has its whole persona in view and an
agenda, items that it may touch on at this turn, and may end the conversation.
"""

import re
from collections.abc import Sequence

from stages.core.files import Record, seed_of
from stages.core.prompts import Message, Prompt, alternating
from stages.dialogue.settings import UserTalker
from stages.dialogue.transcript import Exchange
from stages.llm.client import Client
from stages.llm.settings import role
from stages.personas.persona import Persona

_END = re.compile(r"\s*[*_`]*\[end\][*_`.]*\s*$", re.I)


def told(prompt: Prompt, persona: Persona, seed: int, turn: int) -> tuple[Record, str]:
    """What the user is told for a turn, counted from 1: as trees keep it (`item` or `agenda`), and in words."""
    if prompt.talk.user == "scheduled":
        order = persona.schedule(seed)
        item = order[(turn - 1) % len(order)]
        return {"item": item}, persona.items[item]
    agenda = persona.agenda(seed, turn)
    words = " ".join(persona.items[i] for i in agenda)
    return {"agenda": agenda}, prompt.part("turn", agenda=words) if agenda else prompt.part("small_talk")


def messages(prompt: Prompt, persona: Persona, past: Sequence[Exchange], words: str, history: int) -> list[Message]:
    """Chat for the user model, in which it is the assistant: the exchanges shown, then what it is told now, in `words`.

    With `history` > 0 the chat of turn t+1 starts with that of turn t (as long as no more than `history` turns were made),
    so a server's prefix cache holds.
    """
    natural = prompt.talk.user == "natural"
    start = max(0, len(past) - history) if history else len(past)
    every = [*(e.told for e in past), words]
    chat: list[str] = []
    for turn in range(start, len(every)):
        heard = _heard(prompt, past[turn - 1].reply if turn else None, natural, history)
        if history and turn == start and not natural:
            heard.insert(0, prompt.part("persona", persona=persona.text))
        last = every[turn] if natural else prompt.part("fact", fact=every[turn])
        chat += [("\n\n" if natural else "\n").join([*heard, last]), *(e.message for e in past[turn : turn + 1])]
    head = prompt.messages(persona=persona.text) if natural else prompt.messages()
    return [*head, *alternating(chat)]


def _heard(prompt: Prompt, reply: str | None, natural: bool, history: int) -> list[str]:
    """What the user hears before a turn: the reply to its last message; None: there is none yet."""
    if natural and reply is None:
        return [prompt.part("start")]
    return [prompt.part("reply", reply=reply)] if reply is not None and (natural or history) else []


class User:
    """The simulated user of a stage run: who is asked, and with which prompt. `model`: in place of that of `settings`."""

    def __init__(self, client: Client, settings: UserTalker, prompt: Prompt, model: str | None = None):
        self.client, self.prompt, self.history, self.min_turns = client, prompt, settings.history, settings.min_turns
        self.role = role(settings, "user", stop=prompt.stop("user"), **({"model": model} if model else {}))

    async def write(
        self, persona: Persona, past: Sequence[Exchange], words: str, where: tuple[object, ...]
    ) -> tuple[str, bool]:
        """(the user's next message, whether it ends the conversation); the message may be empty where it ends it.

        Args:
            words: what it is told for this turn (`told`).
            where: names the turn for its seed: (stage seed, path or number).
        Raises:
            CallFailed: no usable reply.
        """

        def said(text: str) -> tuple[str, bool]:
            if self.prompt.talk.user == "scheduled":
                return text.strip(), False
            message, signals = _END.subn("", text.strip())
            ends = bool(signals) and len(past) + bool(message) >= self.min_turns
            if not message and not ends:
                raise ValueError("leaves too soon")
            return message, ends

        chat = messages(self.prompt, persona, past, words, self.history)
        return (await self.client.ask(self.role, chat, seed_of(*where, persona.id, "user"), said)).value
