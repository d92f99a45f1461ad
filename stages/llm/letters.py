"""Answers of one token, a letter or a word, and what a model made of the other ones."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from string import ascii_uppercase
from typing import Any

FLOOR = 1e-6  # least probability of a letter: one that is not among the alternatives told has some
_LETTER = re.compile(r"\W*(?:(?:the )?(?:answer|reply|letter|option)(?: is)?\W*)?([a-z])\W*", re.I)


def letter(text: str, number: int) -> int:
    """Place of the letter that an answer is, among `number`. Raises ValueError for prose and for other letters."""
    answers, found = ascii_uppercase[:number], _letter_of(text)
    if not found or found not in answers:
        raise ValueError("no letter of a reply")
    return answers.index(found)


def told(reply: dict[str, Any], chosen: int, number: int) -> list[float] | None:
    """Probability of each letter where the answer names the one at `chosen`; None without log-probabilities."""
    for token, alternatives in reply.get("logprobs", []):
        if token.strip(" *(").upper()[:1] == ascii_uppercase[chosen] and _LETTER.fullmatch(token):
            mass = masses(alternatives, _letter_of, ascii_uppercase[:number])
            return [m / math.fsum(mass) for m in mass]
    return None


def log_odds(reply: dict[str, Any], one: str, other: str) -> float:
    """Log p of an answer that begins with the word `one` less that of `other`, in nats; 0.0 where neither is told."""
    alternatives = [told for _, first in reply.get("logprobs", [])[:1] for told in first]
    mass = masses(alternatives, lambda text: text.strip(" *\"'.").lower(), (one, other))
    return math.log(mass[0] / mass[1])


def masses(alternatives: Iterable[Any], read: Callable[[str], str], answers: Sequence[str]) -> list[float]:
    """Probability of each answer: FLOOR, and that of its spellings among `alternatives`, (text, log p or None) as `read`."""
    mass = dict.fromkeys(answers, FLOOR)
    for text, p in alternatives:
        if p is not None and (answer := read(text)) in mass:
            mass[answer] += math.exp(p)
    return [*mass.values()]


def _letter_of(text: str) -> str:
    """The letter that a token is, "" for another token."""
    found = _LETTER.fullmatch(text)
    return found[1].upper() if found else ""
