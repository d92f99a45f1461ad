"""Extract pairs: from trees to training data in TRL's conversational format.

Every node with two replies gives one preference pair; its prompt is the exact message history of its path. Which reply is
chosen is the verifier's word where its two answers agree. Every preferred reply gives one SFT row. Train and validation
share no persona. Asks nothing.

Run: python -m stages.extract_pairs (the arguments are in dvc.yaml)
"""

from collections import Counter
from dataclasses import dataclass

from stages.common import params, prompts, tree
from stages.common.errors import UserError, parser, run
from stages.common.prompts import Message
from stages.common.records import Record, digest, read_jsonl, write_json, write_jsonl
from stages.common.turns import words


@dataclass
class ExtractPairs:
    """Section `extract_pairs`.

    `on_disagreement`: what becomes of a pair on which the verifier's two answers differ or one cannot be read: drop, or
    keep_informed (the preferred responder's reply is chosen). `val_share` of the personas is held out.
    """

    seed: int
    on_disagreement: str
    val_share: float

    def __post_init__(self) -> None:
        params.require(
            (self.on_disagreement in ("drop", "keep_informed"),
             f"on_disagreement: {self.on_disagreement!r} is neither drop nor keep_informed"),
            (0 < self.val_share < 1, f"val_share: {self.val_share} is outside (0, 1)"),
        )  # fmt: skip


@dataclass
class Params:
    """What this stage reads."""

    extract_pairs: ExtractPairs


def label(node: tree.Node, on_disagreement: str) -> tuple[str | None, str]:
    """(role of the chosen reply or None for a dropped pair, how that came about)."""
    chosen = [v["chosen"] for v in node.get("verdicts", [])]
    if len(chosen) == 2 and None not in chosen and chosen[0] == chosen[1]:
        return chosen[0], "agreed"
    reason = "unreadable" if None in chosen or len(chosen) < 2 else "disagreement"
    return ("preferred" if on_disagreement == "keep_informed" else None), reason


def assistant(text: str) -> list[Message]:
    """A reply as the message list that TRL wants."""
    return [{"role": "assistant", "content": text}]


def rows(t: Record, system: list[Message], on_disagreement: str, counts: Counter[str]) -> tuple[list[Record], list[Record]]:
    """(SFT rows, preference pairs) of one tree; what became of each pair is counted."""
    nodes = tree.index(t)
    sft, pairs = [], []
    for node in (n for _, n in sorted(nodes.items()) if n["role"] == "preferred"):
        prompt = system + tree.history(nodes, tree.parent(node["id"]))
        sft.append({"prompt": prompt, "completion": assistant(node["text"])})
    for user, preferred, rejected in tree.decisions(t):
        counts["decisions"] += 1
        if words(preferred["text"]) == words(rejected["text"]):
            counts["dropped_identical"] += 1
            continue
        chosen, how = label(user, on_disagreement)
        counts[f"verifier_{how}"] += 1
        if chosen is None:
            counts[f"dropped_{how}"] += 1
            continue
        counts[f"chosen_{chosen}"] += 1
        first, second = (preferred, rejected) if chosen == "preferred" else (rejected, preferred)
        pairs.append(
            {
                "prompt": system + tree.history(nodes, user["id"]),
                "chosen": assistant(first["text"]),
                "rejected": assistant(second["text"]),
            }
        )
    return sft, pairs


def main() -> None:
    a = parser(
        __doc__, ["trees", "assistant-prompt"], ["sft-train", "sft-val", "pairs-train", "pairs-val", "metrics"]
    ).parse_args()
    p = params.load("extract_pairs", Params).extract_pairs
    system = prompts.load(a.assistant_prompt).messages()
    trees = read_jsonl(a.trees)
    if len(trees) < 2:
        raise UserError(f"{a.trees}: {len(trees)} trees cannot be split into train and validation; grow more personas")
    order = sorted(trees, key=lambda t: digest(p.seed, t["id"]))
    held = {t["id"] for t in order[: max(1, round(p.val_share * len(trees)))]}
    counts: Counter[str] = Counter()
    data: dict[str, list[Record]] = {"sft_train": [], "sft_val": [], "pairs_train": [], "pairs_val": []}
    for t in trees:
        part = "val" if t["id"] in held else "train"
        sft, pairs = rows(t, system, p.on_disagreement, counts)
        data[f"sft_{part}"] += sft
        data[f"pairs_{part}"] += pairs
    if empty := [name for name, found in data.items() if not found]:
        raise UserError(f"{a.trees}: gives no rows for {', '.join(empty)}; counts: {dict(sorted(counts.items()))}")
    for name, found in data.items():
        write_jsonl(getattr(a, name), found)
    write_json(
        a.metrics,
        {"pairs": dict(sorted(counts.items())), "rows": {k: len(v) for k, v in data.items()}, "held_out": len(held)},
    )


if __name__ == "__main__":
    run(main)
