"""Judge: score each reply of the conversations 1-5 for how well it fits the whole persona, given the history.

Where the server tells log-probabilities, the score is the expected one over the tokens 1-5; else the mean of sampled ones.
The same replies are also judged against the persona of another case (`persona` is `wrong`): what a reply scores there is
style, not fit. An answer that cannot be read is `unscored`, with its reason and raw text; it is never given a score.

Run: python -m stages.judge (the arguments are in dvc.yaml)
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

from stages.common import params, prompts
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Answer, Client, Llm, Role, asking, role, windowed
from stages.common.progress import Progress
from stages.common.records import Record, read_jsonl, seed_of, write_json, write_jsonl

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_DIGITS = {str(n): n for n in _NUMBERS.values()}
_OUT_OF = re.compile(r"(?:/|\bout of|\bof)\s*(?:5|five)\b", re.I)
_TOKEN = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|one|two|three|four|five)(?!\w)", re.I)
ALTERNATIVES = 20  # the most that servers tell with a token


@dataclass
class Judge:
    """Section `judge`. `models`: judges side by side, empty for the judge role's one; all share that role's settings.

    `samples` are drawn of a score where there are no log-probabilities (one from a greedy judge: it says the same again).
    """

    seed: int
    resamples: int
    models: list[str]
    samples: int
    logprobs: bool
    wrong_persona: bool

    def __post_init__(self) -> None:
        params.require(
            (self.samples >= 1, f"samples: {self.samples} is not at least 1"),
            (len(set(self.models)) == len(self.models), f"models: {', '.join(self.models)} names one twice"),
        )


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


def score_of(token: str) -> int | None:
    """The score that one token says, whatever marks stand around it."""
    word = token.strip(" \t\n*_#\"'.:").lower()
    return _DIGITS.get(word, _NUMBERS.get(word))


def expected(reply: Record, said: int) -> tuple[float, float] | None:
    """(expected score, probability that the scores 1-5 cover) at the token of a reply that says the score `said`.

    The probabilities of all tokens for one score add up and are renormalised. None where the server told none, or no single
    token says the score.
    """
    for token, alternatives in reply.get("logprobs", []):
        if score_of(token) == said:
            found = [(s, math.exp(p)) for t, p in alternatives if p is not None and (s := score_of(t)) is not None]
            mass = math.fsum(p for _, p in found)
            return (math.fsum(s * p for s, p in found) / mass, min(mass, 1.0)) if mass else None
    return None


async def score(
    client: Client, judge: Role, prompt: prompts.Prompt, seed: int, case: Record, turn: int, samples: int, against: Record
) -> Record:
    """Judgement of one reply (`turn` counts from 0) against the persona of the case `against`."""
    said = case["turns"]
    lines = [f"User: {t['user']}\nReply: {t['reply']}" for t in said[:turn]] + [f"User: {said[turn]['user']}"]
    chat = prompt.messages(
        persona=f"{against['profile']} {against['personality']}",
        conversation="\n".join(lines), reply=said[turn]["reply"],
    )  # fmt: skip
    row = {"id": case["id"], "turn": said[turn]["turn"], "profile": case["profile"], "judge": judge.model}
    row |= {"mass": None, "spread": None}

    async def draw(sample: int) -> Answer[int] | SetAside:
        try:
            drawn = seed_of(seed, case["id"], turn, "judge", *([sample] if sample else []))
            return await client.ask(judge, chat, drawn, parse_score)
        except SetAside as e:
            return e

    first = await draw(0)
    if isinstance(first, Answer) and (found := expected(first.reply, first.value)):
        value, mass = found
        return {**row, "score": round(value, 4), "mass": round(mass, 4), "raw": first.text, "samples": 1}
    more = [partial(draw, n) for n in range(1, samples)] if judge.temp else []
    drawn = [first, *await windowed(more, len(more) if client.batched(judge) else 1)]
    read = [d for d in drawn if isinstance(d, Answer)]
    if not read:
        assert isinstance(first, SetAside)
        return {**row, "score": None, "raw": first.raw, "reason": first.reason, "samples": len(drawn)}
    values = [d.value for d in read]
    spread = round(stdev(values), 4) if len(values) > 1 else None
    return {**row, "score": round(fmean(values), 4), "raw": read[0].text, "samples": len(read), "spread": spread}


async def scores(
    client: Client,
    judge: Role,
    prompt: prompts.Prompt,
    seed: int,
    case: Record,
    samples: int = 1,
    against: Record | None = None,
) -> list[Record]:
    """Judgements of one conversation, turn after turn: each prompt begins with the one before (prefix cache).

    `against`: the case whose persona is the wrong one to judge by; the own one where None.
    """
    turns = range(len(case["turns"]))
    asked = [partial(score, client, judge, prompt, seed, case, turn, samples, against or case) for turn in turns]
    rows = await windowed(asked, len(asked) if client.batched(judge) else 1)
    return [{**row, "persona": "wrong" if against else "right"} for row in rows]


def wrong_persona(seed: int, case: Record, cases: list[Record]) -> Record | None:
    """A case with another profile and, where there is one, another personality, drawn by `seed`. None: all are alike."""
    others = [c for c in cases if c["profile"] != case["profile"]]
    strangers = [c for c in others if c["personality"] != case["personality"]]
    return min(strangers or others, key=lambda c: seed_of(seed, case["id"], "wrong", c["id"]), default=None)


def judges(judge: Judge, roles: Any) -> list[Role]:
    """The roles that score."""
    told = ALTERNATIVES if judge.logprobs else 0
    models = judge.models or [roles.judge_model]
    return [role(roles, "judge", model=m, stop=("\n",), accept=("ok", "truncated"), logprobs=told) for m in models]


def judgings(client: Client, p: Params, prompt: prompts.Prompt, cases: list[Record]) -> list[partial[Any]]:
    """One job, which gives rows, for every judge, persona to judge by and conversation."""
    pairs: list[tuple[Record, Record | None]] = [(case, None) for case in cases]
    if p.judge.wrong_persona:
        pairs += [(case, w) for case in cases if (w := wrong_persona(p.judge.seed, case, cases))]
    return [
        partial(scores, client, judge, prompt, p.judge.seed, case, p.judge.samples, against)
        for judge in judges(p.judge, p.roles)
        for case, against in pairs
    ]


async def work(p: Params, a: Any, cases: list[Record]) -> tuple[list[Record], dict[str, Any]]:
    """All judgements with the calls' counts."""
    prompt = prompts.load(a.judge_prompt)
    if not any(case["turns"] for case in cases):
        raise UserError(f"{a.conversations}: holds no reply to judge")
    async with Client("judge", p.llm, {EMBEDDED: a.base}, p.judge.resamples) as client:
        jobs = judgings(client, p, prompt, cases)
        batched = any(client.batched(judge) for judge in judges(p.judge, p.roles))
        with Progress(f"judge: {a.judgements.stem}", len(jobs), client.rate, numbers=client.numbers) as progress:
            rows = await windowed(jobs, len(jobs) if batched else p.llm.conversations_in_flight, progress)
        identities = {judge.model: client.model_identity(judge.model) for judge in judges(p.judge, p.roles)}
        return [row for case in rows for row in case], {"calls": client.metrics(), "identities": identities}


