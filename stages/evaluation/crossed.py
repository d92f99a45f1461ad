"""Crossed choice: can a model tell whose reply is whose, from what it has seen of each user? Chance is exact.

A group is N users with different histories, one last message, and a reply tailored to each user. `L[i, j]` says how well
reply j fits after the history of user i, as log p(reply j | history i, message). Whatever a reply, a message or a length is
worth in itself is in a whole column of L and cancels, so a model that ignores the history is at exactly 0.5 and 1/N.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.cli import UserError
from stages.core.files import Record, read_objects
from stages.core.prompts import Message
from stages.core.statistics import Array, holm, interval, resampled_means, rounded, sign_flip
from stages.text.ngrams import content

MEASURES = ("pair_accuracy", "top1")
TIE = 1e-9  # part of the greatest |L| below which two sums are equal: what is left is the noise of floating point


def most(groups: list[Record], number: int) -> list[Record]:
    """The first of each kind in turn, at most `number`, in the order of the file."""
    place: Counter[str] = Counter()
    keys = []
    for n, group in enumerate(groups):
        keys.append((place[group["kind"]], n))
        place[group["kind"]] += 1
    return [groups[n] for _, n in sorted(sorted(keys)[:number], key=lambda key: key[1])]


def pair_accuracy(scores: Array) -> float:
    """Share of the pairs of users i, k with L[i, i] + L[k, k] > L[i, k] + L[k, i], a tie being half right."""
    own, crossed = np.diag(scores)[:, None] + np.diag(scores), scores + scores.T
    margin = (own - crossed)[np.triu_indices(len(scores), 1)]
    noise = TIE * np.abs(scores).max()
    return float(((margin > noise) + 0.5 * (np.abs(margin) <= noise)).mean())


def best(scores: Array) -> NDArray[np.bool_]:
    """Whether reply j has the greatest L[i, j] less the mean of column j, for each user i: [N, N]; several, where equal."""
    centred = scores - scores.mean(0)
    return np.asarray(centred >= centred.max(1, keepdims=True) - TIE * np.abs(scores).max())


def top1(scores: Array) -> float:
    """Share of the users whose own reply is the best one (`best`); equals share."""
    found = best(scores)
    return float((np.diag(found) / found.sum(1)).mean())


def overlap(group: Record) -> Array:
    """Content words that each history shares with each reply, [N, N]: what can be told without a model."""
    told = [content(" ".join(m["content"] for m in user["history"])) for user in group["users"]]
    return np.array([[float(len(words & content(user["reply"]))) for user in group["users"]] for words in told])


def by_group(matrices: Sequence[Array]) -> Array:
    """Pair accuracy and top-1 of each group, [groups, 2]."""
    return np.array([[pair_accuracy(m), top1(m)] for m in matrices])


def mean(values: Array, resamples: int, seed: int) -> Record:
    """Mean over groups, [groups], and its interval by a bootstrap over groups; a single group has none."""
    drawn = resampled_means(values, np.ones_like(values), resamples, seed)
    return {"value": rounded(values.mean()), "ci": interval(drawn, len(values))}


def measured(values: Array, resamples: int, seed: int) -> Record:
    """`mean` of each of MEASURES, from [groups, 2]."""
    return {name: mean(values[:, n], resamples, seed) for n, name in enumerate(MEASURES)}


def gain(first: Mapping[str, float], second: Mapping[str, float], resamples: int, seed: int) -> Record:
    """What the values by group of `first` have over those of `second`, on the groups that both have.

    Returns:
        `difference` and `ci` (see `mean`), and `p` by sign flips of groups, which are drawn where they cannot all be tried.
    """
    both = [group for group in first if group in second]
    differences = np.array([first[group] - second[group] for group in both])
    found = mean(differences, resamples, seed)
    p = rounded(sign_flip(differences[:, None], both, resamples, seed), 6)
    return {"difference": found["value"], "ci": found["ci"], "p": p}


def summary(groups: Sequence[Record], scores: Mapping[str, Sequence[Array]], resamples: int, seed: int) -> dict[str, Any]:
    """Pair accuracy and top-1 of a model: over all groups, by kind, and of every other reading.

    Args:
        scores: by reading, L of each group; `history` is the measure itself, the others are its twins.
        resamples: of the bootstrap over groups, drawn from `seed`.
    Returns:
        `pair_accuracy` and `top1`, each {"value", "ci"}; `by_kind`, `overlap` and `twins` hold the same again.
    """
    values = by_group(scores["history"])
    kinds = np.array([group["kind"] for group in groups])
    sizes = [len(group["users"]) for group in groups]
    return {
        "groups": len(groups),
        "pairs": sum(n * (n - 1) // 2 for n in sizes),
        "chance": {"pair_accuracy": 0.5, "top1": round(sum(1 / n for n in sizes) / len(sizes), 4)},
        **measured(values, resamples, seed),
        "by_kind": {
            str(kind): {"groups": int((kinds == kind).sum()), **measured(values[kinds == kind], resamples, seed)}
            for kind in np.unique(kinds)
        },
        "overlap": measured(by_group([overlap(group) for group in groups]), resamples, seed),
        "twins": {name: measured(by_group(of), resamples, seed) for name, of in scores.items() if name != "history"},
    }


def exchanges(history: Sequence[Message]) -> list[list[Message]]:
    """A history cut before each message of the user."""
    starts = [n for n, m in enumerate(history) if m["role"] == "user" or not n]
    return [list(history[a:b]) for a, b in pairwise([*starts, len(history)])]


def seen(history: Sequence[Message], reading: str) -> list[Message]:
    """What a reading shows of a history: `history` all of it, `none` nothing, `first_K` or `last_K` so many exchanges."""
    which, _, k = reading.partition("_")
    if which == "none":
        return []
    cut = exchanges(history)
    kept = {"history": cut, "first": cut[: int(k or 0)], "last": cut[len(cut) - min(int(k or 0), len(cut)) :]}[which]
    return [m for exchange in kept for m in exchange]


def curve(groups: Sequence[Record]) -> list[str]:
    """Readings that cut the histories, from the back (`first_K`) and from the front (`last_K`), for 0 < K < the most."""
    most = max(len(exchanges(user["history"])) for group in groups for user in group["users"])
    return [f"{side}_{k}" for side in ("first", "last") for k in range(1, most)]


def rows(groups: Sequence[Record], scores: Mapping[str, Sequence[Array]]) -> list[Record]:
    """A row a group: the users' ids, L by reading, pair accuracy and top-1 of the reading `history` and of word overlap."""
    values = by_group(scores["history"])
    return [
        {
            "group": group["group"],
            "kind": group["kind"],
            "users": [user["id"] for user in group["users"]],
            "log_probs": {name: rounded(of[n], 6) for name, of in scores.items()},
            **dict(zip(MEASURES, rounded(values[n], 6), strict=True)),
            "overlap": dict(zip(MEASURES, rounded(by_group([overlap(group)])[0], 6), strict=True)),
        }
        for n, group in enumerate(groups)
    ]


