"""Measures of one decision of a tree, from its texts alone: leakage, repetition, and what a reply recalls."""

import re
from dataclasses import dataclass

from stages.core.files import Record
from stages.dialogue import faults, tree
from stages.dialogue.transcript import texts
from stages.text import ngrams

REVEALED = 0.5  # coverage of an item from which on a text reveals it
HELD = 0.7  # ... from which on a text that was not to know the item holds it
LEAST_WORDS = 3  # an item of fewer content words may be named by chance
_NAMES = re.compile(
    r"\b(your (persona|profile|personality|notes?)|(the|my) notes? (say|says|tell)|"
    r"(i (was|am|have been) told|it says) (that )?you|based on (your (profile|persona|notes?)|what (i|we) know)|"
    r"as an? (user|person) (who|with))\b",
    re.I,
)
_SHOWN = (
    r"(?!nodes)"
    r"(?:smil|sigh|laugh|paus|nod|shrug|frown|whisper|grin|wink|chuckl|giggl|gasp|groan|blush|yawn|sob|mutter|mumbl)"
)
_MOVED = (
    r"(?:(?:look|lean|take|clear|roll|raise|tilt|shake|rub|stare|gaze|glance|sit|stand|step|turn|walk|point|hold|put|wave|hug|"
    r"clap|bow|think|ponder)s|(?:look|lean|tak|clear|roll|rais|tilt|shak|rubb|star|gaz|glanc|sitt|stand|turn|point|hold|wav|hugg|"
    r"cry)ing|reaches|scratches|cries)"
)
_DIRECTIONS = re.compile(
    r"\*(?:(?:he|she|they|i)\s+)?(?:\w+ly\s+)?"  # between asterisks what somebody does; else they stand for emphasis
    rf"(?:{_SHOWN}e?\*|{_SHOWN}(?:e?s|[bdgnpt]?ing)\b[^*\n]*\*|{_MOVED}\s[^*\n]+\*|(?:waves?|hugs?|bows|claps|cries|crying)\*)|"
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
    item: int | None  # the one that the turn was to reveal
    before: str  # all user turns of the path before this one
    written: str  # ... and this one
    replied: list[str]  # all replies of the path before this turn
    note: list[int] | None  # None: the tree has no notes
    verdicts: list[Record]


def turn_at(t: Record, user: tree.Node, preferred: tree.Node, rejected: tree.Node, nodes: dict[str, tree.Node]) -> Turn:
    """The decision at node `user` of tree `t`."""
    history = tree.history(nodes, tree.parent(user["id"]))
    before = texts(history, "user")
    return Turn(
        tree=str(t["id"]), node=user["id"], user=user["text"], items=t.get("items", []), item=user.get("item"),
        replies={"preferred": preferred["text"], "rejected": rejected["text"]}, note=user.get("note"),
        before=" ".join(before), written=" ".join([*before, user["text"]]), replied=texts(history, "assistant"),
        verdicts=user.get("verdicts", []),
    )  # fmt: skip


def unrevealed(items: list[str], text: str, written: str) -> list[int]:
    """Items that `text` holds although the user's `written` turns do not reveal them."""
    known = [(i, x) for i, x in enumerate(items) if len(ngrams.content(x)) >= LEAST_WORDS]
    return [i for i, x in known if ngrams.coverage(x, text) >= HELD and ngrams.coverage(x, written) < REVEALED]


def recalled(t: Turn, text: str) -> int:
    """Greatest number of content words of an item noted at an earlier turn, as the user wrote them, that `text` holds and
    the message it answers does not."""
    earlier = ngrams.content(t.before) - ngrams.content(t.user)
    shared = ngrams.content(text) & earlier
    return max((len(ngrams.content(t.items[i]) & shared) for i in t.note or [] if i != t.item), default=0)


def measure_reply(t: Turn, who: str) -> dict[str, float]:
    """Measures of one reply: words; recited and unrevealed, the items it holds and those of them not revealed before;
    names_inference and directions, 1.0 where it speaks of a profile or notes, or has stage directions; repetition; loops,
    the share of its 3-grams that stand in earlier replies; recalled, where notes were kept."""
    text = t.replies[who]
    solid = [i for i in t.items if len(ngrams.content(i)) >= LEAST_WORDS]
    return {
        **({} if t.note is None else {"recalled": recalled(t, text)}),
        "words": len(ngrams.words(text)),
        "recited": sum(ngrams.coverage(i, text) >= HELD for i in solid),
        "unrevealed": len(unrevealed(t.items, text, t.written)),
        "names_inference": float(bool(_NAMES.search(text))),
        "repetition": round(ngrams.repetition(text), 4),
        "loops": round(ngrams.containment(text, t.replied), 4),
        "directions": float(bool(_DIRECTIONS.search(text))),
    }


def measure(t: Turn) -> dict[str, float]:
    """Measures of a whole decision; `preferred_...` and `rejected_...` are those of its replies."""
    ahead = [i for i in unrevealed(t.items, t.user, t.before) if i != t.item]
    return {
        "similarity": round(ngrams.jaccard(t.replies["preferred"], t.replies["rejected"]), 4),
        "user_unrevealed": len(ahead),
        "note_unrevealed": sum(ngrams.coverage(t.items[i], t.written) == 0 for i in t.note or []),
        "user_confused": float("assistant_talk" in faults.faults(t.user, [], []) or bool(_DIRECTIONS.search(t.user))),
        **{f"{who}_{k}": v for who in t.replies for k, v in measure_reply(t, who).items()},
    }
