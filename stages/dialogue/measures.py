"""Measures of trees: faults of the user turns, what they reveal, and how soon they identify their persona."""

from collections import Counter
from statistics import fmean
from typing import Any

from stages.core.files import Record
from stages.core.prompts import Message
from stages.dialogue import tree
from stages.dialogue.faults import faults
from stages.dialogue.transcript import texts
from stages.personas.persona import facts
from stages.text.encoder import Encode, nearest_rank, so_far
from stages.text.ngrams import coverage

RANKED = 300  # trees whose persona is looked for: thousands would take half an hour of embedding and show no more
REVEALED = 0.5  # share of an item's content words from which on a turn reveals it

UserTurn = tuple[tree.Node, list[Message]]  # a user's node and the history before it


def user_turns(t: Record) -> list[UserTurn]:
    """The user turns of a tree."""
    nodes = tree.index(t)
    return [(n, tree.history(nodes, tree.parent(n["id"]))) for n in t["nodes"] if n["role"] == "user"]


def recognition(trees: list[Record], encode: Encode) -> dict[int, float]:
    """By turn, how often the user's turns so far are nearest, by cosine, to the own persona of all the trees'."""
    import numpy as np

    queries: dict[int, list[tuple[list[str], int]]] = {}
    for number, t in enumerate(trees):
        for node, before in user_turns(t):
            queries.setdefault(node["turn"], []).append(([*texts(before, "user"), node["text"]], number))
    pool = encode([f"{t['profile']} {t['personality']}" for t in trees])
    encode([written[-1] for asked in queries.values() for written, _ in asked])  # in one go; below it is looked up
    top1 = {}
    for turn, asked in sorted(queries.items()):
        vectors = np.stack([so_far(encode(written))[-1] for written, _ in asked])
        ranks = nearest_rank(vectors, pool, [number for _, number in asked])
        top1[turn] = round(sum(r == 1 for r in ranks) / len(ranks), 4)
    return top1


def measure(trees: list[Record], examples: list[str], encode: Encode) -> dict[str, Any]:
    """Measures of the user turns of all trees; shares unless named otherwise. `examples`: user turns of the prompt."""
    found: list[list[str]] = []
    covered: list[float] = []
    noted: list[float] = []
    for t in trees:
        for node, before in user_turns(t):
            found.append(faults(node["text"], [m["content"] for m in before], examples))
            covered.append(coverage(t["items"][node["item"]], node["text"]))
            noted.append(len(node["note"]) / node["turn"])
    top1, chance = recognition(trees[:RANKED], encode), round(1 / min(len(trees), RANKED), 4)
    return {
        "user_turns": len(found),
        "faulty_user_turns": round(fmean(map(bool, found)), 4),
        "faults": dict(sorted(Counter(name for names in found for name in names).items())),
        "item_revealed": round(fmean(x >= REVEALED for x in covered), 4),
        "item_words_said": round(fmean(covered), 4),
        "items_noted_per_turn": round(fmean(noted), 4),
        "persona_top1_from_user_turns": {"chance": chance, "last": top1[max(top1)], "by_turn": top1},
    }


def disclosed(t: Record) -> dict[str, set[int]]:
    """Items shown so far at each user node of a tree, by quotes: those of its path and its own."""
    nodes = tree.index(t)
    shown: dict[str, set[int]] = {}
    for node in (n for n in t["nodes"] if n["role"] == "user"):
        path = tree.path(nodes, node["id"])
        shown[node["id"]] = {q["item"] for n in path for q in n.get("quotes", [])}
    return shown


def agreement(trees: list[Record]) -> dict[str, Any]:
    """Precision and recall of the quotes so far against the given note, over the user turns that have both; of facts, of
    traits and of both."""
    counts: Counter[tuple[str, str]] = Counter()
    for t in trees:
        cut, shown = len(facts(t["profile"])), disclosed(t)
        for node in (n for n in t["nodes"] if n.get("note") is not None and "quotes" in n):
            given, found = {*node["note"]}, shown[node["id"]]
            for name, items in (("given", given), ("found", found), ("both", given & found)):
                of_facts = sum(i < cut for i in items)
                counts.update({("facts", name): of_facts, ("traits", name): len(items) - of_facts, ("all", name): len(items)})
    return {
        kind: {
            "given": counts[kind, "given"],
            "found": counts[kind, "found"],
            "both": counts[kind, "both"],
            "precision": round(counts[kind, "both"] / max(1, counts[kind, "found"]), 4),
            "recall": round(counts[kind, "both"] / max(1, counts[kind, "given"]), 4),
        }
        for kind in ("all", "facts", "traits")
    }
