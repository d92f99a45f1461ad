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
UNINFORMED = "uninformed"
CAP = 40.0  # nats a token; exp() of more says nothing but "diverged", and ends in infinity


class Bootstrap:
    """Means over held-out rows and over `n` resamples of their conversations, drawn from `seed`; all are on the same draws.

    Args:
        clusters: the conversation of each row.
    """

    def __init__(self, clusters: Sequence[str], n: int, seed: int):
        names, member = np.unique(np.asarray(clusters), return_inverse=True)
        self.counts = {"rows": len(clusters), "conversations": len(names)}
        self.draws = np.concatenate([np.ones((1, len(clusters))), resamples(len(names), n, seed)[:, member]])

    def mean(self, sums: Array, counts: Array | float = 1.0) -> Array:
        """Mean of what has `sums` and `counts` by row, [1 + n]: of all rows, then of each resample."""
        return np.asarray(self.draws @ sums / (self.draws @ np.broadcast_to(counts, sums.shape)))

    def token_mean(self, rows: Model) -> Array:
        """Mean over tokens, as `mean`."""
        return self.mean(sums(rows), np.array([row.size for row in rows]))

    def measure(self, mean: Array) -> Record:
        """A mean with its interval."""
        number = self.counts["conversations"]  # a single one has no spread
        return {"value": round(float(mean[0]), 4), "ci": interval(mean[1:], number) if number > 1 else None}

    def with_change(self, means: dict[str, Array]) -> Record:
        """The means by model, and the change of each against the model before, on the same resamples."""
        change = {after: self.measure(means[after] - means[before]) for before, after in pairwise(means)}
        return {**{name: self.measure(mean) for name, mean in means.items()}, "change": change}


def sums(rows: Model) -> Array:
    """Sum of each row."""
    return np.array([row.sum() for row in rows])


def wins(differences: Array) -> Array:
    """1 where a difference is above 0, half where it is 0."""
    return np.asarray((differences > 0) + 0.5 * (differences == 0))


def check_finite(models: Mapping[str, Model]) -> None:
    """Raise UserError, naming the model and the row, for a log-probability that is not finite."""
    for name, rows in models.items():
        for number, row in enumerate(rows, 1):
            if not np.isfinite(row).all():
                raise UserError(
                    f"{name}: the log-probabilities of held-out row {number} are not finite; "
                    "the model has diverged, lower the learning rate"
                )


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
    check_finite(models)
    rows = Bootstrap(clusters, n, seed)
    losses = {name: -rows.token_mean(model) for name, model in models.items()}
    return {
        **rows.counts,
        "loss": rows.with_change(losses),
        "perplexity": rows.with_change({name: np.exp(np.minimum(loss, CAP)) for name, loss in losses.items()}),
    }


def preferences(models: Mapping[str, Pairs], beta: float, rows: Bootstrap) -> Record:
    """`log_prob` and `reward` of `pairs`."""
    gains = {name: sums(chosen) - sums(rejected) for name, (chosen, rejected) in models.items()}
    rewards = {after: beta * (gains[after] - gains[before]) for before, after in pairwise(models)}
    return {
        "log_prob": {
            "accuracy": rows.with_change({name: rows.mean(wins(d)) for name, d in gains.items()}),
            "margin": rows.with_change({name: rows.mean(d) for name, d in gains.items()}),
        },
        "reward": {
            "accuracy": {name: rows.measure(rows.mean(wins(d))) for name, d in rewards.items()},
            "margin": {name: rows.measure(rows.mean(d)) for name, d in rewards.items()},
        },
    }


def pairs(models: Mapping[str, Pairs], beta: float, clusters: Sequence[str], n: int, seed: int) -> Record:
    """What models make of held-out pairs.

    Args:
        beta: of DPO; the reward of a reply is beta * (log p - log p of the model before).
        clusters, n, seed: see `replies`.
    Returns:
        what `replies` says of the chosen ones; log_prob: accuracy (share of pairs whose chosen reply is the more probable,
        ties half) and margin (mean difference, nats a reply) of each model, with `change`; reward: the same of the rewards,
        from the second model on; drift: by side, from the second model on, means over all tokens of functions of
        d = log p - log p of the model before:
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
    chosen, rejected = ({name: sides[i] for name, sides in models.items()} for i in range(2))
    check_finite(rejected)
    of_chosen = replies(chosen, clusters, n, seed)
    rows, steps = Bootstrap(clusters, n, seed), list(pairwise(models))

    def drift(before: Model, after: Model) -> Record:
        moves = [a - b for a, b in zip(after, before, strict=True)]
        k3 = [np.expm1(np.minimum(d, CAP)) - d for d in moves]
        return {"shift": rows.measure(rows.token_mean(moves)), "k3": rows.measure(rows.token_mean(k3))}

    return {
        **preferences(models, beta, rows),
        "drift": {
            name: {after: drift(side[before], side[after]) for before, after in steps}
            for name, side in (("chosen", chosen), ("rejected", rejected))
        },
        **of_chosen,
    }


def by_kind(
    models: Mapping[str, Pairs], kinds: Sequence[str | None], beta: float, clusters: Sequence[str], n: int, seed: int
) -> Record:
    """`kinds`: what `pairs` says of log_prob and reward, for each kind of pairs; nothing where no pair says its kind.

    Args:
        kinds: of each pair; None beside others: uninformed, as extract_pairs leaves it out.
        beta, clusters, n, seed: see `pairs`.
    """
    found = {}
    for kind in sorted({k or UNINFORMED for k in kinds}) if any(kinds) else ():
        places = [i for i, k in enumerate(kinds) if (k or UNINFORMED) == kind]
        part = {name: [[side[i] for i in places] for side in sides] for name, sides in models.items()}
        rows = Bootstrap([clusters[i] for i in places], n, seed)
        found[kind] = {**rows.counts, **preferences(part, beta, rows)}
    return {"kinds": found} if found else {}
