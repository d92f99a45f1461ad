"""A conversation so far."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """One earlier turn as the user saw it: the fact it revealed, what it said and the reply."""

    fact: str
    said: str
    reply: str
