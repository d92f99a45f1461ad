"""What a preference pair is worth: whether its label carries preference, or length, position, leakage. Texts alone."""

import re
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from stages.core.files import Record
from stages.dialogue import faults, tree
from stages.text import ngrams

TOLD = 0.5  # share of an item's content words from which on it counts as told
SAID = 0.7  # ... from which on a text that was not to know it is taken to hold it
LEAST_WORDS = 3  # an item of fewer content words may be named by chance
RECALLED = 2  # words of an earlier item from which on a reply counts as recalling it
_NAMES = re.compile(
    r"\b(your (persona|profile|personality|notes?)|(the|my) notes? (say|says|tell)|"
    r"(i (was|am|have been) told|it says) (that )?you|based on (your (profile|persona|notes?)|what (i|we) know)|"
    r"as an? (user|person) (who|with))\b",
    re.I,
)
_DIRECTIONS = re.compile(
    r"\*[a-z][^*\n]{2,60}\*|"
    r"[\[(](?:he |she |they )?(?:smil|sigh|laugh|paus|nod|shrug|frown|whisper|grin|cries|crying|looks)[^\])]*[\])]",
    re.I,
)


@dataclass(frozen=True)
class Turn:
    """One decision of a tree: the user's turn, both replies, and what was known then."""

    tree: str
    node: str
    user: str
    replies: dict[str, str]  # preferred, rejected
    items: list[str]
    item: int | None  # the one the turn was to reveal
    said: str  # all user turns of the path, this one too
    before: str  # ... without this one
    replied: list[str]  # all replies of the path before this turn
    note: list[int] | None  # None: whoever made the tree kept none
    verdicts: list[Record]


def turn(t: Record, user: tree.Node, preferred: tree.Node, rejected: tree.Node, nodes: dict[str, tree.Node]) -> Turn:
    """The decision at node `user` of tree `t`."""
    path = tree.path(nodes, tree.parent(user["id"]))
    earlier = [n["text"] for n in path if n["role"] == "user"]
    replied = [n["text"] for n in path if n["role"] != "user"]
    return Turn(
        str(t["id"]), user["id"], user["text"], {"preferred": preferred["text"], "rejected": rejected["text"]},
        t.get("items", []), user.get("item"), " ".join([*earlier, user["text"]]), " ".join(earlier), replied,
        user.get("note"), user.get("verdicts", []),
    )  # fmt: skip


def held(items: list[str], text: str, said: str) -> list[int]:
    """Items that `text` holds although `said` has not told them."""
    known = [(i, x) for i, x in enumerate(items) if len(ngrams.content(x)) >= LEAST_WORDS]
    return [i for i, x in known if ngrams.revealed(x, text) >= SAID and ngrams.revealed(x, said) < TOLD]


def recalled(t: Turn, text: str) -> int:
    """Greatest number of an earlier noted item's content words, as the user said them, that `text` holds and the message it
    answers does not."""
    told = ngrams.content(t.before) - ngrams.content(t.user)
    held = ngrams.content(text) & told
    return max((len(ngrams.content(t.items[i]) & held) for i in t.note or [] if i != t.item), default=0)


def measure_reply(t: Turn, who: str) -> dict[str, float]:
    """Of one reply: words, items recited and not told before, named inference, repetition (of itself, of earlier replies),
    stage directions, and, where notes were kept, words recalled."""
    text = t.replies[who]
    solid = [i for i in t.items if len(ngrams.content(i)) >= LEAST_WORDS]
    return {
        **({} if t.note is None else {"recalled": recalled(t, text)}),
        "words": len(ngrams.words(text)),
        "recited": sum(ngrams.revealed(i, text) >= SAID for i in solid),
        "unrevealed": len(held(t.items, text, t.said)),
        "names_inference": float(bool(_NAMES.search(text))),
        "repetition": round(ngrams.repetition(text), 4),
        "loops": round(ngrams.taken(text, t.replied), 4),
        "directions": float(bool(_DIRECTIONS.search(text))),
    }


def measure(t: Turn) -> dict[str, float]:
    """Of a whole decision; `preferred_...` and `rejected_...` of its replies."""
    told = [i for i in held(t.items, t.user, t.before) if i != t.item]
    return {
        "similarity": round(ngrams.overlap(t.replies["preferred"], t.replies["rejected"]), 4),
        "user_unrevealed": len(told),
        "note_unrevealed": sum(ngrams.revealed(t.items[i], t.said) == 0 for i in t.note or []),
        "user_confused": float("assistant_talk" in faults.faults(t.user, [], []) or bool(_DIRECTIONS.search(t.user))),
        **{f"{who}_{k}": v for who in t.replies for k, v in measure_reply(t, who).items()},
    }


def share(values: list[bool]) -> float | None:
    """Share that holds, None of nothing."""
    return round(fmean(values), 4) if values else None


def verdict_measures(decisions: list[Turn]) -> dict[str, float | None]:
    """How the verifier answered: agreement of its two orders, share of answers that took the reply shown first (0.5 is
    unbiased), share of unreadable ones, and how often the informed reply wins where the orders agree."""
    pairs = [[v["chosen"] for v in d.verdicts] for d in decisions if len(d.verdicts) == 2]
    readable = [p for p in pairs if None not in p]
    answers = [v for d in decisions for v in d.verdicts]
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
    """Measures of a set of decisions, each (its measures, role of the chosen reply). Shares unless said otherwise."""
    if not rows:
        return {"pairs": 0}
    sides = [(m, c, "rejected" if c == "preferred" else "preferred") for m, c in rows]
    lengths = [(m[f"{c}_words"], m[f"{other}_words"]) for m, c, other in sides]
    noted = [(m[f"{c}_recalled"], m[f"{other}_recalled"]) for m, c, other in sides if f"{c}_recalled" in m]
    return {
        "pairs": len(rows),
        "length_ratio": round(fmean(a / max(1, b) for a, b in lengths), 4),  # words of chosen over words of rejected
        "length_predicts": length_predicts(lengths),
        "similarity": round(fmean(m["similarity"] for m, _ in rows), 4),  # mean overlap of word 3-grams
        "loops": {  # mean share of a reply's word 3-grams that stand in earlier replies
            "chosen": round(fmean(m[f"{c}_loops"] for m, c, _ in sides), 4),
            "other": round(fmean(m[f"{other}_loops"] for m, _, other in sides), 4),
        },
        "recalls": {
            "chosen": share([a >= RECALLED for a, _ in noted]),
            "other": share([b >= RECALLED for _, b in noted]),
        },
        "leaks": {
            "reply_recites": share([m["preferred_recited"] >= 3 for m, _ in rows]),
            "reply_unrevealed": share([m["preferred_unrevealed"] > 0 for m, _ in rows]),
            "reply_names_inference": share([m["preferred_names_inference"] > 0 for m, _ in rows]),
            "user_unrevealed": share([m["user_unrevealed"] > 0 for m, _ in rows]),
            "note_unrevealed": share([m["note_unrevealed"] > 0 for m, _ in rows]),
        },
        "repetitive": share([max(m["preferred_repetition"], m["rejected_repetition"]) > 0.3 for m, _ in rows]),
        "user_confused": share([m["user_confused"] > 0 for m, _ in rows]),
        "stage_directions": share([max(m["preferred_directions"], m["rejected_directions"]) > 0 for m, _ in rows]),
    }
