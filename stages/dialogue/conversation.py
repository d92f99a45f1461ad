"""A conversation of the evaluation: the simulated user and one model under test, turn by turn."""

from stages.core.files import Record
from stages.dialogue.assistant import ModelUnderTest
from stages.dialogue.transcript import Exchange
from stages.dialogue.user import User
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.personas.persona import Persona


async def conversation(
    client: Client, user: User, tested: ModelUnderTest, persona: Persona, seed: int, turns: int
) -> Record:
    """The persona, its items, `turns` (turn, item, user, reply, outcome, ...), and `ended`: turn and reason of the failed
    call that ended the conversation, or None."""
    schedule = persona.schedule(seed)
    past: list[Exchange] = []
    rows: list[Record] = []
    ended = None
    for turn in range(1, turns + 1):
        item = schedule[(turn - 1) % len(schedule)]
        fact, where = persona.items[item], (seed, turn)
        try:
            message = await user.write(persona, past, fact, where)
            answer = await tested.answer(persona, past, message, where)
        except CallFailed as e:
            client.record_failure(f"{persona.id} turn {turn}", "converse", e)
            ended = {"turn": turn, "reason": e.reason}
            break
        past.append(Exchange(fact, message, answer["reply"]))
        rows.append({"turn": turn, "item": item, "user": message, **answer})
    return {**persona.record(), "items": persona.items, "turns": rows, "ended": ended}
