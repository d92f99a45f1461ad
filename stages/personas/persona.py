"""Personas: a profile (facts of daily life) and a personality (traits), each a text that splits into items.

The items are what a conversation reveals one by one, so what a model could know at turn k is known exactly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from stages.core.cli import UserError
from stages.core.files import Record, digest, read_jsonl, seed_of
from stages.text.ngrams import foreign_letters
from stages.text.sentences import ended, sentences

_TRAITS = re.compile(r"^(?P<head>(?:I am|I['’]m|(?:He|She|They|You) (?:is|are)))\s+(?P<list>[^.]*,[^.]*?)\.?$", re.I)
_OTHER_HEADS = re.compile(
    r"(?:我|他|她|(?:私|僕|俺|彼女|彼)は|(?:저|나|그|그녀)는\s+|(?:Я|Он|Она|أنا|هو|هي|אני|הוא|היא|मैं|Είμαι)\s+|"
    r"(?:Je suis|Ich bin|(?:Yo )?soy|(?:Eu )?sou|Sono|Ik ben|Jestem)\s+)",
    re.I,
)  # what every trait of a list is said of
_OTHER_COMMAS = re.compile(r"\s*[、，،؛,;]\s*")
_OTHER_AND = r"(?:а также|и|та|और|και|그리고|et|und|y|e|en|i|oraz)"
_OTHER_LINKS = re.compile(rf"^(?:以及|并且|而且|但是?|そして|また|それに|{_OTHER_AND}\s+)", re.I)
_OTHER_LAST = re.compile(rf"以及|\s+{_OTHER_AND}\s+", re.I)


def facts(profile: str) -> list[str]:
    """Sentences of a profile."""
    return sentences(profile)


def traits(personality: str) -> list[str]:
    """Traits of a personality, each as a sentence ("I am blunt."); its sentences where it is not a list of traits."""
    text = " ".join(personality.split())
    match = _TRAITS.match(text)
    if not match:
        return _other_traits(facts(text))
    names = [re.sub(r"^(and|or|but)\s+", "", t.strip()) for t in match["list"].split(",")]
    return [f"{match['head']} {name}." for name in names if name]


def _other_traits(found: list[str]) -> list[str]:
    """Traits of the one sentence of a personality that is a list in another language; `found` itself of all others."""
    if len(found) != 1:
        return found
    head = _OTHER_HEADS.match(found[0])
    if not head and not foreign_letters(found[0]):
        return found
    start = head[0] if head else ""
    text = found[0][len(start) :]
    mark = text[-1] if ended(text) else "。" if "、" in text or "，" in text else "."
    *names, last = _OTHER_COMMAS.split(text.removesuffix(mark))
    names = [_OTHER_LINKS.sub("", name) for name in [*names, *_OTHER_LAST.split(_OTHER_LINKS.sub("", last))] if name]
    if len(names) < 2 or (len(names) == 2 and "、" not in text):
        return found  # one trait, or two clauses
    return [(name if name.startswith(start.strip()) else start + name) + mark for name in names]


@dataclass(frozen=True)
class Persona:
    """One simulated person. `items` are the facts, then the traits."""

    profile: str
    personality: str

    @cached_property
    def id(self) -> str:
        """Stable name, from the texts alone: adding a persona renames no other."""
        return digest(self.profile, self.personality)[:12]

    @property
    def text(self) -> str:
        """The whole persona in one paragraph."""
        return f"{self.profile} {self.personality}"

    @cached_property
    def facts(self) -> int:
        """How many of the items, the first ones, are facts."""
        return len(facts(self.profile))

    @cached_property
    def items(self) -> list[str]:
        """All facts, then all traits."""
        return facts(self.profile) + traits(self.personality)

    def schedule(self, seed: int) -> list[int]:
        """Order in which the items are revealed: a draw of its own for each item, so more turns change nothing.

        Facts and traits alternate three to one while both last, as facts are what a reply can be made to fit.
        """
        return list(_schedule(self, seed))

    def agenda(self, seed: int, turn: int) -> list[int]:
        """Items that a natural user may touch on at `turn`, counted from 1: the next 0, 1 or 2 of the schedule, as drawn."""
        sizes = [(0, 1, 1, 2)[seed_of(seed, self.id, "agenda", t) % 4] for t in range(1, turn + 1)]
        return self.schedule(seed)[sum(sizes[:-1]) : sum(sizes)]

    def record(self) -> Record:
        """As written to files."""
        return {"id": self.id, "profile": self.profile, "personality": self.personality}


@lru_cache(maxsize=10000)  # an agenda asks for it at every turn
def _schedule(persona: Persona, seed: int) -> tuple[int, ...]:
    cut = persona.facts
    drawn = sorted(range(len(persona.items)), key=lambda i: seed_of(seed, persona.id, "reveal", i))
    queues = [[i for i in drawn if i < cut], [i for i in drawn if i >= cut]]
    order = []
    for turn in range(len(drawn)):
        first, second = (queues[1], queues[0]) if turn % 4 == 3 else queues
        order.append((first or second).pop(0))
    return tuple(order)


def strangers(personas: Sequence[Persona], seed: int) -> dict[str, Persona]:
    """For each persona, by id, another one with another profile and another personality; it lacks those that have none.

    Each is the next in one order drawn by `seed`, so nearly all serve once, and a new persona changes few.
    """
    ring = sorted(personas, key=lambda x: seed_of(seed, "stranger", x.id))
    found = {}
    for n, x in enumerate(ring):
        others = (y for y in (*ring[n + 1 :], *ring[:n]) if y.profile != x.profile and y.personality != x.personality)
        if other := next(others, None):
            found[x.id] = other
    return found


def read(path: Path) -> list[Persona]:
    """Personas of a file of `Persona.record`s.

    Raises:
        UserError: file:line of a row without the two texts; a file without rows.
    """
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        profile, personality = row.get("profile"), row.get("personality")
        if not isinstance(profile, str) or not isinstance(personality, str) or not facts(profile):
            raise UserError(f"{path}:{number}: a persona needs the texts `profile` and `personality`")
        found.append(Persona(profile, personality))
    if not found:
        raise UserError(f"{path}: holds no persona")
    return found
