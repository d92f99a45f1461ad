"""Benchmarks of others: items with options of which the first is right, and what an accuracy is to be read beside.

An accuracy means little alone: options can be guessed from their length, and a question from the general taste. So it stands
beside chance, the longest option, the same items without their conversation, and with the conversation of another item.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from string import ascii_uppercase
from typing import Any

import numpy as np

from stages.core.cli import UserError
from stages.core.files import Record, seed_of
from stages.core.prompts import Message
from stages.core.statistics import interval, resampled_means, rounded, sign_flip
from stages.core.tables import Column, number, text
from stages.core.tables import interval as ci
from stages.core.tables import rows as rows_of
from stages.evaluation.items import CONTEXTS, SYSTEM, Item

TWINS = ("none", "other", "longest")  # without the conversation, with another item's, the longest option
TIE = 1e-9  # part of the greatest score below which two are equal


def clusters(items: Sequence[Item]) -> list[int]:
    """The cluster of each item: items that share a key, directly or by others, are in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = {key: len(items) + n for n, key in enumerate(dict.fromkeys(k for item in items for k in sorted(item.keys)))}
    ends = np.array([(n, place[key]) for n, item in enumerate(items) for key in item.keys]).T
    size = len(items) + len(place)
    found = connected_components(coo_array((np.ones(ends.shape[1]), ends), (size, size)), directed=False)[1]
    return [int(label) for label in found[: len(items)]]