def read_rows(path: Path) -> list[Record]:
    """The rows that stage choose wrote for an arm, none for one it skips. Raises UserError with file:line for another."""
    found = []
    for number, row in read_objects(path):
        matrices = row.get("log_probs", {})
        if "group" not in row or not {"history", "no_history"} <= set(matrices) or not set(MEASURES) <= set(row):
            raise UserError(f"{path}:{number}: is no row of stages.choose; run the stage again")
        found.append({**row, "log_probs": {name: np.array(m) for name, m in matrices.items()}})
    return found


def compared(arms: Mapping[str, Sequence[Record]], base: str, resamples: int, seed: int) -> dict[str, Any]:
    """Crossed choice of every arm, and what each has over `base` on the groups that both have.

    Args:
        arms: rows of `read_rows` by arm.
        resamples, seed: see `gain`.
    Returns:
        models: by arm with rows `pair_accuracy`, `top1`, and those of the twin `no_history`; vs_base: by arm the difference
        of pair accuracies (`gain`), with `p_holm` over the arms; about: groups, chance, `overlap`.
    """
    values = {arm: np.array([[row[name] for name in MEASURES] for row in rows]) for arm, rows in arms.items() if rows}
    models = {
        arm: {
            **measured(values[arm], resamples, seed),
            "no_history": measured(by_group([row["log_probs"]["no_history"] for row in arms[arm]]), resamples, seed),
        }
        for arm in values
    }
    of = {arm: {row["group"]: row["pair_accuracy"] for row in arms[arm]} for arm in values}
    vs_base = {arm: gain(of[arm], of[base], resamples, seed) for arm in values if arm != base and base in values}
    for entry, corrected in zip(vs_base.values(), holm([entry["p"] for entry in vs_base.values()]), strict=True):
        entry["p_holm"] = corrected
    rows = next((rows for rows in arms.values() if rows), [])
    words = np.array([[row["overlap"][name] for name in MEASURES] for row in rows])
    about = (
        {"groups": len(rows), "top1_chance": rounded(float(np.mean([1 / len(row["users"]) for row in rows])))}
        if rows
        else None
    )
    overlapping = {"overlap": measured(words, resamples, seed)} if rows else {}
    return {"models": models, "vs_base": vs_base, "about": about and {**about, **overlapping}}
