"""Multiple choice by letters: what a model that tells no log-probabilities of given replies makes of them.

Every reply stands once at every letter (rotations), so a liking for a letter cancels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from string import ascii_uppercase
from typing import Any

from stages.core.files import Record, seed_of
from stages.core.prompts import Message, Prompt
from stages.llm.client import Answer, Client
from stages.llm.endpoint import CallFailed
from stages.llm.letters import letter, told
from stages.llm.settings import Role


def rotations(prompt: Prompt, message: str, replies: Sequence[str]) -> Iterator[tuple[list[int], Message]]:
    """(replies in the order of their letters, the message that asks for one) with every reply once at every letter."""
    number = len(replies)
    for shift in range(number):
        order = [(shift + n) % number for n in range(number)]
        lines = "\n".join(f"{ascii_uppercase[n]}. {replies[j]}" for n, j in enumerate(order))
        yield order, {"role": "user", "content": prompt.part("ask", message=message, replies=lines)}


async def chosen(
    client: Client,
    role: Role,
    prompt: Prompt,
    seed: int,
    samples: int,
    where: tuple[str, ...],
    history: list[Message],
    message: str,
    replies: Sequence[str],
) -> tuple[list[float], int]:
    """(a row of L, answers that could not be read), for a user with `history`.

    L is the mean over the rotations of the letters' log p where the server tells them, else the log of the share of draws
    (one of each reply is added, shared out over the draws, so that none is 0). All equal where nothing could be read.

    Args:
        samples: draws of each rotation where no log-probabilities are told.
        where: seeds the draws.
    """  # fmt: skip
    number = len(replies)
    logs, counts, unread = list[list[float]](), Counter[int](), 0
    for shift, (order, last) in enumerate(rotations(prompt, message, replies)):
        chat = [*history, last]
        for sample in range(samples):
            try:
                parse = partial(letter, number=number)
                answer: Answer[int] = await client.ask(role, chat, seed_of(seed, *where, shift, "choose", sample), parse)
            except CallFailed:
                unread += 1
                continue
            if found := told(answer.reply, answer.value, number):
                logs.append([math.log(found[order.index(j)]) for j in range(number)])
                break
            counts[order[answer.value]] += 1
    if logs:
        return [math.fsum(row[j] for row in logs) / len(logs) for j in range(number)], unread
    return [math.log((counts[j] + 1 / number) / (counts.total() + 1)) for j in range(number)], unread


async def matrix(
    client: Client, role: Role, prompt: Prompt, seed: int, samples: int, group: Record, contexts: list[list[Message]]
) -> dict[str, Any]:
    """`scores`, L of a group, [N, N], and `unread`. Equal contexts are asked once.

    Args:
        contexts: of each user; the last message is the group's.
    """
    replies = [user["reply"] for user in group["users"]]
    places = [contexts.index(context) for context in contexts]  # of the first that is equal
    jobs = {}
    for n in dict.fromkeys(places):
        *before, last = contexts[n]
        where = (group["group"], group["users"][n]["id"])
        jobs[n] = partial(chosen, client, role, prompt, seed, samples, where, before, last["content"], replies)
    found = dict(zip(jobs, await client.in_order(role, list(jobs.values())), strict=True))
    return {"scores": [found[n][0] for n in places], "unread": sum(unread for _, unread in found.values())}
