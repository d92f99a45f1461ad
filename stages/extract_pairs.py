"""Extract pairs: from trees to training data in TRL's conversational format, and what that data is worth.

Every node with two replies gives one preference pair; its prompt is the exact message history of its path. Which reply is
chosen is the verifier's word where its two answers agree. Every preferred reply gives one SFT row. Each decision is measured
(quality.py), filtered as the params say, and written down with the reason it was kept or dropped. Train and validation share
no persona. Asks nothing; fails when the data does not meet `require`.

Run: python -m stages.extract_pairs (the arguments are in dvc.yaml)
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from stages.common import params, prompts, quality, tree
from stages.common.errors import UserError, parser, run
from stages.common.prompts import Message
from stages.common.records import Record, digest, read_jsonl, write_json, write_jsonl
from stages.common.turns import words


@dataclass
class Filters:
    """What drops a pair (and, where it is the preferred reply's own fault, the SFT row); None is off.

    `length_ratio`: words of the longer reply over those of the shorter; `similarity`: overlap of the two replies;
    `recited`: items of the persona in one reply; `unrevealed`: items in it that the user has not told; `user_unrevealed`,
    `note_unrevealed`: items in the user's turn besides its own, and in the note, that were not told; `repetition`: share of
    a reply's word 3-grams that occurred before; `loops`: of the reply to be learnt, share of them that stand in earlier
    replies; `recalled`: least words of one fact noted at an earlier turn, not in the message itself, that the reply to be
    learnt must hold (trees without notes pass; so do SFT rows of the first turn);
    `names_inference`: a reply speaks of a profile, a persona or notes; `confused`: the user speaks as an assistant, or
    anyone in stage directions.
    """

    length_ratio: float | None
    similarity: float | None
    recited: int | None
    unrevealed: int | None
    user_unrevealed: int | None
    note_unrevealed: int | None
    repetition: float | None
    loops: float | None
    recalled: int | None
    names_inference: bool
    confused: bool


@dataclass
class Require:
    """What the kept pairs must be for training to make sense; the stage fails where they are not. None is off."""

    min_pairs: int | None
    min_order_agreement: float | None
    min_informed_wins: float | None
    max_length_predicts: float | None
    max_unrevealed: float | None


@dataclass
class ExtractPairs:
    """Section `extract_pairs`.

    `on_disagreement`: what becomes of a pair on which the verifier's two answers differ, cannot be read or are none: drop,
    or keep_informed (the preferred responder's reply is chosen). `val_share` of the personas is held out. `balance_length`:
    pairs are dropped, those that differ most in length first, until length alone predicts the label at most so often.
    """

    seed: int
    trees: str
    on_disagreement: str
    val_share: float
    balance_length: float | None
    filters: Filters
    require: Require

    def __post_init__(self) -> None:
        balance = self.balance_length
        params.require(
            (self.on_disagreement in ("drop", "keep_informed"),
             f"on_disagreement: {self.on_disagreement!r} is neither drop nor keep_informed"),
            (0 < self.val_share < 1, f"val_share: {self.val_share} is outside (0, 1)"),
            (balance is None or 0.5 <= balance <= 1, f"balance_length: {balance} is outside [0.5, 1]"),
        )  # fmt: skip


@dataclass
class Params:
    """What this stage reads."""

    extract_pairs: ExtractPairs


@dataclass
class Decision:
    """A decision on its way: its measures, the role of the chosen reply (None: dropped) and the reason."""

    turn: quality.Turn
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
        turn = quality.turn(t, user, preferred, rejected, nodes)
        measures = quality.measure(turn)
        chosen, reason = label(user, p.on_disagreement)
        if words(preferred["text"]) == words(rejected["text"]):
            chosen, reason = None, "identical"
        elif chosen and (fault := pair_fault(measures, p.filters) or unworthy(measures, chosen, p.filters)):
            chosen, reason = None, fault
        found.append(Decision(turn, measures, chosen, reason, part))
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


def main() -> None:
    a = parser(
        __doc__,
        ["trees", "assistant-prompt"],
        ["sft-train", "sft-val", "pairs-train", "pairs-val", "decisions", "metrics"],
    ).parse_args()
    p = params.load("extract_pairs", Params).extract_pairs
    system = prompts.load(a.assistant_prompt).messages()
    trees = read_trees(a.trees)
    order = sorted(trees, key=lambda t: digest(p.seed, t["id"]))
    held = {t["id"] for t in order[: max(1, round(p.val_share * len(trees)))]}
    parts = {t["id"]: "val" if t["id"] in held else "train" for t in trees}
    by_tree = {t["id"]: decide(t, parts[t["id"]], p) for t in trees}
    decisions = [d for found in by_tree.values() for d in found]
    if p.balance_length is not None:
        for part in ("train", "val"):
            balance([d for d in decisions if d.part == part], p.balance_length, p.seed)
    data: dict[str, list[Record]] = {"sft_train": [], "sft_val": [], "pairs_train": [], "pairs_val": []}
    dropped: Counter[str] = Counter()
    for t in trees:
        faults = {d.turn.node: row_fault(d, p.filters) for d in by_tree[t["id"]]}
        dropped.update(f for f in faults.values() if f)
        data[f"sft_{parts[t['id']]}"] += sft_rows(t, system, faults)
        data[f"pairs_{parts[t['id']]}"] += [pair_row(t, d, system) for d in by_tree[t["id"]] if d.chosen]
    verifier = quality.verdict_measures([d.turn for d in decisions])
    kept = quality.pair_measures([(d.measures, d.chosen) for d in decisions if d.chosen])
    before = [(d.measures, label({"verdicts": d.turn.verdicts}, p.on_disagreement)[0] or "preferred") for d in decisions]
    write_jsonl(
        a.decisions,
        (
            {"tree": d.turn.tree, "node": d.turn.node, "chosen": d.chosen, "reason": d.reason, "measures": d.measures}
            for d in decisions
        ),
    )
    write_json(
        a.metrics,
        {
            "decisions": len(decisions),
            "kept": dict(sorted(Counter(f"{d.reason}_{d.chosen}" for d in decisions if d.chosen).items())),
            "dropped": dict(sorted(Counter(d.reason for d in decisions if not d.chosen).items())),
            "sft_rows_dropped": dict(sorted(dropped.items())),
            "rows": {k: len(v) for k, v in data.items()},
            "held_out": len(held),
            "verifier": verifier,
            "quality": kept,
            "quality_before_filters": quality.pair_measures(before),
        },
    )
    if wrong := unmet(kept, verifier, p.require):
        raise UserError(f"extract_pairs.require: {'; '.join(wrong)}; see {a.metrics} and {a.decisions}")
    if empty := [name for name, found in data.items() if not found]:
        raise UserError(f"{a.trees}: gives no rows for {', '.join(empty)}; see the reasons in {a.metrics}")
    for name, found in data.items():
        write_jsonl(getattr(a, name), found)


def read_trees(path: Any) -> list[Record]:
    """Trees of a file. Raises UserError, with its line, for a row that is none; for fewer than two."""
    trees = read_jsonl(path)
    for number, t in enumerate(trees, 1):
        nodes = t.get("nodes")
        sound = isinstance(nodes, list) and all(
            isinstance(n, dict) and isinstance(n.get("id"), str) and isinstance(n.get("text"), str)
            and n.get("role") in ("user", "preferred", "rejected") for n in nodes
        )  # fmt: skip
        if not sound or not isinstance(t.get("id"), str):
            raise UserError(
                f"{path}:{number}: not a tree: needs `id` and `nodes`, each with id, role (user, preferred, rejected), text"
            )
    if len(trees) < 2:
        raise UserError(f"{path}: {len(trees)} trees cannot be split into train and validation; grow more personas")
    return trees


if __name__ == "__main__":
    run(main)
