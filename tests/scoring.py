"""Scores and crossed choice made for the tests of the evaluation."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from stages.core.prompts import alternating
from stages.evaluation import crossed
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


def with_choice(result: dict, planted: Mapping[str, float], told: Iterable[str] = (), words: float = 0.5) -> dict:
    """The result with crossed choice as stage eval puts it in.

    Args:
        planted: by arm, how much better a user's own reply fits its history than the same noise of every arm; of an arm that
            is not in it nothing is measured, as of one that stage choose skips.
        told: arms that are as good without the history.
        words: pairs right by shared words.
    """
    of, arms = [group(n) for n in range(12)], dict[str, list]()
    noise, flat = np.random.default_rng(1).normal(size=(12, 4, 4)), np.zeros((12, 4, 4))
    for name, strength in planted.items():
        own = noise + strength * np.eye(4)
        scores = {"history": own if strength else flat, "no_history": own if name in told else flat}
        arms[name] = crossed.rows(of, {reading: list(m) for reading, m in scores.items()})
        for row in arms[name]:
            row["log_probs"] = {reading: np.array(m) for reading, m in row["log_probs"].items()}
            row["overlap"] = {"pair_accuracy": words, "top1": 0.25}
    found = crossed.compared(arms, "base", 300, 1)
    for part in ("models", "vs_base"):
        for name, entry in result[part].items():
            entry["choose"] = found[part].get(name)
    return {**result, "choose": found["about"]}