def summary(rows: list[Record]) -> dict[str, Any]:
    """How often each score (rounded to a whole one), each reason for none, and the least probability the scores covered."""
    given = Counter(str(round(r["score"])) for r in rows if r["score"] is not None)
    lacking = Counter(r["reason"] for r in rows if r["score"] is None)
    masses = [r["mass"] for r in rows if r["mass"] is not None]
    return {
        "scores": dict(sorted(given.items())),
        "unscored": dict(sorted(lacking.items())),
        "from_logprobs": len(masses),
        "least_mass": min(masses, default=None),
    }


def main() -> None:
    a = parser(__doc__, ["conversations", "base", "judge-prompt"], ["judgements", "metrics"]).parse_args()
    p = params.load("judge", Params)
    cases = read_jsonl(a.conversations)
    rows, counted = asking(work(p, a, cases))
    write_jsonl(a.judgements, rows)
    found: dict[str, Any] = {}
    for judge in dict.fromkeys(r["judge"] for r in rows):
        for persona in ("right", "wrong"):
            of = [r for r in rows if (r["judge"], r["persona"]) == (judge, persona)]
            found.setdefault(judge, {})[persona] = summary(of) if of else None
    if p.judge.wrong_persona and not any(r["persona"] == "wrong" for r in rows):
        print(f"judge: {a.conversations}: all cases have one profile, so there is no wrong persona to judge by")
    write_json(a.metrics, {**counted, "judges": found})


if __name__ == "__main__":
    run(main)
