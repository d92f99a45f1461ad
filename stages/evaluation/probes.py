"""Over-personalisation and the read-out: what replies bring up of what the user had told by then.

A probe is a message on which nothing told helps, so every told item in its reply is one too many; an arm that sees no
history (NAME_no_memory) says how often the measure is wrong. The read-out asks a model what it knows of its user.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from stages.core.files import Record
from stages.core.statistics import Array, holm
from stages.evaluation import metrics
from stages.evaluation.metrics import Inference
from stages.evaluation.scores import BASE, NO_MEMORY
from stages.text.ngrams import REVEALED, content, coverage, repetition
from stages.text.sentences import sentences

REPEATS = 0.3  # share of repeated 3-grams above which read-outs are loops

Items = Mapping[str, Sequence[str]]  # by case, the items of its persona


def brought_up(row: Record, items: Sequence[str]) -> set[int]:
    """Told items that the reply to a probe brings up: by its quotes where they were asked for, else those of whose content
    words, but those that the probe itself holds, the reply holds half."""
    if "mentions" in row:
        return {m["item"] for m in row["mentions"]} & {*row["told"]}
    asked, reply = content(row["message"]), content(row["reply"])
    wanted = {i: content(items[i]) - asked for i in row["told"]}
    return {i for i, words in wanted.items() if words and len(words & reply) >= REVEALED * len(words)}


def named(row: Record, items: Sequence[str]) -> tuple[set[int], float]:
    """(items that a read-out names, share of its sentences that name one; NaN without a sentence): by its quotes where they
    were asked for, else where a sentence holds half of an item's content words."""
    said = [s for line in row["reply"].splitlines() for s in sentences(line)]
    if "mentions" in row:
        found = {m["item"] for m in row["mentions"]}
        right = [any(coverage(m["quote"], s) == 1 for m in row["mentions"]) for s in said]
    else:
        by_sentence = [{i for i, x in enumerate(items) if coverage(x, s) >= REVEALED} for s in said]
        found, right = set().union(*by_sentence), [bool(own) for own in by_sentence]
    return found, fmean(right) if said else float("nan")


def shares(rows: Sequence[Record], items: Items, ids: Sequence[str], number: int) -> Array:
    """1 where the reply to a probe brings up a told item, else 0, [len(ids), number]; NaN where it is missing."""
    found = np.full((len(ids), number), np.nan)
    place = {case: n for n, case in enumerate(ids)}
    for row in rows:
        found[place[row["id"]], row["number"] - 1] = bool(brought_up(row, items[row["id"]]))
    return found


def read_out(rows: Sequence[Record], items: Items, ids: Sequence[str], infer: Inference) -> dict[str, Any]:
    """Of the read-outs of a model after one turn.

    Returns:
        answers; told and named: mean numbers of items; precision: share of sentences that name an item of the persona;
        recall: share of the told items that are named; each {"value", "ci"}; cannot: why the model cannot do it, else None.
    """
    place = {case: n for n, case in enumerate(ids)}
    precision, recall = (np.full((len(ids), 1), np.nan) for _ in range(2))
    counts = []
    for row in rows:
        told, (found, share) = {*row["told"]}, named(row, items[row["id"]])
        precision[place[row["id"]]] = share
        recall[place[row["id"]]] = len(found & told) / len(told) if told else np.nan
        counts.append((len(told), len(found), repetition(row["reply"])))
    told_mean, named_mean, repeated = (round(fmean(column), 4) for column in zip(*counts, strict=True))
    cannot = "names nothing of its user" if not named_mean else "repeats itself" if repeated > REPEATS else None
    return {
        "answers": len(rows), "told": told_mean, "named": named_mean, "cannot": cannot,
        "precision": _estimate(infer, precision), "recall": _estimate(infer, recall),
    }  # fmt: skip


def _estimate(infer: Inference, values: Array) -> dict[str, Any]:
    return dict(zip(("value", "ci"), infer.estimate(metrics.level, values), strict=True))


def compared(
    arms: Mapping[str, Sequence[Record]], items: Mapping[str, Items], ids: Sequence[str], infer: Inference
) -> dict[str, dict[str, Any]]:
    """Both measures of every arm, and the difference to base.

    Args:
        arms: rows of stage converse by arm; items: by arm and case; ids: all cases, the rows of every array.
    Returns:
        models: by arm `over_personalisation` (`value`: share of replies with a told item; `ci`, `replies`; `no_memory`: the
        share of NAME_no_memory), None without probes, and `read_out` by turn; vs_base: by arm the paired difference of
        shares with `ci`, `p` and `p_holm` over the arms.
    """
    probes = {arm: [row for row in rows if row["kind"] == "probe"] for arm, rows in arms.items()}
    number = max((row["number"] for rows in probes.values() for row in rows), default=0)
    values = {arm: shares(rows, items[arm], ids, number) for arm, rows in probes.items() if rows}
    over = {arm: {**_estimate(infer, found), "replies": len(probes[arm])} for arm, found in values.items()}
    for arm in over:
        over[arm]["no_memory"] = over.get(f"{arm}{NO_MEMORY}", {}).get("value")
    vs_base: dict[str, Any] = {}
    for arm in [arm for arm in values if arm != BASE and BASE in values]:
        difference, ci = infer.estimate(metrics.difference, values[arm], values[BASE])
        vs_base[arm] = {"difference": difference, "ci": ci, "p": infer.p_value(values[arm] - values[BASE])}
    for entry, corrected in zip(vs_base.values(), holm([entry["p"] for entry in vs_base.values()]), strict=True):
        entry["p_holm"] = corrected
    models = {}
    for arm, rows in arms.items():
        asked = [row for row in rows if row["kind"] == "read_out"]
        by_turn = {k: [row for row in asked if row["turn"] == k] for k in sorted({row["turn"] for row in asked})}
        known = {str(k): read_out(own, items[arm], ids, infer) for k, own in by_turn.items()}
        models[arm] = {"over_personalisation": over.get(arm), "read_out": known}
    return {"models": models, "vs_base": {arm: {"over_personalisation": entry} for arm, entry in vs_base.items()}}
