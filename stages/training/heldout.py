"""How well models fit held-out replies and pairs, from the log-probabilities of the replies' tokens alone.

Everywhere a model is a list of 1-D arrays, one a row: log p of each token of the row's reply (nats, end token included)
given its prompt. Models come in the order in which they were trained from one another (base, sft, dpo); a change is against
the model before. Rows of one conversation are not independent, so intervals come from a bootstrap over conversations; over
a single conversation there is none (None).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from stages.core.cli import UserError
from stages.core.files import Record
from stages.core.statistics import Array, interval, resamples

Model = Sequence[Array]
Pairs = Sequence[Model]  # chosen, rejected
CAP = 40.0  # nats a token; exp() of more says nothing but "diverged", and ends in infinity


def replies(models: Mapping[str, Model], clusters: Sequence[str], n: int, seed: int) -> Record:
    """Loss and perplexity of held-out replies.

    Args:
        clusters: the conversation of each row.
        n: bootstrap resamples, drawn from `seed`.
    Returns:
        loss: by model the mean of -log p over all tokens (a token counts the same in a long reply); perplexity: its exp;
        each {"value", "ci"}, and `change` by model from the second on.
    Raises:
        UserError: a log-probability that is not finite.
    """
    _check_finite(models)
    draws = _draws(clusters, n, seed)
    losses = {name: -_token_mean(rows, draws) for name, rows in models.items()}
    return {
        **_counts(clusters),
        "loss": _with_change(losses, clusters),
        "perplexity": _with_change({name: np.exp(np.minimum(loss, CAP)) for name, loss in losses.items()}, clusters),
    }


def pairs(models: Mapping[str, Pairs], beta: float, clusters: Sequence[str], n: int, seed: int) -> Record:
    """What models make of held-out pairs.

    Args:
        beta: of DPO; the reward of a reply is beta * (log p - log p of the model before).
        clusters, n, seed: see `replies`.
    Returns:
        log_prob: accuracy (share of pairs whose chosen reply is the more probable, ties half) and margin (mean difference,
        nats a reply) of each model, with `change`; reward: the same of the rewards, from the second model on; drift: by
        side, from the second model on, means over all tokens of functions of d = log p - log p of the model before:
        `shift`, of d itself: below 0 on the chosen replies, even what was to be preferred is now less likely (likelihood
        displacement: Razin et al. 2024, arXiv 2410.08847);
        `k3`, of exp(d) - 1 - d: how far the model moved, in whichever direction. It is never negative and 0 only where
        nothing changed, so that moves up and down do not cancel, and about d^2/2 for small d. On tokens drawn from the
        model before it would be the unbiased estimate of KL(before || model) (Schulman 2020, "Approximating KL
        divergence"). Held-out replies are nearest to that (the model before was trained to imitate their like) but not
        drawn from it: hence KL-like, to be compared between runs on the same pairs only.
    Raises:
        UserError: a log-probability that is not finite.
    """
    for i in range(2):
        _check_finite({name: sides[i] for name, sides in models.items()})
    draws = _draws(clusters, n, seed)
    gains = {name: _sums(chosen) - _sums(rejected) for name, (chosen, rejected) in models.items()}
    steps = list(pairwise(models))
    rewards = {after: beta * (gains[after] - gains[before]) for before, after in steps}
    return {
        **_counts(clusters),
        "log_prob": {
            "accuracy": _with_change({name: _mean(_wins(d), draws) for name, d in gains.items()}, clusters),
            "margin": _with_change({name: _mean(d, draws) for name, d in gains.items()}, clusters),
        },
        "reward": {
            "accuracy": {name: _measure(_mean(_wins(d), draws), clusters) for name, d in rewards.items()},
            "margin": {name: _measure(_mean(d, draws), clusters) for name, d in rewards.items()},
        },
        "drift": {
            side: {a: _drift(models[b][i], models[a][i], draws, clusters) for b, a in steps}
            for i, side in enumerate(("chosen", "rejected"))
        },
    }


def _drift(before: Model, after: Model, draws: Array, clusters: Sequence[str]) -> Record:
    moves = [a - b for a, b in zip(after, before, strict=True)]
    k3 = [np.expm1(np.minimum(d, CAP)) - d for d in moves]
    return {"shift": _measure(_token_mean(moves, draws), clusters), "k3": _measure(_token_mean(k3, draws), clusters)}


def _draws(clusters: Sequence[str], n: int, seed: int) -> Array:
    """How often each row counts, [1 + resamples, rows]."""
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    return np.concatenate([np.ones((1, len(clusters))), resamples(len(names), n, seed)[:, member]])


def _mean(values: Array, draws: Array) -> Array:
    return np.asarray(draws @ values / draws.sum(-1))


def _token_mean(rows: Model, draws: Array) -> Array:
    tokens = np.array([row.size for row in rows])
    return np.asarray(draws @ _sums(rows) / (draws @ tokens))


def _sums(rows: Model) -> Array:
    return np.array([row.sum() for row in rows])


def _wins(difference: Array) -> Array:
    return np.asarray((difference > 0) + 0.5 * (difference == 0))


def _measure(statistic: Array, clusters: Sequence[str]) -> Record:
    number = len(set(clusters))  # a single one has no spread
    return {"value": round(float(statistic[0]), 4), "ci": interval(statistic[1:], number) if number > 1 else None}


def _with_change(statistics: dict[str, Array], clusters: Sequence[str]) -> Record:
    """The statistics by model, and the change of each against the model before, on the same resamples."""
    change = {after: _measure(statistics[after] - statistics[before], clusters) for before, after in pairwise(statistics)}
    return {**{name: _measure(s, clusters) for name, s in statistics.items()}, "change": change}


def _counts(clusters: Sequence[str]) -> Record:
    return {"rows": len(clusters), "conversations": len(set(clusters))}


def _check_finite(models: Mapping[str, Model]) -> None:
    for name, rows in models.items():
        for number, row in enumerate(rows, 1):
            if not np.isfinite(row).all():
                raise UserError(
                    f"{name}: the log-probabilities of held-out row {number} are not finite; "
                    "the model has diverged, lower the learning rate"
                )
