"""Rows of training data in TRL's conversational format: `prompt`, and `completion` (SFT) or `chosen`, `rejected` (DPO)."""

from collections import Counter

from stages.core.files import Record, digest
from stages.core.prompts import Message
from stages.dialogue import tree
from stages.pairs.selection import Decision, sft_fault
from stages.pairs.settings import Filters

Data = dict[str, list[Record]]
"""sft_train, sft_val, pairs_train, pairs_val -> rows."""


def held_out(trees: list[Record], val_share: float, seed: int) -> set[str]:
    """Ids of the validation trees, at least one; a tree is one persona, so no persona is in both parts."""
    order = sorted((t["id"] for t in trees), key=lambda tree_id: digest(seed, tree_id))
    return set(order[: max(1, round(val_share * len(trees)))])


def reply(text: str) -> list[Message]:
    """A reply as the message list that TRL wants."""
    return [{"role": "assistant", "content": text}]


def sft_rows(t: Record, system: list[Message], faults: dict[str, str]) -> list[Record]:
    """One row for every preferred reply that has no fault (by id of its user node)."""
    nodes = tree.index(t)
    return [
        {"prompt": system + tree.history(nodes, tree.parent(node["id"])), "completion": reply(node["text"])}
        for _, node in sorted(nodes.items())
        if node["role"] == "preferred" and not faults.get(str(tree.parent(node["id"])))
    ]


def pair_row(t: Record, d: Decision, system: list[Message]) -> Record:
    """The preference pair of a kept decision."""
    chosen, rejected = map(reply, d.texts)
    prompt = system + tree.history(tree.index(t), d.turn.node)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **d.kind_column}


def training_data(
    trees: list[Record], decisions: dict[str, list[Decision]], held: set[str], system: list[Message], f: Filters
) -> tuple[Data, Counter[str]]:
    """Rows of both kinds and parts, and how many preferred replies gave no SFT row, by reason. `decisions`: by tree id."""
    data: Data = {"sft_train": [], "sft_val": [], "pairs_train": [], "pairs_val": []}
    dropped: Counter[str] = Counter()
    for t in trees:
        part = "val" if t["id"] in held else "train"
        faults = {d.turn.node: sft_fault(d, f) for d in decisions[t["id"]]}
        dropped.update(fault for fault in faults.values() if fault)
        data[f"sft_{part}"] += sft_rows(t, system, faults)
        data[f"pairs_{part}"] += [pair_row(t, d, system) for d in decisions[t["id"]] if d.chosen]
    return data, dropped
