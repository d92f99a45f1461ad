"""Which reply of a decision is chosen, which pair is kept, and why."""

from dataclasses import dataclass

from stages.core.files import Record, digest
from stages.dialogue import tree
from stages.pairs.measures import Turn, measure, turn_at
from stages.pairs.settings import ExtractPairs, Filters
from stages.text.ngrams import words

OTHER = {"preferred": "rejected", "rejected": "preferred"}
NEGATIVES = {"uninformed": "r", "misinformed": "m"}  # kind of pairs: the reply (tree.REPLIES) set against the preferred one


@dataclass
class Decision:
    """A decision as it is filtered: its measures, the role of the chosen reply (None: dropped) and the reason."""

    turn: Turn
    measures: dict[str, float]
    chosen: str | None
    reason: str

    @property
    def lengths(self) -> tuple[float, float]:
        """Words of the chosen and of the other reply."""
        chosen = self.chosen or "preferred"
        return self.measures[f"{chosen}_words"], self.measures[f"{OTHER[chosen]}_words"]

    def record(self) -> Record:
        """As written to files."""
        decided = {"chosen": self.chosen, "reason": self.reason, "measures": self.measures}
        return {"tree": self.turn.tree, "node": self.turn.node, **decided, **self.kind_column}

    @property
    def kind_column(self) -> dict[str, str]:
        """`kind` of the pair, where not all are against the uninformed reply."""
        return {"kind": self.turn.kind} if self.turn.kind else {}

    @property
    def texts(self) -> tuple[str, str]:
        """The chosen and the other reply."""
        chosen = self.chosen or "preferred"
        return self.turn.replies[chosen], self.turn.replies[OTHER[chosen]]


def label(verdicts: list[Record], on_disagreement: str) -> tuple[str | None, str]:
    """(role of the chosen reply or None for a dropped pair, how that came about)."""
    chosen = [v["chosen"] for v in verdicts]
    if len(chosen) == 2 and None not in chosen and chosen[0] == chosen[1]:
        return chosen[0], "agreed"
    reason = "not_asked" if not chosen else "unreadable" if None in chosen or len(chosen) < 2 else "disagreement"
    return ("preferred" if on_disagreement == "keep_informed" else None), reason


def reply_fault(measures: dict[str, float], who: str, f: Filters) -> str:
    """Why a pair with reply `who`, or an SFT row of it, may not be trained on, or empty."""
    for name in ("recited", "unrevealed", "repetition", "user_unrevealed", "note_unrevealed"):
        limit = getattr(f, name)
        if limit is not None and measures[name if name in measures else f"{who}_{name}"] > limit:
            return name
    if f.names_inference and measures[f"{who}_names_inference"]:
        return "names_inference"
    return "confused" if f.confused and (measures["user_confused"] or measures[f"{who}_directions"]) else ""


def target_fault(measures: dict[str, float], who: str, f: Filters, first: bool = False) -> str:
    """Why reply `who` may be the rejected one of a pair but not the target of training, or empty.

    It repeats earlier replies, or, unless it is the `first` of its conversation, recalls nothing noted at earlier turns.
    """
    if f.loops is not None and measures[f"{who}_loops"] > f.loops:
        return "loops"
    forgot = f.recalled is not None and measures.get(f"{who}_recalled", f.recalled) < f.recalled
    return "recalled" if forgot and not first else ""


def pair_fault(measures: dict[str, float], f: Filters) -> str:
    """Why a pair may not be trained on whichever reply is chosen, or empty."""
    for who in OTHER:
        if fault := reply_fault(measures, who, f):
            return fault
    lengths = sorted(measures[f"{who}_words"] for who in OTHER)
    if f.length_ratio is not None and lengths[1] > f.length_ratio * max(1, lengths[0]):
        return "length_ratio"
    return "similarity" if f.similarity is not None and measures["similarity"] > f.similarity else ""


def sft_fault(d: Decision, f: Filters) -> str:
    """Why the preferred reply may not be imitated, or empty. At the first turn there is nothing to recall."""
    fault = reply_fault(d.measures, "preferred", f)
    return fault or target_fault(d.measures, "preferred", f, first=not d.turn.before)


def decide(t: Record, p: ExtractPairs) -> list[Decision]:
    """All decisions of a tree, labelled and filtered: those of one kind of pairs after those of the other."""
    nodes, kinds = tree.index(t), dict.fromkeys(p.negatives)
    named = [*kinds] != ["uninformed"]
    turns = [
        turn_at(t, *found, nodes, kind if named else "") for kind in kinds for found in tree.decisions(t, NEGATIVES[kind])
    ]
    return [decision(turn, p) for turn in turns]


def decision(turn: Turn, p: ExtractPairs) -> Decision:
    """A decision, labelled and filtered."""
    measured = measure(turn)
    unasked = turn.kind == "misinformed" and not turn.verdicts  # somebody else's note: no verifier is needed to say so
    chosen, reason = label(turn.verdicts, "keep_informed" if unasked else p.on_disagreement)
    if words(turn.replies["preferred"]) == words(turn.replies["rejected"]):
        chosen, reason = None, "identical"
    elif chosen and (fault := pair_fault(measured, p.filters) or target_fault(measured, chosen, p.filters)):
        chosen, reason = None, fault
    return Decision(turn, measured, chosen, reason)


def balance(decisions: list[Decision], most: float, seed: int) -> None:
    """Drop pairs of the commoner direction of length, the most unequal first, until length predicts at most `most`.

    Where there is nothing in the other direction, nothing is dropped: balance is out of reach.
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
