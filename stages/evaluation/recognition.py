"""Recognition of the user from the model's words, without a judge, as a retrieval task.

Words of a conversation are embedded as a query; the rank of the right persona among all eval personas, by cosine, says how
much of this user is in them. AL(k) scores reply k, so reply k alone is the first query. A model that only says the user's
message again gets as far as the message alone, so that is a query, too; the user's turns so far are what could be known by
then. A model that says its own first reply again at every turn keeps that reply's rank, which is no memory: so the new words
of reply k are a query of their own.

The ranks measure only; they never label, filter or choose data, so they stay independent of what was trained for. The count
of replies that recall something (`recalls`) does not: `extract_pairs.filters.recalled` chooses pairs by such a count.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.core.files import Record
from stages.core.statistics import Array
from stages.text.encoder import Encode, nearest_rank, so_far
from stages.text.ngrams import content, novel

RECALLED = 2  # content words of one earlier message
# the query after turn k: whose words; `new`: of reply k, those that no earlier reply has
QUERIES = {"reply": "reply", "new": "reply", "message": "user", "replies": "reply", "messages": "user"}
CUMULATIVE = ("replies", "messages")  # all of them so far


def reciprocal_ranks(
    conversations: Mapping[str, Record],
    personas: Mapping[str, str],
    ids: Sequence[str],
    turns: int,
    query: str,
    encode: Encode,
) -> Array:
    """1 / rank of the right persona at each turn, [len(ids), turns].

    NaN where a turn is missing; the mean of a random ranking where a reply has no new words to query with.

    Args:
        conversations: of one model, by case.
        personas: text of every eval persona, by case: among them the right one is ranked, whatever the model's cases.
        ids: the rows.
        query: one of QUERIES.
    """
    place = {case: n for n, case in enumerate(personas)}
    pool = encode(list(personas.values()))
    texts = {case: query_texts(conversations[case], query) for case in ids if case in conversations}
    encode([text for own in texts.values() for text in own])  # in one batch; below the vectors are looked up
    ranks = np.full((len(ids), turns), np.nan)
    vectors, cells = [], []
    for row, case in enumerate(ids):
        own = encode(texts.get(case, []))
        for k, vector in enumerate(so_far(own) if query in CUMULATIVE else own):
            column = conversations[case]["turns"][k]["turn"] - 1
            if column >= turns:
                continue
            if query == "new" and not texts[case][k]:
                ranks[row, column] = chance(len(personas))
            else:
                vectors.append(vector)
                cells.append((row, column, place[case]))
    found = nearest_rank(np.stack(vectors), pool, [right for _, _, right in cells]) if vectors else []
    for (row, column, _), rank in zip(cells, found, strict=True):
        ranks[row, column] = 1 / rank
    return ranks


def query_texts(conversation: Record, query: str) -> list[str]:
    """The text of the query after each turn; empty where the reply has no new words."""
    texts = [str(t[QUERIES[query]]) for t in conversation["turns"]]
    return [novel(text, texts[:k]) for k, text in enumerate(texts)] if query == "new" else texts


def recalls(conversations: Mapping[str, Record], ids: Sequence[str], turns: int) -> Array:
    """1 where a reply recalls an earlier message of the user, else 0, [len(ids), turns]; NaN at turn 1 and without a turn.

    It does when it holds at least RECALLED content words of that message that neither the message it answers nor an earlier
    reply holds: so neither an echo nor a loop counts, and a model that sees the last message only gets what chance gives.
    """
    found = np.full((len(ids), turns), np.nan)
    for row, case in enumerate(ids):
        messages: list[set[str]] = []
        replied: set[str] = set()
        for t in conversations[case]["turns"] if case in conversations else []:
            message, reply = content(t["user"]), content(t["reply"])
            if messages and t["turn"] <= turns:
                new = reply - replied - message
                found[row, t["turn"] - 1] = any(len(new & earlier) >= RECALLED for earlier in messages)
            messages.append(message)
            replied |= reply
    return found


def chance(personas: int) -> float:
    """Mean reciprocal rank of a random ranking of so many."""
    return sum(1 / rank for rank in range(1, personas + 1)) / personas
