"""A witness without a judge: can the user be told from what the model said?

The replies of a conversation are embedded; the rank of the right persona among all eval personas, by cosine with their mean
up to turn k, says how much of this user is in them. The same of the user's own turns is what could be known by then. It is
used to measure only, never to label, filter or choose data, so it stays independent of what was trained for.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.common.embed import nearest_rank, so_far
from stages.common.records import Record

if TYPE_CHECKING:
    from stages.common.embed import Vectors
    from stages.common.metrics import Array


def reciprocal_ranks(cases: list[Record], speaker: str, turns: int, encode: Callable[[list[str]], "Vectors"]) -> "Array":
    """1 / rank of the right persona after each turn, [cases, turns]; NaN where a conversation ended before.

    Args:
        cases: conversations, each with its persona's texts.
        speaker: `reply` or `user`: whose words are looked at.
    """
    import numpy as np

    pool = encode([f"{c['profile']} {c['personality']}" for c in cases])
    said = [[str(t[speaker]) for t in case["turns"]][:turns] for case in cases]
    encode([text for texts in said for text in texts])  # in one go; below it is looked up
    where = [(number, turn) for number, texts in enumerate(said) for turn in range(len(texts))]
    found = np.full((len(cases), turns), np.nan)
    if not where:
        return found
    queries = np.concatenate([so_far(encode(texts)) for texts in said if texts])
    ranks = nearest_rank(queries, pool, [n for n, _ in where])
    for (number, turn), rank in zip(where, ranks, strict=True):
        found[number, turn] = 1 / rank
    return found
