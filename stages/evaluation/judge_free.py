"""The parts of the result that need no judge: recognition of the user, recalls, and degeneration of the replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.core.files import Record
from stages.core.statistics import Array
from stages.evaluation import degeneration, metrics
from stages.evaluation.inputs import Conversations
from stages.evaluation.metrics import Inference
from stages.evaluation.recognition import QUERIES, chance, recalls, reciprocal_ranks
from stages.evaluation.scores import BASE, NO_MEMORY
from stages.text.encoder import Encode


@dataclass(frozen=True)
class Replies:
    """What one model's conversations measure, each an array [cases, turns], NaN where a turn is missing."""

    ranks: dict[str, Array]
    """Reciprocal rank of the right persona, by query (recognition.QUERIES)."""
    later: dict[str, Array]
    """From turn 2 on, where there is a past to remember: `reply`, `new` and `recalls`, [cases, turns - 1]."""
    form: dict[str, Array]
    """By degeneration.MEASURES."""
    distinct: dict[str, float]
    """distinct-n over all replies."""


@dataclass(frozen=True)
class JudgeFree:
    """What the conversations of all models measure."""

    models: dict[str, Replies] = field(default_factory=dict)
    personas: int = 0
    """How many the right one is ranked among."""


def measured(conversations: Conversations, ids: Sequence[str], turns: int, encode: Encode) -> JudgeFree:
    """All measures of the cases `ids`, which are the rows of every array."""
    personas = {i: f"{c['profile']} {c['personality']}" for cases in conversations.values() for i, c in cases.items()}
    personas = dict(sorted(personas.items()))

    def replies(cases: Mapping[str, Record]) -> Replies:
        ranks = {query: reciprocal_ranks(cases, personas, ids, turns, query, encode) for query in QUERIES}
        later = {"reply": ranks["reply"], "new": ranks["new"], "recalls": recalls(cases, ids, turns)}
        form = degeneration.by_reply(cases, ids, turns)
        return Replies(ranks, {k: v[:, 1:] for k, v in later.items()}, form, degeneration.distinct_shares(cases))

    return JudgeFree({model: replies(cases) for model, cases in conversations.items()}, len(personas))


def model_result(found: JudgeFree, model: str, infer: Inference) -> dict[str, Any]:
    """`recognition` and `degeneration` of one model; None for one without conversations."""
    if model not in found.models:
        return {"recognition": None, "degeneration": None}
    own, alone = found.models[model], found.models.get(f"{model}{NO_MEMORY}")
    recognition = {
        **ranking(own.ranks["reply"], infer),
        **infer.named("above_message", metrics.difference, own.ranks["reply"], own.ranks["message"]),
        "above_message_p": infer.p_value(own.ranks["reply"] - own.ranks["message"]),
        "so_far": in_short(own.ranks["replies"], infer),
        "new_mrr": infer.estimate(metrics.curve, own.ranks["new"])[0],
        "later": {
            name: dict(zip(("mean", "ci"), infer.estimate(metrics.level, values), strict=True))
            for name, values in own.later.items()
        },
        "over_no_memory": later_gains(own, alone, infer) if alone else None,
    }
    form = {name: infer.estimate(metrics.level, values)[0] for name, values in own.form.items()}
    return {"recognition": recognition, "degeneration": {**form, **own.distinct}}


def gain(found: JudgeFree, model: str, infer: Inference) -> dict[str, Any]:
    """What a model differs in from base, on the turns that both have; empty where one has no conversations."""
    if not {model, BASE} <= set(found.models):
        return {}
    own, base = found.models[model], found.models[BASE]
    return {
        **infer.named("recognition_difference", metrics.difference, own.ranks["reply"], base.ranks["reply"]),
        "recognition_p": infer.p_value(own.ranks["reply"] - base.ranks["reply"]),
        "recognition_later": later_gains(own, base, infer),
        "degeneration_ci": {
            name: infer.estimate(metrics.difference, values, base.form[name])[1] for name, values in own.form.items()
        },
    }


def reference(found: JudgeFree, infer: Inference) -> dict[str, Any]:
    """What recognition is to be read against: chance, the user's message (an echo) and all the user said by then."""
    of = BASE if BASE in found.models else next(iter(found.models))
    ranks = found.models[of].ranks
    return {
        "personas": found.personas,
        "chance_mrr": round(chance(found.personas), 4),
        "chance_top1": round(1 / found.personas, 4),
        "user_of": of,
        "from_user_message": in_short(ranks["message"], infer),
        "from_user_turns": in_short(ranks["messages"], infer),
    }


def ranking(ranks: Array, infer: Inference) -> dict[str, Any]:
    """Of reciprocal ranks [cases, turns]: their mean, and how often the right persona is first, by turn and over turns."""
    found = dict[str, Any]()
    for name, values in (("mrr", ranks), ("top1", np.where(np.isnan(ranks), np.nan, ranks == 1))):
        found |= infer.named(name, metrics.curve, values) | infer.named(f"{name}_mean", metrics.level, values)
    return found


def in_short(ranks: Array, infer: Inference) -> dict[str, Any]:
    """The same without the intervals by turn."""
    return {key: value for key, value in ranking(ranks, infer).items() if key not in ("mrr_ci", "top1_ci")}


def later_gains(own: Replies, other: Replies, infer: Inference) -> dict[str, Any]:
    """Differences of two models from turn 2 on, with interval and p, for each measure."""
    found = {}
    for name, values in own.later.items():
        difference, ci = infer.estimate(metrics.difference, values, other.later[name])
        found[name] = {"difference": difference, "ci": ci, "p": infer.p_value(values - other.later[name])}
    return found
