"""Calibration items, replies whose order is known, and how a judge is asked for their scores."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from stages.core import prompts
from stages.core.cli import UserError
from stages.core.files import Record, read_lines
from stages.judging import judge
from stages.judging.settings import Judge
from stages.llm.client import Client
from stages.llm.settings import Role

BEST = "tailored"
KINDS = (BEST, "generic", "wrong_person", "flattering", "reciting")


def read(path: Path) -> list[Record]:
    """The items: id, context, kind, profile, personality, conversation (exchanges of `user` and `reply`), message, reply.

    Raises:
        UserError: a row without one of these, an id twice, or a context without exactly one item of each kind.
    """
    items: list[Record] = []
    for number, row in read_lines(path):
        texts = ("id", "context", "kind", "profile", "personality", "message", "reply")
        lacking = [k for k in texts if not isinstance(row, dict) or not isinstance(row.get(k), str)]
        exchanges = [] if lacking else row.get("conversation")
        if not isinstance(exchanges, list) or any(not isinstance(e, dict) or {"user", "reply"} - set(e) for e in exchanges):
            lacking = ["conversation"]
        if lacking:
            raise UserError(f"{path}:{number}: a calibration item needs {lacking[0]}")
        if row["kind"] not in KINDS:
            raise UserError(f"{path}:{number}: kind {row['kind']!r} is none of {', '.join(KINDS)}")
        items.append(row)
    if not items:
        raise UserError(f"{path}: holds no calibration item")
    kinds = Counter((i["context"], i["kind"]) for i in items)
    for context in sorted({i["context"] for i in items}):
        if wrong := [k for k in KINDS if kinds[context, k] != 1]:
            raise UserError(
                f"{path}: context {context} has {kinds[context, wrong[0]]} items of kind {wrong[0]}, expected one"
            )
    if twice := [i for i, n in Counter(i["id"] for i in items).items() if n > 1]:
        raise UserError(f"{path}: id {twice[0]} is there more than once")
    return sorted(items, key=itemgetter("context"))


def reversed_examples(prompt: prompts.Prompt) -> prompts.Prompt:
    """The judge's prompt with its examples in reverse order; the same where it has not at least two."""
    names = [name for name, _ in prompt.parts]
    first = names.index("user") if "user" in names else 0
    examples = prompt.parts[first:-1]
    if len(examples) < 4 or [n for n, _ in examples] != ["user", "assistant"] * (len(examples) // 2):
        return prompt
    pairs = [examples[i : i + 2] for i in range(0, len(examples), 2)]
    return replace(prompt, parts=(*prompt.parts[:first], *(p for pair in reversed(pairs) for p in pair), prompt.parts[-1]))


async def scored(
    client: Client, who: Role, prompt: prompts.Prompt, seed: int, samples: int, items: list[Record]
) -> list[Record]:
    """Judgements of the items of one context, one after the other: their prompts differ in the reply alone."""
    jobs = []
    for item in items:
        turns = [*item["conversation"], {"user": item["message"], "reply": item["reply"]}]
        case = {**item, "turns": [{**t, "turn": n} for n, t in enumerate(turns, 1)]}
        jobs.append(partial(judge.score, client, who, prompt, seed, case, len(turns) - 1, samples, case))
    return await client.in_order(who, jobs)


def asked(client: Client, p: Judge, prompt: prompts.Prompt, items: list[Record]) -> list[partial[Any]]:
    """One job, which gives rows, for every judge, asking (as it is; examples reversed and another seed) and context."""
    contexts = [list(group) for _, group in groupby(items, key=itemgetter("context"))]
    ways = ((prompt, p.seed), (reversed_examples(prompt), p.seed + 1))
    return [
        partial(scored, client, who, *way, p.samples, context)
        for who in judge.judges(p, prompt)
        for way in ways
        for context in contexts
    ]
