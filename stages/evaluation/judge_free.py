"""The parts of the result that need no judge and come from the conversations: degeneration of the replies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.core.statistics import Array
from stages.evaluation import degeneration, metrics
from stages.evaluation.inputs import Conversations
from stages.evaluation.metrics import Inference
from stages.evaluation.scores import BASE


@dataclass(frozen=True)
class Replies:
    """What one model's conversations measure, each an array [cases, turns], NaN where a turn is missing."""

    form: dict[str, Array]
    """By degeneration.MEASURES."""
    distinct: dict[str, float]
    """distinct-n over all replies."""


@dataclass(frozen=True)
class JudgeFree:
    """What the conversations of all models measure."""

    models: dict[str, Replies] = field(default_factory=dict)


def measured(conversations: Conversations, ids: Sequence[str], turns: int) -> JudgeFree:
    """All measures of the cases `ids`, which are the rows of every array."""
    return JudgeFree({
        model: Replies(degeneration.by_reply(cases, ids, turns), degeneration.distinct_shares(cases))
        for model, cases in conversations.items()
    })  # fmt: skip


def model_result(found: JudgeFree, model: str, infer: Inference) -> dict[str, Any]:
    """`degeneration` of one model; None for one without conversations."""
    if model not in found.models:
        return {"degeneration": None}
    own = found.models[model]
    form = {name: infer.estimate(metrics.level, values)[0] for name, values in own.form.items()}
    return {"degeneration": {**form, **own.distinct}}


def gain(found: JudgeFree, model: str, infer: Inference) -> dict[str, Any]:
    """What a model differs in from base, on the turns that both have; empty where one has no conversations."""
    if not {model, BASE} <= set(found.models):
        return {}
    own, base = found.models[model].form, found.models[BASE].form
    return {
        "degeneration_ci": {name: infer.estimate(metrics.difference, values, base[name])[1] for name, values in own.items()}
    }
