"""Scores made for the tests of the evaluation, an encoder that needs no model, and groups for crossed choice."""

import re
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from stages.core.prompts import alternating
from stages.evaluation.scores import Judgement, Scores

PEOPLE = [
    "I mend fishing nets in Ghana.", "I drive a tram in Lodz.", "I herd goats in Mongolia.", "I carve puppets in Java.",
    "I farm wheat in Canada.", "I deliver meals in Lima.",
]  # fmt: skip
ABSENT = -1.0  # no row at all


def made(
    models: dict[str, Callable[[int, int, str], float | None]],
    turns: int = 4,
    judges: Iterable[str] = ("judge",),
    personas: Iterable[str] = ("right",),
    profiles: Iterable[str] = PEOPLE,
) -> Scores:
    """Six cases; `models[name](case, turn, persona)` is a score, None for none, ABSENT for a turn without a row."""
    scores = Scores()
    for model, score in models.items():
        for case, profile in enumerate(profiles):
            for turn in range(1, turns + 1):
                for judge in judges:
                    for persona in personas:
                        value = score(case, turn, persona)
                        if value != ABSENT:
                            row = Judgement(
                                model=model, judge=judge, persona=persona, case=f"c{case}", turn=turn, score=value,
                                profile=profile,
                            )  # fmt: skip
                            scores.add(row, f"{model} {case} {turn} {judge} {persona}")
    scores.finish("test")
    return scores


class BagOfWords:
    """An encoder without a model: unit vectors of word counts, so that common words make the cosine, and chance the rest."""

    def __init__(self, params: object = None):
        self.params = params

    def __call__(self, texts: list[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row += 0.01 * np.random.default_rng(zlib.crc32(text.encode())).standard_normal(512)
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % 512] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TOPICS = ("boats", "chess", "bread", "bees")


def user(n: int) -> dict:
    """A user of a group for crossed choice."""
    said = (f"I like {TOPICS[n]}.", f"Tell me of {TOPICS[n]}.", f"{TOPICS[n]} are all I think of.", "How nice.")
    history = alternating(said)
    return {
        "id": f"u{n}",
        "persona": f"Likes {TOPICS[n]}.",
        "history": history,
        "reply": f"Read about {TOPICS[n]} tonight.",
    }


def group(number: int = 0, kind: str = "both") -> dict:
    """A group of four users."""
    return {"group": f"g{number}", "kind": kind, "message": "What now?", "users": [user(n) for n in range(4)]}
