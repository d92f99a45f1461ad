"""What goes wrong with replies whatever their content: they grow long, repeat themselves, or say the user's words again.

A judge or an embedding can take any of these for a fit to the user, so they stand beside every gain.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stages.common.diversity import distinct
from stages.common.records import Record
from stages.common.turns import repetition, taken, words

if TYPE_CHECKING:
    from stages.common.metrics import Array

MEASURES = ("words", "repetition", "repeats_earlier", "loops", "echo")


def echo(reply: str, message: str) -> float:
    """Share of the reply's word 3-grams that stand in the user's message; 0 for a reply of fewer words."""
    said, heard = ([*zip(w, w[1:], w[2:], strict=False)] for w in (words(reply), words(message)))
    known = set(heard)
    return sum(g in known for g in said) / len(said) if said else 0.0


def by_reply(conversations: Mapping[str, Record], ids: Sequence[str], turns: int) -> dict[str, "Array"]:
    """Each of MEASURES for every reply, [len(ids), turns]; NaN where a turn was not had.

    words: length; repetition: share of its 3-grams that occurred before in it; repeats_earlier: 1 for the very words of an
    earlier reply of the conversation; loops: share of its 3-grams that stand in earlier replies (first replies have none and
    are NaN in both); echo: see `echo`.
    """
    import numpy as np

    found = {name: np.full((len(ids), turns), np.nan) for name in MEASURES}
    for row, case in enumerate(ids):
        earlier: list[str] = []
        for t in conversations[case]["turns"] if case in conversations else []:
            if t["turn"] > turns:
                continue
            at, said = (row, t["turn"] - 1), words(t["reply"])
            found["words"][at] = len(said)
            found["repetition"][at] = repetition(t["reply"])
            found["echo"][at] = echo(t["reply"], t["user"])
            if earlier:
                found["repeats_earlier"][at] = said in [words(e) for e in earlier]
                found["loops"][at] = taken(t["reply"], earlier)
            earlier.append(t["reply"])
    return found


def distinct_shares(conversations: Mapping[str, Record]) -> dict[str, float]:
    """distinct-1, -2 and -3 over all replies; falls with the amount of text, so compare models of like length."""
    replies = [t["reply"] for c in conversations.values() for t in c["turns"]]
    return {f"distinct_{n}": distinct(replies, n) for n in (1, 2, 3)}
