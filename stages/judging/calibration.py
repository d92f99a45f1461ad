"""Calibration of a judge on replies whose order is known: accuracy, length bias, agreement with itself."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import prompts
from stages.core.aio import windowed
from stages.core.cli import UserError
from stages.core.files import Record, read_lines
from stages.core.statistics import interval, krippendorff_alpha, resampled_means
from stages.judging import judge
from stages.judging.settings import Calibrate, Judge
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
    return await windowed(jobs, len(jobs) if client.batched(who) else 1)


def asked(client: Client, p: Judge, prompt: prompts.Prompt, items: list[Record]) -> list[partial[Any]]:
    """One job, which gives rows, for every judge, asking (as it is; examples reversed and another seed) and context."""
    contexts = [list(group) for _, group in groupby(items, key=itemgetter("context"))]
    ways = ((prompt, p.seed), (reversed_examples(prompt), p.seed + 1))
    return [
        partial(scored, client, who, *way, p.samples, context)
        for who in judge.judges(p)
        for way in ways
        for context in contexts
    ]


def comparisons(items: list[Record], scores: list[float | None]) -> dict[str, list[tuple[str, float]]]:
    """By context: (kind, 1 where the tailored reply is scored above that kind's, 0 below, 0.5 the same).

    A pair with an unscored reply is left out.
    """
    given = {(i["context"], i["kind"]): s for i, s in zip(items, scores, strict=True) if s is not None}
    found: dict[str, list[tuple[str, float]]] = {}
    for (context, kind), score in given.items():
        if kind != BEST and (best := given.get((context, BEST))) is not None:
            found.setdefault(context, []).append((kind, 1.0 if best > score else 0.5 if best == score else 0.0))
    return found


def accuracy(found: dict[str, list[tuple[str, float]]], p: Calibrate) -> Record:
    """Share of comparisons won, by kind too, with its 95 % interval by bootstrap over contexts."""
    if not found:
        return {"accuracy": None, "accuracy_ci": None, "accuracy_by_kind": {}, "comparisons": 0}
    won = np.array([sum(value for _, value in pairs) for pairs in found.values()])
    counts = np.array([float(len(pairs)) for pairs in found.values()])
    by_kind = {k: [value for pairs in found.values() for kind, value in pairs if kind == k] for k in KINDS[1:]}
    return {
        "accuracy": round(float(won.sum() / counts.sum()), 4),
        "accuracy_ci": interval(resampled_means(won, counts, p.resamples, p.seed), len(found)),
        "accuracy_by_kind": {k: round(float(np.mean(v)), 4) for k, v in by_kind.items() if v},
        "comparisons": int(counts.sum()),
    }


def length_bias(items: list[Record], scores: list[float | None]) -> Record:
    """Rank correlation of score and words within kinds, and mean score of the longer half minus that of the shorter half.

    None where no kind has two different scores (a judge that says the same to all has no bias either).
    """
    from scipy.stats import rankdata

    by_score, by_words, gaps = [np.zeros(0)], [np.zeros(0)], []
    for kind in KINDS:
        of_kind = [(s, i) for i, s in zip(items, scores, strict=True) if i["kind"] == kind and s is not None]
        score = np.array([s for s, _ in of_kind])
        words = np.array([len(i["reply"].split()) for _, i in of_kind])
        by_score.append(rankdata(score) - (len(score) + 1) / 2)
        by_words.append(rankdata(words) - (len(words) + 1) / 2)
        long = words > np.median(words) if of_kind else np.zeros(0, dtype=bool)
        if long.any() and not long.all():
            gaps.append(score[long].mean() - score[~long].mean())
    a, b = np.concatenate(by_score), np.concatenate(by_words)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return {
        "length_bias": round(float(a @ b) / spread, 4) if spread else None,
        "long_minus_short": round(float(np.mean(gaps)), 4) if gaps else None,
    }


def self_agreement(first: list[float | None], second: list[float | None]) -> float | None:
    """Krippendorff's alpha of two askings: 1 the same, 0 as by chance; None: all scores are the same."""
    alpha = krippendorff_alpha(np.array([first, second], dtype=float).T)
    return None if alpha is None else round(alpha, 4)


def failures(found: Record, p: Calibrate) -> list[str]:
    """Why a judge does not pass."""
    share, right, bias = found["n"] / (found["n"] + found["unscored"]), found["accuracy"], found["length_bias"] or 0.0
    tests = (
        (share >= p.min_scored, f"scored {share:.2f} of the replies, below {p.min_scored}"),
        (right is not None and right >= p.min_accuracy, f"accuracy {right}, below {p.min_accuracy}"),
        (abs(bias) <= p.max_length_bias, f"length bias {bias}, beyond {p.max_length_bias}"),
    )
    return [text for holds, text in tests if not holds]


def assessment(items: list[Record], first: list[Record], second: list[Record], p: Calibrate) -> Record:
    """All measures of one judge, from its two judgements of each item, and whether it passed."""
    scores = [r["score"] for r in first]
    masses = [r["mass"] for r in first if r["mass"] is not None]
    by_kind = {k: [s for i, s in zip(items, scores, strict=True) if i["kind"] == k and s is not None] for k in KINDS}
    found = {
        **accuracy(comparisons(items, scores), p),
        **length_bias(items, scores),
        "n": sum(s is not None for s in scores),
        "unscored": sum(s is None for s in scores),
        "from_logprobs": len(masses),
        "least_mass": min(masses, default=None),
        "means": {k: round(sum(v) / len(v), 4) if v else None for k, v in by_kind.items()},
        "self_agreement": self_agreement(scores, [r["score"] for r in second]),
    }
    failed = failures(found, p)
    return {**found, "passed": not failed, "failed": failed}
