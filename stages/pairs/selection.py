"""Which reply of a decision is chosen, which pair is kept, and why."""

from dataclasses import dataclass
from typing import Any

from stages.core.files import Record, digest
from stages.core.prompts import Message
from stages.dialogue import tree
from stages.pairs import measures
from stages.pairs.settings import ExtractPairs, Filters, Require
from stages.text.ngrams import words


@dataclass
class Decision:
    """A decision on its way: its measures, the role of the chosen reply (None: dropped) and the reason."""

    turn: measures.Turn
    measures: dict[str, float]
    chosen: str | None
    reason: str
    part: str

    @property
    def lengths(self) -> tuple[float, float]:
        """Words of the chosen and of the other reply."""
        other = {"preferred": "rejected", "rejected": "preferred"}[self.chosen or "preferred"]
        return self.measures[f"{self.chosen or 'preferred'}_words"], self.measures[f"{other}_words"]


def label(node: tree.Node, on_disagreement: str) -> tuple[str | None, str]:
    """(role of the chosen reply or None for a dropped pair, how that came about)."""
    chosen = [v["chosen"] for v in node.get("verdicts", [])]
    if len(chosen) == 2 and None not in chosen and chosen[0] == chosen[1]:
        return chosen[0], "agreed"
    reason = "not_asked" if not chosen else "unreadable" if None in chosen or len(chosen) < 2 else "disagreement"
    return ("preferred" if on_disagreement == "keep_informed" else None), reason


def reply_fault(measures: dict[str, float], who: str, f: Filters) -> str:
    """Why reply `who` may not be trained towards, or empty."""
    for name in ("recited", "unrevealed", "repetition", "user_unrevealed", "note_unrevealed"):
        limit = getattr(f, name)
        if limit is not None and measures[name if name in measures else f"{who}_{name}"] > limit:
            return name
    if f.names_inference and measures[f"{who}_names_inference"]:
        return "names_inference"
    return "confused" if f.confused and (measures["user_confused"] or measures[f"{who}_directions"]) else ""


def unworthy(measures: dict[str, float], who: str, f: Filters, first: bool = False) -> str:
    """Why reply `who` may stand in a pair but not be learnt, or empty: it says earlier replies again, or, unless it is the
    `first`, recalls nothing that was noted at earlier turns."""
    if f.loops is not None and measures[f"{who}_loops"] > f.loops:
        return "loops"
    forgot = f.recalled is not None and measures.get(f"{who}_recalled", f.recalled) < f.recalled
    return "recalled" if forgot and not first else ""


def pair_fault(measures: dict[str, float], f: Filters) -> str:
    """Why a pair may not be trained on, or empty."""
    for who in ("preferred", "rejected"):
        if fault := reply_fault(measures, who, f):
            return fault
    lengths = sorted(measures[f"{who}_words"] for who in ("preferred", "rejected"))
    if f.length_ratio is not None and lengths[1] > f.length_ratio * max(1, lengths[0]):
        return "length_ratio"
    return "similarity" if f.similarity is not None and measures["similarity"] > f.similarity else ""


def assistant(text: str) -> list[Message]:
    """A reply as the message list that TRL wants."""
    return [{"role": "assistant", "content": text}]


def decide(t: Record, part: str, p: ExtractPairs) -> list[Decision]:
    """All decisions of a tree, labelled and filtered."""
    nodes = tree.index(t)
    found = []
    for user, preferred, rejected in tree.decisions(t):
        turn = measures.turn(t, user, preferred, rejected, nodes)
        found_by = measures.measure(turn)
        chosen, reason = label(user, p.on_disagreement)
        if words(preferred["text"]) == words(rejected["text"]):
            chosen, reason = None, "identical"
        elif chosen and (fault := pair_fault(found_by, p.filters) or unworthy(found_by, chosen, p.filters)):
            chosen, reason = None, fault
        found.append(Decision(turn, found_by, chosen, reason, part))
    return found


def balance(decisions: list[Decision], most: float, seed: int) -> None:
    """Drop pairs of the commoner direction of length, the most unequal first, until length predicts at most `most`.

    Where there is nothing in the other direction, nothing is dropped: balance cannot be had.
    """
    kept = [d for d in decisions if d.chosen]
    longer = [d for d in kept if d.lengths[0] > d.lengths[1]]
    shorter = [d for d in kept if d.lengths[0] < d.lengths[1]]
    common, rare = sorted((longer, shorter), key=len, reverse=True)
    if not rare:
        return
    common.sort(key=lambda d: (-abs(d.lengths[0] - d.lengths[1]), digest(seed, d.turn.tree, d.turn.node)))
    ties = len(kept) - len(common) - len(rare)
    for left, d in zip(range(len(common), 0, -1), common, strict=True):  # counted: measured anew it would be quadratic
        share = (left + ties / 2) / (left + ties + len(rare))
        if round(max(share, 1 - share), 4) <= most:
            return
        d.chosen, d.reason = None, "length_balance"


def row_fault(d: Decision, f: Filters) -> str:
    """Why a preferred reply may not be imitated, or empty. At the first turn there is nothing to recall."""
    fault = reply_fault(d.measures, "preferred", f)
    return fault or unworthy(d.measures, "preferred", f, first=not d.turn.before)


def sft_rows(t: Record, system: list[Message], faults: dict[str, str]) -> list[Record]:
    """One row for every preferred reply that has no fault (by id of its user node)."""
    nodes = tree.index(t)
    return [
        {"prompt": system + tree.history(nodes, tree.parent(node["id"])), "completion": assistant(node["text"])}
        for _, node in sorted(nodes.items())
        if node["role"] == "preferred" and not faults.get(str(tree.parent(node["id"])))
    ]


def pair_row(t: Record, d: Decision, system: list[Message]) -> Record:
    """The preference pair of a kept decision."""
    chosen, rejected = ("preferred", "rejected") if d.chosen == "preferred" else ("rejected", "preferred")
    return {
        "prompt": system + tree.history(tree.index(t), d.turn.node),
        "chosen": assistant(d.turn.replies[chosen]),
        "rejected": assistant(d.turn.replies[rejected]),
    }


def unmet(kept: dict[str, Any], verifier: dict[str, Any], r: Require) -> list[str]:
    """What `require` asks and the data is not, each with by how much. A measure that cannot be had is not met."""
    bounds = [
        ("min_pairs", kept["pairs"], r.min_pairs),
        ("min_order_agreement", verifier["order_agreement"], r.min_order_agreement),
        ("min_informed_wins", verifier["informed_wins"], r.min_informed_wins),
        ("max_length_predicts", kept.get("length_predicts"), r.max_length_predicts),
        ("max_unrevealed", kept.get("leaks", {}).get("reply_unrevealed"), r.max_unrevealed),
    ]
    wrong = []
    for name, value, bound in bounds:
        if bound is not None and (value is None or (value < bound if name.startswith("min_") else value > bound)):
            by = "" if value is None else f", {abs(value - bound):.4g} {'short' if name.startswith('min_') else 'over'}"
            wrong.append(f"{name} is {bound}, the data has {value}{by}")
    return wrong
