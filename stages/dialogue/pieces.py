"""Notes piece by piece: an inducer for models too small to list items with quotes.

The model is asked of each piece of the user's message which one of the lettered items it shows, and the probabilities of the
letters are read, not the answer. Two likings would mislead: that for a letter, which two orders of the list average out, and
that for an item, which shows at the other pieces of the conversation (calibration: Zhao et al. 2021, arXiv 2102.09690).
Words that a piece and an item have in common count beside the model. Then it is asked, yes or no, whether the piece shows
the item that gained most, which tells a coincidence of words from what was said.
"""

import math
from collections.abc import Collection
from functools import partial
from string import ascii_uppercase

from stages.core.cli import UserError
from stages.core.prompts import Message, Prompt
from stages.dialogue import quotes
from stages.dialogue.quotes import Quote
from stages.llm.client import Answer, Client
from stages.llm.letters import letter, log_odds, told
from stages.llm.settings import Inducer, Role, role
from stages.text.ngrams import coverage

NOTHING = "..."  # a piece that says nothing, asked about with each message
LONGEST = 16  # items of a list: with `none`, as many letters as servers tell the probabilities of
SEEN = 3  # messages shown, the last ones
WORDS = 3.0  # nats for all of an item's content words, in proportion for some
ASKED = 0.6  # gain in nats from which the model is asked whether a piece shows its item
LEAST = 1.6  # gain and log odds of yes, in nats, from which it does (LOG.md, 2026-11-26)
RAREST = 1e-3  # least probability of a letter


def marker(inducer: Inducer) -> Role:
    """The inducer as it is asked here: for one token, and the probabilities of others."""
    return role(inducer, "inducer", temp=0.0, top_p=1.0, penalty=0.0, tokens=1, accept=("ok", "truncated"), logprobs=20)


def messages(prompt: Prompt, items: list[str], history: list[Message], piece: str) -> list[Message]:
    """Chat that asks which of `items` a piece of the last message of `history`, the user's, shows: for its letter."""
    lettered = "\n".join(f"{ascii_uppercase[n]}. {item}" for n, item in enumerate(items))
    return chat(prompt, "letters_", history, piece, items=lettered, none=ascii_uppercase[len(items)])


def question(prompt: Prompt, item: str, history: list[Message], piece: str) -> list[Message]:
    """Chat that asks whether a piece of the last message of `history`, the user's, shows an item: yes or no."""
    return chat(prompt, "confirm_", history, piece, item=item)


def chat(prompt: Prompt, parts: str, history: list[Message], piece: str, **values: str) -> list[Message]:
    """The prompt's chat whose parts begin with `parts`, and at its end the question about a piece."""
    asked = prompt.part(f"{parts}last", conversation=quotes.lines(history[-SEEN:]), piece=piece, **values)
    return [*prompt.messages(parts), {"role": "user", "content": asked}]


async def log_probs(
    client: Client, who: Role, prompt: Prompt, items: list[str], history: list[Message], pieces: list[str]
) -> list[list[float]]:
    """log p of each item's letter, among those of its list, by piece and item, [pieces, items]: the mean of two orders.

    Args:
        who: with log-probabilities.
        pieces: of the last message of `history`.
    Raises:
        CallFailed: no letter for an answer.
        UserError: the server tells no log-probabilities.
    """
    parts = [[*range(len(items))][n : n + LONGEST] for n in range(0, len(items), LONGEST)]
    lists = [order for part in parts for order in (part, part[::-1])]
    jobs = []
    for order in lists:
        for piece in pieces:
            asked = messages(prompt, [items[i] for i in order], history, piece)
            jobs.append(partial(client.ask, who, asked, 0, partial(letter, number=len(order) + 1)))
    answers: list[Answer[int]] = await client.in_order(who, jobs)
    logs = [[0.0] * len(items) for _ in pieces]
    for n, answer in enumerate(answers):
        order = lists[n // len(pieces)]
        known = told(answer.reply, answer.value, len(order) + 1)
        if known is None:
            raise UserError(f"{who.model}: the server tells no log-probabilities; set roles.inducer_form=list")
        for i, p in zip(order, known, strict=False):  # the last one is none of them
            logs[n % len(pieces)][i] += math.log(max(p, RAREST)) / 2
    return logs


async def shown(
    client: Client, who: Role, prompt: Prompt, items: list[str], history: list[Message], noted: Collection[int]
) -> list[Quote]:
    """As `inducer.shown`, each item with the piece that shows it most.

    A piece shows at most one item: that which gains most, by its letter, against the mean over all pieces so far, and by its
    words; if gain and log odds of yes come to LEAST. Earlier messages are asked about again, which their stored replies
    answer.

    Raises:
        CallFailed, UserError: see `log_probs`.
    """
    pieces: list[str] = []
    logs: list[list[float]] = []
    for n in (n for n, message in enumerate(history) if message["role"] == "user"):
        pieces = [*quotes.clauses(history[n]["content"]), NOTHING]
        logs += await log_probs(client, who, prompt, items, history[: n + 1], pieces)
    usual = [math.fsum(row[i] for row in logs) / len(logs) for i in range(len(items))]
    likely: list[tuple[float, int, str]] = []
    for piece, row in zip(pieces[:-1], logs[-len(pieces) :], strict=False):
        gain, item = max((row[i] - usual[i] + WORDS * coverage(items[i], piece), i) for i in range(len(items)))
        if gain >= ASKED and item not in noted:
            likely.append((gain, item, piece))
    jobs = [partial(client.ask, who, question(prompt, items[i], history, piece), 0, str.strip) for _, i, piece in likely]
    best: dict[int, tuple[float, str]] = {}
    for (gain, item, piece), answer in zip(likely, await client.in_order(who, jobs), strict=True):
        score = gain + log_odds(answer.reply, "yes", "no")
        if score >= LEAST:
            best[item] = max(best.get(item, (score, piece)), (score, piece), key=lambda found: found[0])
    return [{"item": item, "quote": piece} for item, (_, piece) in sorted(best.items())]
