"""Judges score a reply 1-5 for how well it fits the whole persona."""

import math
import re
from collections import Counter
from functools import partial
from statistics import fmean, stdev
from typing import Any

from stages.core import prompts
from stages.core.files import Record, seed_of
from stages.judging.settings import Judge
from stages.llm.client import Answer, Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Role, role

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_DIGITS = {str(n): n for n in _NUMBERS.values()}
_OUT_OF = r"(?:\s*\(?\s*(?:/|out\s+of\b|(?:out|of|von|de|sur|из)\b)\s*(?:5|five)?(?![^\W_]))?"  # a token limit may cut it
_NUMBER = rf"(\d+(?:[.,]\d+)?|one|two|three|four|five)(?!(?![分点점])[^\W_]|\s*%){_OUT_OF}"
_LABEL = (
    r"(?:(?:the|my|your|a|overall|final|total)\s+)*(?:score|rating|grade|answer|verdict|mark|result|boxed|"
    r"评分|分数|得分|評価|点数|スコア|note|bewertung|punktzahl|puntuación|calificación|оценка)"
)
_SCORE = re.compile(
    rf"[\W_]*(?:{_LABEL}(?:[\W_]+(?:is|of))?[\W_]*)?(?<![\d.,−-]){_NUMBER}(?:\s*(?:points?|stars?|分|点|점)(?![^\W_]))?"
    rf"(?P<more>(?:[\W_]+{_NUMBER})*)[\W_]*(?:</\w+>[\W_]*)?",
    re.I,
)
ALTERNATIVES = 20  # the most that servers give for a token


def parse_score(text: str) -> int:
    """The score from 1 to 5 that an answer is: `4`, `4.`, `Score: 4/5`, `**4**`, `four`; prose around it makes it none.

    Raises:
        ValueError: no score, two different ones (`3, 4`), or one outside 1-5.
    """
    found = _SCORE.fullmatch(text)
    if not found:
        raise ValueError("no score")
    told = [found[1], *(m[1] for m in re.finditer(_NUMBER, found["more"], re.I))]
    values = {float(_NUMBERS.get(t.lower(), t.replace(",", "."))) for t in told}
    if len(values) > 1:
        raise ValueError("more than one score")
    value = values.pop()
    if value not in _NUMBERS.values():
        raise ValueError("not a score from 1 to 5")
    return int(value)


def score_of(token: str) -> int | None:
    """The score that one token names, whatever marks stand around it."""
    word = token.strip(" \t\n*_#\"'.:").lower()
    return _DIGITS.get(word, _NUMBERS.get(word))


def expected(reply: Record, parsed: int) -> tuple[float, float] | None:
    """(expected score, probability that the scores 1-5 cover) at the token of a reply that names the `parsed` score.

    The probabilities of all tokens for one score add up and are renormalised. None without log-probabilities, or where no
    single token names the score.
    """
    for token, alternatives in reply.get("logprobs", []):
        if score_of(token) == parsed:
            found = [(s, math.exp(p)) for t, p in alternatives if p is not None and (s := score_of(t)) is not None]
            mass = math.fsum(p for _, p in found)
            return (math.fsum(s * p for s, p in found) / mass, min(mass, 1.0)) if mass else None
    return None


async def score(
    client: Client, judge: Role, prompt: prompts.Prompt, seed: int, case: Record, turn: int, samples: int, against: Record
) -> Record:
    """Judgement of one reply (`turn` counts from 0) against the persona of the case `against`."""
    turns = case["turns"]
    lines = [f"User: {t['user']}\nReply: {t['reply']}" for t in turns[:turn]] + [f"User: {turns[turn]['user']}"]
    chat = prompt.messages(
        persona=f"{against['profile']} {against['personality']}",
        conversation="\n".join(lines), reply=turns[turn]["reply"],
    )  # fmt: skip
    row = {"id": case["id"], "turn": turns[turn]["turn"], "profile": case["profile"], "judge": judge.model}
    row |= {"mass": None, "spread": None}

    async def draw(sample: int) -> Answer[int] | CallFailed:
        try:
            drawn = seed_of(seed, case["id"], turn, "judge", *([sample] if sample else []))
            return await client.ask(judge, chat, drawn, parse_score)
        except CallFailed as e:
            return e

    first = await draw(0)
    if isinstance(first, Answer) and (found := expected(first.reply, first.value)):
        value, mass = found
        return {**row, "score": round(value, 4), "mass": round(mass, 4), "raw": first.text, "samples": 1}
    more = [partial(draw, n) for n in range(1, samples)] if judge.temp else []
    drawn = [first, *await client.in_order(judge, more)]
    read = [d for d in drawn if isinstance(d, Answer)]
    if not read:
        assert isinstance(first, CallFailed)
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
    rows = await client.in_order(judge, asked)
    return [{**row, "persona": "wrong" if against else "right"} for row in rows]


def wrong_persona(seed: int, case: Record, cases: list[Record]) -> Record | None:
    """A case with another profile and, where there is one, another personality, drawn by `seed`. None: all are alike."""
    others = [c for c in cases if c["profile"] != case["profile"]]
    strangers = [c for c in others if c["personality"] != case["personality"]]
    return min(strangers or others, key=lambda c: seed_of(seed, case["id"], "wrong", c["id"]), default=None)


def judges(judge: Judge, prompt: prompts.Prompt) -> list[Role]:
    """The roles that score by `prompt`."""
    alternatives = ALTERNATIVES if judge.logprobs else 0
    models = judge.models or [judge.model]
    how = {"stop": prompt.stop("judge"), "accept": ("ok", "truncated"), "logprobs": alternatives}
    return [role(judge, "judge", model=m, **how) for m in models]


def judgings(client: Client, p: Judge, prompt: prompts.Prompt, cases: list[Record]) -> list[partial[Any]]:
    """One job, which gives rows, for every judge, persona to judge by and conversation."""
    pairs: list[tuple[Record, Record | None]] = [(case, None) for case in cases]
    if p.wrong_persona:
        pairs += [(case, w) for case in cases if (w := wrong_persona(p.seed, case, cases))]
    return [
        partial(scores, client, judge, prompt, p.seed, case, p.samples, against)
        for judge in judges(p, prompt)
        for case, against in pairs
    ]


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