def drawn(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """`limit` items in all their forms, drawn by `seed`, in their order; None: all."""
    names = sorted({item.id for item in items}, key=lambda name: seed_of(seed, name))[:limit]
    return [item for item in items if item.id in set(names)]


def others(items: Sequence[Item]) -> list[Item]:
    """To each item one of its form and of another cluster, about half of all further. Raises UserError for one cluster."""
    of = clusters(items)
    found: dict[int, Item] = {}
    order = sorted(range(len(items)), key=lambda n: (items[n].form, items[n].fillers))
    for _, group in groupby(order, key=lambda n: (items[n].form, items[n].fillers)):
        alike = list(group)
        for n, at in enumerate(alike):
            turned = (alike[(n + len(alike) // 2 + k) % len(alike)] for k in range(len(alike)))
            partner = next((m for m in turned if of[m] != of[at]), None)
            if partner is None:
                raise UserError(
                    f"all items of the form {items[at].form} share a preference, question or persona; bring more"
                )
            found[at] = items[partner]
    return [found[n] for n in range(len(items))]


def contexts(items: Sequence[Item]) -> list[dict[str, list[Message]]]:
    """Of each item the messages before its question, by CONTEXTS."""
    pairs = zip(items, others(items), strict=True)
    histories = ((item.history, list[Message](), other.history) for item, other in pairs)
    return [{name: [*SYSTEM, *history] for name, history in zip(CONTEXTS, of, strict=True)} for of in histories]


def seeds(item: Item, context: str) -> tuple[str, ...]:
    """What seeds the draws for an item: without its conversation it is the same in all forms."""
    return (item.id, context) if context == "none" else (item.id, context, item.form, str(item.fillers))


def right(scores: Sequence[float]) -> float:
    """1 where the first score is the greatest, 0 where it is not; equals share."""
    values = np.asarray(scores)
    best = values >= values.max() - TIE * np.abs(values).max()
    return float(best[0] / best.sum())


def likelihood(sums: Mapping[str, Sequence[float]], tokens: Sequence[int]) -> dict[str, list[float]]:
    """Score of each option as the reply, in nats a token: its log p less that without a conversation; for `none` itself.

    Args:
        sums: log p of each option in nats, by what it is read after: conversation, none, other.
        tokens: of each option.
    """
    per = {name: np.asarray(values) / np.asarray(tokens) for name, values in sums.items()}
    return {name: [float(v) for v in (per[name] - per["none"] if name != "none" else per[name])] for name in per}


def row(arm: str, item: Item, cluster: int, reading: str, scores: Mapping[str, Sequence[float]]) -> Record:
    """The row of an item: the option that has the best score, by its letter in the file (A is right), and its twins."""
    lengths = [len(option) for option in item.options]
    return {
        "arm": arm,
        "item": item.id,
        "form": item.form,
        "fillers": item.fillers,
        "cluster": cluster,
        "reading": reading,
        "letter": ascii_uppercase[int(np.argmax(scores["conversation"]))],
        "right": rounded(right(scores["conversation"]), 6),
        "chance": rounded(1 / len(item.options), 6),
        "none": rounded(right(scores["none"]), 6),
        "other": rounded(right(scores["other"]), 6),
        "longest": rounded(right([float(n) for n in lengths]), 6),
        "longer": sum(n > lengths[0] for n in lengths),
        "log_probs": {name: rounded(np.asarray(values), 6) for name, values in scores.items()},
    }


def length_matched(rows: Sequence[Record], seed: int) -> list[Record]:
    """Rows in which the right option is as often the longest, the second longest ... the shortest, drawn by `seed`."""
    ranks = round(1 / min((r["chance"] for r in rows), default=1.0))
    order = sorted(rows, key=lambda r: seed_of(seed, r["item"]))
    by_rank = [[r for r in order if r["longer"] == rank] for rank in range(ranks)]
    return [r for of in by_rank for r in of[: min(map(len, by_rank))]]


def mean(rows: Sequence[Record], values: Sequence[float], resamples: int, seed: int) -> Record:
    """Mean of the rows' values, with an interval by a bootstrap over clusters; None without rows."""
    if not rows:
        return {"value": None, "ci": [None, None]}
    _, member = np.unique([r["cluster"] for r in rows], return_inverse=True)
    sums, counts = (np.bincount(member, x).astype(float) for x in (values, None))
    return {
        "value": rounded(float(np.mean(values))),
        "ci": interval(resampled_means(sums, counts, resamples, seed), len(sums)),
    }


def measured(rows: Sequence[Record], base: Mapping[tuple[Any, ...], float], resamples: int, seed: int) -> Record:
    """Accuracy over `rows` with its twins, and what it has over base on the items that both have.

    Args:
        base: `right` of base by `place`; empty for base itself.
    """
    matched = length_matched(rows, seed)
    found: Record = {"items": len({r["item"] for r in rows}), "clusters": len({r["cluster"] for r in rows})}
    found["accuracy"] = mean(rows, [r["right"] for r in rows], resamples, seed)
    found |= {name: rounded(np.mean([r[name] for r in rows])) if rows else None for name in ("chance", *TWINS)}
    found["length_matched"] = {"rows": len(matched), **mean(matched, [r["right"] for r in matched], resamples, seed)}
    if both := [r for r in rows if place(r) in base]:
        gains = [r["right"] - base[place(r)] for r in both]
        p = sign_flip(np.array(gains)[:, None], [str(r["cluster"]) for r in both], resamples, seed)
        found["vs_base"] = {"rows": len(both), **mean(both, gains, resamples, seed), "p": rounded(p, 6)}
    return found


def place(row: Record) -> tuple[Any, ...]:
    """What a row of one arm has in common with that of another."""
    return row["reading"], row["form"], row["fillers"], row["item"]


def summary(rows: Sequence[Record], base: str, resamples: int, seed: int) -> dict[str, Any]:
    """The values of `measured` by arm, reading, and form with its number of fillers (`choice-based/0`)."""
    known = {place(r): r["right"] for r in rows if r["arm"] == base}
    cells: dict[tuple[str, str, str], list[Record]] = {}
    for r in rows:
        cells.setdefault((r["arm"], r["reading"], f"{r['form']}/{r['fillers']}"), []).append(r)
    found: dict[str, Any] = {}
    for (arm, reading, form), of in cells.items():
        value = measured(of, known if arm != base else {}, resamples, seed)
        found.setdefault(arm, {}).setdefault(reading, {})[form] = value
    return found


COLUMNS: list[Column] = [
    ("arm", "arm", str), ("reading", "reading", str), ("form", "form", str), ("items", "items", str),
    ("right", "accuracy.value", number), ("95 %", "accuracy.ci", ci), ("chance", "chance", number),
    ("no conversation", "none", number), ("another's", "other", number), ("longest", "longest", number),
    ("lengths matched", "length_matched.value", number), ("vs base", "vs_base.value", partial(number, sign=True)),
    ("95 %", "vs_base.ci", partial(ci, sign=True)),
]  # fmt: skip


def table(found: Mapping[str, Any]) -> str:
    """`summary` as a table, every accuracy beside its twins."""
    lines = [
        {"arm": arm, "reading": reading, "form": form, **value}
        for arm, readings in found.items()
        for reading, forms in readings.items()
        for form, value in forms.items()
    ]
    return text(rows_of(COLUMNS, lines), left=3)
