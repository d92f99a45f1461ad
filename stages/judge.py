"""Judge: score each reply of the conversations 1-5 for how well it fits the whole persona, given the history.

An answer that cannot be read is `unscored`, with its reason and raw text; it is never given a score.

Run: python -m stages.judge (the arguments are in dvc.yaml)
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from stages.common import params, prompts
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.progress import Progress
from stages.common.records import Record, read_jsonl, seed_of, write_json, write_jsonl

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OUT_OF = re.compile(r"(?:/|\bout of|\bof)\s*(?:5|five)\b", re.I)
_TOKEN = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|one|two|three|four|five)(?!\w)", re.I)


@dataclass
class Judge:
    """Section `judge`."""

    seed: int
    resamples: int


@dataclass
class Roles:
    """Keys of section `roles`."""

    judge_model: str
    judge_temp: float
    judge_top_p: float
    judge_penalty: float
    judge_tokens: int


@dataclass
class Params:
    """What this stage reads."""

    judge: Judge
    roles: Roles
    llm: Llm


def parse_score(text: str) -> int:
    """The one score from 1 to 5 that an answer names: `4`, `4.`, `Score: 4/5`, `**4**`, `four`.

    Raises:
        ValueError: no score, two different ones (`between 3 and 4`), or one outside 1-5.
    """
    found = {_NUMBERS.get(t.lower(), t) for t in _TOKEN.findall(_OUT_OF.sub(" ", text))}
    values = {float(t) for t in found}
    if len(values) != 1:
        raise ValueError("no score" if not values else "more than one score")
    value = values.pop()
    if value not in (1, 2, 3, 4, 5):
        raise ValueError("not a score from 1 to 5")
    return int(value)


async def score(client: Client, judge: Role, prompt: prompts.Prompt, seed: int, case: Record, turn: int) -> Record:
    """Judgement of one reply (`turn` counts from 0)."""
    said = case["turns"]
    lines = [f"User: {t['user']}\nReply: {t['reply']}" for t in said[:turn]] + [f"User: {said[turn]['user']}"]
    row = {"id": case["id"], "turn": said[turn]["turn"], "profile": case["profile"], "score": None}
    chat = prompt.messages(
        persona=f"{case['profile']} {case['personality']}", conversation="\n".join(lines), reply=said[turn]["reply"]
    )
    try:
        answer = await client.ask(judge, chat, seed_of(seed, case["id"], turn, "judge"), parse_score)
    except SetAside as e:
        return {**row, "raw": e.raw, "reason": e.reason}
    return {**row, "score": answer.value, "raw": answer.text}


async def scores(client: Client, judge: Role, prompt: prompts.Prompt, seed: int, case: Record) -> list[Record]:
    """Judgements of one conversation, turn after turn: each prompt begins with the one before (prefix cache)."""
    asked = [partial(score, client, judge, prompt, seed, case, turn) for turn in range(len(case["turns"]))]
    return await windowed(asked, len(asked) if client.batched(judge) else 1)


def judging(p: Params) -> Role:
    """The role that scores."""
    return role(p.roles, "judge", stop=("\n",), accept=("ok", "truncated"))


async def work(p: Params, a: Any, cases: list[Record]) -> tuple[list[Record], dict[str, Any]]:
    """All judgements with the calls' counts."""
    prompt = prompts.load(a.judge_prompt)
    judge = judging(p)
    if not any(case["turns"] for case in cases):
        raise UserError(f"{a.conversations}: holds no reply to judge")
    async with Client("judge", p.llm, {EMBEDDED: a.base}, p.judge.resamples) as client:
        jobs = [partial(scores, client, judge, prompt, p.judge.seed, case) for case in cases]
        with Progress(f"judge: {a.judgements.stem}", len(jobs), client.rate, numbers=client.numbers) as progress:
            width = len(jobs) if client.batched(judge) else p.llm.conversations_in_flight
            rows = await windowed(jobs, width, progress)
        return [row for case in rows for row in case], client.metrics()


def main() -> None:
    a = parser(__doc__, ["conversations", "base", "judge-prompt"], ["judgements", "metrics"]).parse_args()
    p = params.load("judge", Params)
    rows, calls = asking(work(p, a, read_jsonl(a.conversations)))
    write_jsonl(a.judgements, rows)
    scores = Counter(str(r["score"]) for r in rows if r["score"] is not None)
    write_json(
        a.metrics,
        {"calls": calls, "scores": dict(sorted(scores.items())), "unscored": sum(r["score"] is None for r in rows)},
    )


if __name__ == "__main__":
    run(main)
