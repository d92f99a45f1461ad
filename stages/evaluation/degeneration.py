"""Degeneration of replies, whatever their content: they grow long, repeat themselves, or say the user's words again.

A judge or an embedding can mistake any of these for a fit to the user, so they stand beside every gain.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.core.files import Record
from stages.core.statistics import Array
from stages.text.diversity import distinct
from stages.text.ngrams import containment, repetition, words

MEASURES = ("words", "repetition", "repeats_earlier", "loops", "echo")
DISTINCT = ("distinct_1", "distinct_2", "distinct_3")


def by_reply(conversations: Mapping[str, Record], ids: Sequence[str], turns: int) -> dict[str, Array]:
    """Each of MEASURES for every reply, [len(ids), turns]; NaN where a turn is missing.

    words: length; repetition: share of its 3-grams that occurred before in it; repeats_earlier: 1 for the very words of an
    earlier reply of the conversation; loops: share of its 3-grams that stand in earlier replies (first replies have none and
    are NaN in both); echo: share of them that stand in the user's message.
    """
    found = {name: np.full((len(ids), turns), np.nan) for name in MEASURES}
    for row, case in enumerate(ids):
        earlier: list[str] = []
        for t in conversations[case]["turns"] if case in conversations else []:
            reply = t["reply"]
            if t["turn"] <= turns:
                cell = row, t["turn"] - 1
                found["words"][cell] = len(words(reply))
                found["repetition"][cell] = repetition(reply)
                found["echo"][cell] = containment(reply, [t["user"]])
                if earlier:
                    found["repeats_earlier"][cell] = words(reply) in [words(e) for e in earlier]
                    found["loops"][cell] = containment(reply, earlier)
            earlier.append(reply)
    return found


def distinct_shares(conversations: Mapping[str, Record]) -> dict[str, float]:
    """distinct-1, -2 and -3 over all replies; falls with the amount of text, so compare models of like length."""
    replies = [t["reply"] for c in conversations.values() for t in c["turns"]]
    return {name: distinct(replies, n) for n, name in enumerate(DISTINCT, 1)}
