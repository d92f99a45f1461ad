"""Answers of one token, a letter or a word, and what a model made of the other ones."""

import math
import re
from string import ascii_uppercase
from typing import Any

FLOOR = 1e-6  # least probability of a letter: one that is not among the alternatives told has some
_LETTER = re.compile(r"\W*(?:(?:the )?(?:answer|reply|letter|option)(?: is)?\W*)?([a-z])\W*", re.I)


def letter(text: str, number: int) -> int:
    """Place of the letter that an answer is, among `number`. Raises ValueError for prose and for other letters."""
    found = _LETTER.fullmatch(text)
    place = ascii_uppercase.find(found[1].upper()) if found else -1
    if not 0 <= place < number:
        raise ValueError("no letter of a reply")
    return place


def told(reply: dict[str, Any], chosen: int, number: int) -> list[float] | None:
    """Probability of each letter where the answer names the one at `chosen`; None without log-probabilities."""
    for token, alternatives in reply.get("logprobs", []):
        if token.strip(" *(").upper()[:1] == ascii_uppercase[chosen] and _LETTER.fullmatch(token):
            mass = [FLOOR] * number
            for text, p in alternatives:
                if p is not None and (m := _LETTER.fullmatch(text)) and (n := ascii_uppercase.find(m[1].upper())) < number:
                    mass[n] += math.exp(p)
            return [m / math.fsum(mass) for m in mass]
    return None


def log_odds(reply: dict[str, Any], one: str, other: str) -> float:
    """Log p of an answer that begins with the word `one` less that of `other`, in nats; 0.0 where neither is told."""
    mass = {one: FLOOR, other: FLOOR}
    for _, alternatives in reply.get("logprobs", [])[:1]:
        for text, p in alternatives:
            if p is not None and (word := text.strip(" *\"'.").lower()) in mass:
                mass[word] += math.exp(p)
    return math.log(mass[one] / mass[other])
