"""Quality of a set of decisions: whether its labels carry preference, or length, position, leakage."""

from collections import Counter
from statistics import fmean
from typing import Any

from stages.core.files import Record
from stages.dialogue.faults import REPEATED
from stages.pairs.context_free import Replies, context_free_predicts
from stages.pairs.measures import Turn
from stages.pairs.selection import OTHER, Decision, label
from stages.pairs.settings import Require

RECALLED = 2  # words of an earlier item from which on a reply recalls it
RECITED = 3  # items in one reply from which on it recites the persona


def share(values: list[bool]) -> float | None:
    """Share that holds, None of nothing."""
    return round(fmean(values), 4) if values else None


def verdict_measures(turns: list[Turn]) -> dict[str, float | None]:
    """Shares: of turns on which the verifier's two orders agree, of answers that took the reply shown first (0.5 without
    position bias), of unreadable answers, of agreed turns that the informed reply wins. None where nothing was asked."""
    pairs = [[v["chosen"] for v in t.verdicts] for t in turns if len(t.verdicts) == 2]
    readable = [p for p in pairs if None not in p]
    answers = [v for t in turns for v in t.verdicts]
    read = [v for v in answers if v["chosen"] is not None]
    agreed = [p[0] for p in readable if p[0] == p[1]]
    return {
        "order_agreement": share([p[0] == p[1] for p in readable]),
        "took_first_shown": share([v["chosen"] == v["first"] for v in read if "first" in v]),
        "unreadable": share([v["chosen"] is None for v in answers]),
        "informed_wins": share([p == "preferred" for p in agreed]),
    }


def length_predicts(pairs: list[tuple[float, float]]) -> float | None:
    """How well length alone predicts the label: of (words of chosen, words of rejected) the share in which the commoner of
    "the longer" and "the shorter is chosen" is right; a tie is half right."""
    if not pairs:
        return None
    longer = fmean(0.5 if a == b else float(a > b) for a, b in pairs)
    return round(max(longer, 1 - longer), 4)


def pair_measures(rows: list[tuple[dict[str, float], str]]) -> dict[str, Any]:
    """Measures of a set of pairs, each (measures of its decision, role of the chosen reply): shares unless named otherwise.

    length_ratio: mean of words of the chosen over words of the other; similarity: mean Jaccard similarity of the two; loops:
    mean share of a reply's 3-grams that stand in earlier replies.
    """
    if not rows:
        return {"pairs": 0}
    sides = [(m, chosen, OTHER[chosen]) for m, chosen in rows]
    lengths = [(m[f"{chosen}_words"], m[f"{other}_words"]) for m, chosen, other in sides]
    noted = [(m[f"{chosen}_recalled"], m[f"{other}_recalled"]) for m, chosen, other in sides if f"{chosen}_recalled" in m]

    def exceeds(limit: float, *names: str) -> float | None:
        return share([max(m[name] for name in names) > limit for m, _ in rows])

    return {
        "pairs": len(rows),
        "length_ratio": round(fmean(a / max(1, b) for a, b in lengths), 4),
        "length_predicts": length_predicts(lengths),
        "similarity": round(fmean(m["similarity"] for m, _ in rows), 4),
        "loops": {
            "chosen": round(fmean(m[f"{chosen}_loops"] for m, chosen, _ in sides), 4),
            "other": round(fmean(m[f"{other}_loops"] for m, _, other in sides), 4),
        },
        "recalls": {side: share([words[i] >= RECALLED for words in noted]) for i, side in enumerate(("chosen", "other"))},
        "leaks": {
            "reply_recites": exceeds(RECITED - 1, "preferred_recited"),
            "reply_unrevealed": exceeds(0, "preferred_unrevealed"),
            "reply_names_inference": exceeds(0, "preferred_names_inference"),
            "user_unrevealed": exceeds(0, "user_unrevealed"),
            "note_unrevealed": exceeds(0, "note_unrevealed"),
        },
        "repetitive": exceeds(REPEATED, "preferred_repetition", "rejected_repetition"),
        "user_confused": exceeds(0, "user_confused"),
        "stage_directions": exceeds(0, "preferred_directions", "rejected_directions"),
    }


def _summary(decisions: list[Decision], on_disagreement: str) -> dict[str, Any]:
    labelled = [(d.measures, label(d.turn.verdicts, on_disagreement)[0] or "preferred") for d in decisions]
    kept = [d for d in decisions if d.chosen]
    return {
        "decisions": len(decisions),
        "kept": dict(sorted(Counter(f"{d.reason}_{d.chosen}" for d in kept).items())),
        "dropped": dict(sorted(Counter(d.reason for d in decisions if not d.chosen).items())),
        "verifier": verdict_measures([d.turn for d in decisions]),
        "quality": {
            **pair_measures([(d.measures, d.chosen) for d in kept if d.chosen]),
            "context_free_predicts": context_free_predicts([Replies(d.turn.tree, *d.texts, d.turn.of) for d in kept]),
        },
        "quality_before_filters": pair_measures(labelled),
    }


def summary(decisions: list[Decision], on_disagreement: str) -> dict[str, Any]:
    """Counts of the decisions by outcome, the verifier's measures, and those of the pairs after and before the filters.

    `kinds` has the same of each kind of pairs, where there are several.
    """
    found = _summary(decisions, on_disagreement)
    kinds = sorted({d.turn.kind for d in decisions} - {""})
    if kinds:
        found["kinds"] = {k: _summary([d for d in decisions if d.turn.kind == k], on_disagreement) for k in kinds}
    return found


def unmet(found: Record, r: Require) -> list[str]:
    """What `require` demands and a `summary` does not meet, each with by how much. A missing measure is not met."""
    kept, verifier = found["quality"], found["verifier"]
    told = [k["quality"]["context_free_predicts"] for k in found.get("kinds", {"": found}).values()]
    worst = max((t["accuracy"] for t in told if t), default=None)
    bounds = [
        ("min_pairs", kept["pairs"], r.min_pairs),
        ("min_order_agreement", verifier["order_agreement"], r.min_order_agreement),
        ("min_informed_wins", verifier["informed_wins"], r.min_informed_wins),
        ("max_length_predicts", kept.get("length_predicts"), r.max_length_predicts),
        ("max_context_free", worst, r.max_context_free),
        ("max_unrevealed", kept.get("leaks", {}).get("reply_unrevealed"), r.max_unrevealed),
    ]
    wrong = []
    for name, value, bound in bounds:
        if bound is not None and (value is None or (value < bound if name.startswith("min_") else value > bound)):
            by = "" if value is None else f", {abs(value - bound):.4g} {'short' if name.startswith('min_') else 'over'}"
            wrong.append(f"{name} is {bound}, the data has {value}{by}")
    return wrong
