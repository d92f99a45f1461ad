"""Measures of trees: what the user turns reveal."""

from collections import Counter
from typing import Any

from stages.core.files import Record
from stages.dialogue import faults, tree
from stages.text import ngrams
from stages.text.encoder import Encoder

RANKED = 300  # personas that are told apart: thousands would take half an hour of embedding and say no more


def measure(trees: list[Record], examples: list[str], encode: Encoder) -> dict[str, Any]:
    """What the user turns are worth: share of faulty ones, what they reveal, how soon they name their persona."""
    import numpy as np

    from stages.text.encoder import nearest_rank, so_far

    found: Counter[str] = Counter()
    turns_seen = faulty = 0
    told: list[float] = []
    noted: list[float] = []
    queries: dict[int, list[tuple[list[str], int]]] = {}
    for number, t in enumerate(trees):
        nodes = tree.index(t)
        for node in (n for n in t["nodes"] if n["role"] == "user"):
            before = tree.path(nodes, tree.parent(node["id"]))
            wrong = faults.faults(node["text"], [n["text"] for n in before], examples)
            found.update(wrong)
            turns_seen += 1
            faulty += bool(wrong)
            told.append(ngrams.revealed(t["items"][node["item"]], node["text"]))
            noted.append(len(node["note"]) / node["turn"])
            if number < RANKED:
                said = [*(n["text"] for n in before if n["role"] == "user"), node["text"]]
                queries.setdefault(node["turn"], []).append((said, number))
    pool = encode([f"{t['profile']} {t['personality']}" for t in trees[:RANKED]])
    encode([said[-1] for asked in queries.values() for said, _ in asked])  # in one go; below it is looked up
    top1 = {}
    for turn, asked in sorted(queries.items()):
        ranks = nearest_rank(np.stack([so_far(encode(said))[-1] for said, _ in asked]), pool, [n for _, n in asked])
        top1[turn] = round(sum(r == 1 for r in ranks) / len(ranks), 4)
    return {
        "user_turns": turns_seen,
        "faulty_user_turns": round(faulty / turns_seen, 4),
        "faults": dict(sorted(found.items())),
        "item_revealed": round(sum(x >= 0.5 for x in told) / len(told), 4),
        "item_words_said": round(sum(told) / len(told), 4),
        "items_noted_per_turn": round(sum(noted) / len(noted), 4),
        "persona_top1_from_user_turns": {"chance": round(1 / len(pool), 4), "last": top1[max(top1)], "by_turn": top1},
    }
