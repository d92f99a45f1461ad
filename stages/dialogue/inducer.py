"""The inducer that quotes, asked: of a user's turn in role-play, of what a model under test says in the evaluation."""

from collections.abc import Collection
from functools import partial

from stages.core.prompts import Message, Prompt
from stages.dialogue import pieces, quotes
from stages.dialogue.quotes import Quote
from stages.dialogue.transcript import texts
from stages.llm.client import Client
from stages.llm.settings import Inducer, Role, Speaker, role


def asked(settings: Speaker, prompt: Prompt) -> Role:
    """The inducer as it is asked for text: for a line of notes, or for a list of quotes."""
    return role(settings, "inducer", accept=("ok", "truncated"), stop=prompt.stop("inducer"))


def noter(settings: Inducer, prompt: Prompt) -> Role:
    """The inducer of role-play as `shown` asks it, for a list or for letters."""
    return pieces.marker(settings) if settings.form == "letters" else asked(settings, prompt)


def refusal(param: str, prompt: Prompt) -> str | None:
    """Why a param whose value needs quotes cannot have it with this prompt of the inducer, None where it can."""
    if prompt.talk.inducer == "quotes":
        return None
    return f"{param} needs an inducer that quotes, which {prompt.path} is not; set prompts=natural, or leave it out"


async def shown(
    client: Client, who: Role, prompt: Prompt, items: list[str], history: list[Message], noted: Collection[int], seed: int
) -> list[Quote]:
    """Items that the last message of `history`, the user's, shows, but those `noted` before, each with a quote of the user.

    Args:
        who: for a list of quotes; with log-probabilities for letters (dialogue/pieces.py), which need no seed.
    Raises:
        CallFailed: no usable answer.
        UserError: the server tells no log-probabilities.
    """
    if who.logprobs:
        return await pieces.shown(client, who, prompt, items, history, noted)
    said = texts(history, "user")
    parse = partial(quotes.parse, items=items, said=said)
    schema = quotes.schema(items, noted, said[-1])
    answer = await client.ask(who, quotes.messages(prompt, items, history), seed, parse, schema)
    return [q for q in answer.value if q["item"] not in noted]


async def mentioned(
    client: Client, who: Role, prompt: Prompt, items: list[str], reply: str, seed: int, most: int = quotes.MOST
) -> list[Quote]:
    """Items of the user that a model's reply brings up, at most `most`, each with a quote of it. Raises CallFailed."""
    chat = quotes.messages(prompt, items, [{"role": "assistant", "content": reply}], "mentions")
    parse = partial(quotes.parse, items=items, said=[reply])
    return (await client.ask(who, chat, seed, parse, quotes.schema(items, (), reply, most))).value
