"""A witness without a judge: can the user be told from what the model said?

Words of a conversation are embedded; the rank of the right persona among all eval personas, by cosine, says how much of this
user is in them. AL(k) scores reply k, so reply k alone is what is looked at first. A model that only says the user's message
again gets as far as the message alone, so that stands beside it; the user's turns so far are what could be known by then.
A model that says its own first reply again at every turn keeps that reply's rank, which looks like memory and is none: so
the new words of reply k are looked at, too.

It is used to measure only, never to label, filter or choose data, so it stays independent of what was trained for. The
count of replies that recall something (recalls) is not: `extract_pairs.filters.recalled` chooses pairs by such a count.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from stages.core.files import Record
from stages.text.encoder import nearest_rank, so_far
from stages.text.ngrams import content, novel

if TYPE_CHECKING:
    from stages.core.statistics import Array
    from stages.text.encoder import Vectors

RECALLED = 2  # content words of one earlier message
# what is looked at after turn k: whose words, and whether all of them so far; `new`: without what earlier replies said
LOOKS = {
    "reply": ("reply", False), "new": ("reply", False), "message": ("user", False),
    "replies": ("reply", True), "messages": ("user", True),
}  # fmt: skip


def reciprocal_ranks(
    conversations: Mapping[str, Record],
    personas: Mapping[str, str],
    ids: Sequence[str],
    turns: int,
    look: str,
    encode: Callable[[list[str]], "Vectors"],
) -> "Array":
    """1 / rank of the right persona at each turn, [len(ids), turns]; NaN where a turn was not had, a guess where nothing new
    was said.

    Args:
        conversations: of one model, by case.
        personas: text of every eval persona, by case: among them the right one is looked for, whatever the model's cases.
        ids: the rows.
        look: one of LOOKS.
    """
    import numpy as np

    speaker, all_so_far = LOOKS[look]
    place = {case: n for n, case in enumerate(personas)}
    pool = encode(list(personas.values()))
    said = {case: [str(t[speaker]) for t in conversations[case]["turns"]] for case in ids if case in conversations}
    if look == "new":
        said = {case: [novel(text, texts[:k]) for k, text in enumerate(texts)] for case, texts in said.items()}
    encode([text for texts in said.values() for text in texts])  # in one go; below it is looked up
    found = np.full((len(ids), turns), np.nan)
    queries, where = [], []
    for row, case in enumerate(ids):
        vectors = encode(said.get(case, []))
        looked_at = so_far(vectors) if all_so_far else vectors
        for k, vector in enumerate(looked_at):
            turn = conversations[case]["turns"][k]["turn"]
            if turn > turns:
                continue
            if look == "new" and not said[case][k]:
                found[row, turn - 1] = chance(len(personas))
            else:
                queries.append(vector)
                where.append((row, turn - 1, place[case]))
    ranks = nearest_rank(np.stack(queries), pool, [right for _, _, right in where]) if queries else []
    for (row, turn, _), rank in zip(where, ranks, strict=True):
        found[row, turn] = 1 / rank
    return found


def recalls(conversations: Mapping[str, Record], ids: Sequence[str], turns: int) -> "Array":
    """1 where a reply recalls an earlier message of the user, else 0, [len(ids), turns]; NaN at turn 1 and where none is.

    It does when it holds at least RECALLED content words of that message that neither the message it answers nor an earlier
    reply holds: so neither an echo nor a loop counts, and a model that sees the last message only gets what chance gives.
    """
    import numpy as np

    found = np.full((len(ids), turns), np.nan)
    for row, case in enumerate(ids):
        told: list[set[str]] = []
        known: set[str] = set()  # of earlier replies
        for t in conversations[case]["turns"] if case in conversations else []:
            asked, reply = content(t["user"]), content(t["reply"])
            if told and t["turn"] <= turns:
                new = reply - known - asked
                found[row, t["turn"] - 1] = any(len(new & message) >= RECALLED for message in told)
            told.append(asked)
            known |= reply
    return found


def chance(personas: int) -> float:
    """Mean reciprocal rank of a guess among so many."""
    return sum(1 / rank for rank in range(1, personas + 1)) / personas
