"""The inducer that quotes, asked: of a user's turn in role-play, of what a model under test says in the evaluation."""

from collections.abc import Collection
from functools import partial

from stages.core.prompts import Message, Prompt
from stages.dialogue import quotes
from stages.dialogue.quotes import Quote
from stages.dialogue.transcript import texts
from stages.llm.client import Client
from stages.llm.settings import Role


async def shown(
    client: Client, who: Role, prompt: Prompt, items: list[str], history: list[Message], noted: Collection[int], seed: int
) -> list[Quote]:
    """Items that the user of `history` shows, those `noted` before aside, each with its quote. Raises CallFailed."""
    chat = quotes.messages(prompt, items, history, noted)
    parse = partial(quotes.parse, n_items=len(items), said=texts(history, "user"))
    answer = await client.ask(who, chat, seed, parse, quotes.schema(len(items), noted))
    return [q for q in answer.value if q["item"] not in noted]
