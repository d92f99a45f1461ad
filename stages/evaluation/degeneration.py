"""What goes wrong with replies whatever their content: they grow long, repeat themselves, or say the user's words again.

A judge or an embedding can take any of these for a fit to the user, so they stand beside every gain.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stages.core.files import Record
from stages.text.diversity import distinct
from stages.text.ngrams import containment, repetition, words

if TYPE_CHECKING:
    from stages.core.statistics import Array

MEASURES = ("words", "repetition", "repeats_earlier", "loops", "echo")


def by_reply(conversations: Mapping[str, Record], ids: Sequence[str], turns: int) -> dict[str, "Array"]:
    """Each of MEASURES for every reply, [len(ids), turns]; NaN where a turn was not had.

    words: length; repetition: share of its 3-grams that occurred before in it; repeats_earlier: 1 for the very words of an
    earlier reply of the conversation; loops: share of its 3-grams that stand in earlier replies (first replies have none and
    are NaN in both); echo: share of them that stand in the user's message.
    """
    import numpy as np

    found = {name: np.full((len(ids), turns), np.nan) for name in MEASURES}
    for row, case in enumerate(ids):
        earlier: list[str] = []
        had: list[list[str]] = []
        for t in conversations[case]["turns"] if case in conversations else []:
            if t["turn"] > turns:
                continue
            at, said = (row, t["turn"] - 1), words(t["reply"])
            found["words"][at] = len(said)
            found["repetition"][at] = repetition(t["reply"])
            found["echo"][at] = containment(t["reply"], [t["user"]])
            if earlier:
                found["repeats_earlier"][at] = said in had
                found["loops"][at] = containment(t["reply"], earlier)
            earlier.append(t["reply"])
            had.append(said)
    return found


def distinct_shares(conversations: Mapping[str, Record]) -> dict[str, float]:
    """distinct-1, -2 and -3 over all replies; falls with the amount of text, so compare models of like length."""
    replies = [t["reply"] for c in conversations.values() for t in c["turns"]]
    return {f"distinct_{n}": distinct(replies, n) for n in (1, 2, 3)}
