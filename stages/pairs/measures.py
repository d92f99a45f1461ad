"""Measures of one decision of a tree, from its texts alone: leakage, repetition, and what a reply recalls."""

import re
from dataclasses import dataclass

from stages.core.files import Record
from stages.dialogue import faults, tree
from stages.dialogue.quotes import stands
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
    kind: str  # of the other reply: uninformed, misinformed; "": all are uninformed
    of: str  # id of the persona whose note a misinformed reply had
    user: str
    replies: dict[str, str]  # preferred, rejected: the other one, of either kind
    items: list[str]
    item: int | None  # the one that a scripted turn was to reveal; None: nobody told the user what to reveal
    before: str  # all user turns of the path before this one
    written: str  # ... and this one
    replied: list[str]  # all replies of the path before this turn
    note: list[int] | None  # None: the tree has no notes
    quoted: set[int] | None  # items that the user's own words so far are quoted for; None: the tree has no quotes
    shown: set[int]  # ... this turn first
    mentions: dict[str, list[Record] | None]  # items that a reply mentions, each with a quote of it; None: not asked for
    verdicts: list[Record]


def turn_at(
    t: Record, user: tree.Node, preferred: tree.Node, other: tree.Node, nodes: dict[str, tree.Node], kind: str = ""
) -> Turn:
    """The decision at node `user` of tree `t`."""
    path = tree.path(nodes, user["id"])
    said = [n["text"] for n in path if n["role"] == "user"]
    rows = [q for n in path for q in n.get("quotes", [])]
    verdicts = (other if kind == "misinformed" else user).get("verdicts", [])
    return Turn(
        tree=str(t["id"]), node=user["id"], kind=kind, of=other.get("of", ""), user=user["text"],
        items=t.get("items", []), item=user.get("item"),
        replies={"preferred": preferred["text"], "rejected": other["text"]}, note=user.get("note"),
        before=" ".join(said[:-1]), written=" ".join(said), replied=[n["text"] for n in path if n["role"] != "user"],
        quoted={q["item"] for q in rows if stands(q["quote"], said)} if any("quotes" in n for n in path) else None,
        shown={q["item"] for q in user.get("quotes", [])},
        mentions={"preferred": preferred.get("mentions"), "rejected": other.get("mentions")},
        verdicts=[{k: "rejected" if v == "misinformed" else v for k, v in row.items()} for row in verdicts],
    )  # fmt: skip


def unrevealed(items: list[str], text: str, written: str) -> list[int]:
    """Items that `text` holds although the user's `written` turns do not reveal them."""
    known = [(i, x) for i, x in enumerate(items) if len(ngrams.content(x)) >= LEAST_WORDS]
    return [i for i, x in known if ngrams.coverage(x, text) >= HELD and ngrams.coverage(x, written) < REVEALED]


def note_unrevealed(t: Turn) -> int:
    """Noted items that nothing the user said shows: by quotes, else by words.

    What a user merely implies shares no word with its item; so of a user without a script all noted facts count where there
    are three or more and none has a word that the user said.
    """
    note = t.note or []
    if t.quoted is not None:
        return len(set(note) - t.quoted)
    silent = [i for i in note if ngrams.coverage(t.items[i], t.written) == 0]
    solid = {i for i in note if len(ngrams.content(t.items[i])) >= LEAST_WORDS}
    return len(silent) if t.item is not None or (len(solid) > 2 and solid <= {*silent}) else 0


def recalled(t: Turn, who: str) -> int | None:
    """Greatest number of words of an item noted at an earlier turn in reply `who`: of the quote that mentions it; without
    quotes, content words as the user wrote them that the message it answers does not hold. None where nothing tells."""
    mentions = t.mentions[who]
    if t.note is None or (mentions is None and t.item is None):
        return None
    if mentions is not None:
        earlier_items = {*t.note} - t.shown
        return max((len(ngrams.words(m["quote"])) for m in mentions if m["item"] in earlier_items), default=0)
    earlier = ngrams.content(t.before) - ngrams.content(t.user)
    shared = ngrams.content(t.replies[who]) & earlier
    return max((len(ngrams.content(t.items[i]) & shared) for i in t.note if i != t.item), default=0)


def held(t: Turn, who: str) -> tuple[int, int]:
    """(items that reply `who` mentions, those of them that it was not to know): by quotes, else by words."""
    mentions, note = t.mentions[who], t.note or []
    if mentions is not None:
        return len(mentions), sum(m["item"] not in note for m in mentions)
    text = t.replies[who]
    solid = [i for i in t.items if len(ngrams.content(i)) >= LEAST_WORDS]
    leaked = [i for i in unrevealed(t.items, text, t.written) if t.item is not None or i not in note]
    return sum(ngrams.coverage(i, text) >= HELD for i in solid), len(leaked)


def measure_reply(t: Turn, who: str) -> dict[str, float]:
    """Measures of one reply: words; recited and unrevealed, the items it mentions and those of them not known then;
    names_inference and directions, 1.0 where it speaks of a profile or notes, or has stage directions; repetition; loops,
    the share of its 3-grams that stand in earlier replies; recalled, where notes were kept."""
    text, found = t.replies[who], recalled(t, who)
    recited, unknown = held(t, who)
    return {
        **({} if found is None else {"recalled": found}),
        "words": len(ngrams.words(text)),
        "recited": recited,
        "unrevealed": unknown,
        "names_inference": float(bool(_NAMES.search(text))),
        "repetition": round(ngrams.repetition(text), 4),
        "loops": round(ngrams.containment(text, t.replied), 4),
        "directions": float(bool(_DIRECTIONS.search(text))),
    }


def measure(t: Turn) -> dict[str, float]:
    """Measures of a whole decision; `preferred_...` and `rejected_...` are those of its replies."""
    ahead = [i for i in unrevealed(t.items, t.user, t.before) if i != t.item] if t.item is not None else []
    return {
        "similarity": round(ngrams.jaccard(t.replies["preferred"], t.replies["rejected"]), 4),
        "user_unrevealed": len(ahead),
        "note_unrevealed": note_unrevealed(t),
        "user_confused": float("assistant_talk" in faults.faults(t.user, [], []) or bool(_DIRECTIONS.search(t.user))),
        **{f"{who}_{k}": v for who in t.replies for k, v in measure_reply(t, who).items()},
    }
