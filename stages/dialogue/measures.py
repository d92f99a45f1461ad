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
from stages.text.ngrams import REVEALED, coverage, words

RANKED = 300  # trees whose persona is looked for: thousands would take half an hour of embedding and show no more

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


def shown_now(node: tree.Node, before: tree.Node | None) -> dict[int, str]:
    """Items that a user turn shows first, each with the words that show it: its quote, else the turn.

    They are those of its quotes; without quotes, those of its note that the note of the user's turn `before` lacks.
    """
    if "quotes" in node:
        return {q["item"]: q["quote"] for q in node["quotes"]}
    earlier = (before or {}).get("note") or []
    return {i: node["text"] for i in node.get("note") or [] if i not in earlier}


def disclosure(trees: list[Record]) -> dict[str, Any] | None:
    """How users show who they are, in whatever language, by the quotes or notes of the trees; None where no tree has items.

    Returns:
        turns: shares of user turns that declare an item (the words that show it hold half of its content words), only imply
        one, or show nothing new; disclosed: by turn, mean numbers of facts and traits shown so far; words: mean of a user
        turn; distinct: distinct-n of all user turns; notes: see `agreement`.
    """
    from stages.text.diversity import distinct

    trees = [t for t in trees if t.get("items")]
    if not trees:
        return None
    ways: list[str] = []
    known: dict[int, list[tuple[int, int]]] = {}
    for t in trees:
        nodes, shown, cut = tree.index(t), dict[str, set[int]](), facts_of(t)
        for node in sorted((n for n in t["nodes"] if n["role"] == "user"), key=lambda n: len(n["id"])):
            before = tree.parent(tree.parent(node["id"]) or "")
            new = shown_now(node, nodes.get(before or ""))
            declared = any(coverage(t["items"][i], words) >= REVEALED for i, words in new.items())
            ways.append("declare" if declared else "imply" if new else "nothing")
            now = shown[node["id"]] = shown.get(before or "", set()) | new.keys()
            known.setdefault(node["id"].count("/") // 2 + 1, []).append(
                (sum(i < cut for i in now), sum(i >= cut for i in now))
            )
    said = [n["text"] for t in trees for n in t["nodes"] if n["role"] == "user"]
    return {
        "turns": {way: round(ways.count(way) / len(ways), 4) for way in ("declare", "imply", "nothing")},
        "disclosed": {
            turn: {
                kind: round(fmean(row), 2) for kind, row in zip(("facts", "traits"), zip(*rows, strict=True), strict=True)
            }
            for turn, rows in sorted(known.items())
        },
        "words": round(fmean(len(words(text)) for text in said), 1),
        "distinct": {str(n): distinct(said, n) for n in (1, 2, 3)},
        "notes": agreement(trees),
    }


def facts_of(t: Record) -> int:
    """How many of a tree's items are facts; the others are traits."""
    return len(facts(t["profile"])) if "profile" in t else len(t["items"])


def agreement(trees: list[Record]) -> dict[str, Any] | None:
    """Precision and recall of the items quoted so far against the given notes, over the user turns that have both; of facts,
    of traits and of all. None where no turn has both; the notes of role-play are made of its quotes, and say nothing."""
    counts = {kind: Counter[str]() for kind in ("all", "facts", "traits")}
    for t in trees:
        nodes, cut = tree.index(t), facts_of(t)
        for node in (n for n in t["nodes"] if n.get("note") is not None and "quotes" in n and "agenda" not in n):
            quoted = {q["item"] for n in tree.path(nodes, node["id"]) for q in n.get("quotes", [])}
            for i in quoted | {*node["note"]}:
                for kind in ("all", "facts" if i < cut else "traits"):
                    counts[kind].update(given=i in node["note"], found=i in quoted, both=i in node["note"] and i in quoted)
    if not counts["all"]:
        return None
    return {
        kind: {
            **n, "precision": round(n["both"] / max(1, n["found"]), 4), "recall": round(n["both"] / max(1, n["given"]), 4)
        } for kind, n in counts.items()
    }  # fmt: skip


def measure(trees: list[Record], examples: list[str], encode: Encode) -> dict[str, Any]:
    """Measures of the user turns of all trees; shares unless named otherwise. `examples`: user turns of the prompt."""
    found: list[list[str]] = []
    covered: list[float] = []
    noted: list[float] = []
    for t in trees:
        for node, before in user_turns(t):
            found.append(faults(node["text"], [m["content"] for m in before], examples))
            if "item" in node:  # the user had a script
                covered.append(coverage(t["items"][node["item"]], node["text"]))
            noted.append(len(node.get("note") or []) / node["turn"])
    top1, chance = recognition(trees[:RANKED], encode), round(1 / min(len(trees), RANKED), 4)
    scripted = {
        "item_revealed": round(fmean(x >= REVEALED for x in covered), 4),
        "item_words_said": round(fmean(covered), 4),
    } if covered else {}  # fmt: skip
    return {
        "user_turns": len(found),
        "faulty_user_turns": round(fmean(map(bool, found)), 4),
        "faults": dict(sorted(Counter(name for names in found for name in names).items())),
        **scripted,
        **({"ended_by_user": sum(len(t["ended_by_user"]) for t in trees)} if "ended_by_user" in trees[0] else {}),
        "items_noted_per_turn": round(fmean(noted), 4),
        "disclosure": disclosure(trees),
        "persona_top1_from_user_turns": {"chance": chance, "last": top1[max(top1)], "by_turn": top1},
    }
