"""A pool of persona texts that grows by self-generation and filtering (Self-Instruct, Wang et al. 2023)."""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stages.core import prompts
from stages.core.aio import bounded_gather
from stages.core.files import Record, seed_of
from stages.core.progress import Progress
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Role
from stages.personas import hygiene
from stages.personas.persona import facts, traits
from stages.personas.settings import FilterPersonas, Pool
from stages.text.encoder import Encode
from stages.text.ngrams import jaccard, words
from stages.text.sentences import ended

if TYPE_CHECKING:
    from stages.text.dedup import Kept

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_I_AM = re.compile(r"^(?:I(?: am|['’]m)\s+|(?=[a-z]))")  # traits that all begin so, or are bare words, make one list
REPEATED = 0.4  # Jaccard similarity of word 3-grams above which an item repeats another one of its list


@dataclass
class TextPool:
    """One pool as it grows: kept texts in order of arrival, their vectors, counts, and why it stopped growing."""

    name: str  # profiles or personalities
    settings: Pool
    prompt: prompts.Prompt
    texts: list[Record]
    imported: list[Record] = field(default_factory=list)
    kept: "Kept | None" = None
    generated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # texts, by reason
    dropped: Counter[str] = field(default_factory=Counter)  # items of generated texts, by reason
    noted: dict[str, list[str]] = field(default_factory=dict)  # imported texts by what generated ones are dropped for
    rounds: list[Record] = field(default_factory=list)
    stopped: str = ""

    def _filter(self, encode: Encode) -> "Kept":
        if self.kept is None:
            from stages.text.dedup import Kept

            vectors = encode([t["text"] for t in self.texts])
            self.kept = Kept(vectors.shape[1])
            self.kept.add(vectors)
        return self.kept

    def take_over(self, p: FilterPersonas, encode: Encode) -> None:
        """Keep the imported texts as they are, but for those that are in the pool word by word.

        Near-duplicates are dropped with `p.drop_similar_imports` alone. What a generated text would be dropped for is noted.
        """
        known = {t["text"].casefold() for t in self.texts}
        texts = [t["text"] for t in self.imported]
        own = [text for text in texts if text.casefold() not in known]
        self.rejected.update(["duplicate"] * (len(texts) - len(own)))
        vectors, kept = encode(own), self._filter(encode)
        new = set(kept.offer(vectors, self.settings.threshold))
        similar = [i for i in range(len(own)) if i not in new]
        if p.drop_similar_imports:
            self.rejected.update(["duplicate"] * len(similar))
        else:
            kept.add(vectors[similar])
        for i, text in enumerate(own):
            reasons = oddities(self.name, text, self.settings, p.language)
            for reason in ["similar", *reasons] if i not in new else reasons:
                self.noted.setdefault(reason, []).append(text)
            if i in new or not p.drop_similar_imports:
                self.texts.append({"text": text, "category": "imported"})

    def offer(self, texts: list[str], category: str, language: str, encode: Encode) -> int:
        """Keep those of `texts` that may be kept; returns how many. The others are counted by reason."""
        reasons = [unfit_text(self.name, text, language) for text in texts]
        self.rejected.update(reason for reason in reasons if reason)
        fit = [text for text, reason in zip(texts, reasons, strict=True) if not reason]
        new = self._filter(encode).offer(encode(fit), self.settings.threshold)
        self.rejected.update(["duplicate"] * (len(fit) - len(new)))
        self.texts += [{"text": fit[i], "category": category} for i in new]
        return len(new)

    def stop_reason(self, p: FilterPersonas) -> str:
        """Why no further round is run, or empty."""
        recent = [r["acceptance"] for r in self.rounds[-p.patience :]]
        if len(recent) == p.patience and max(recent) < p.min_acceptance:
            return "saturated"
        if len(self.texts) >= self.settings.target:
            return "target"
        return "max_rounds" if len(self.rounds) >= p.max_rounds else ""


def chat(pool: TextPool, examples: list[str], count: int) -> list[prompts.Message]:
    """Messages of one generator call for `count` texts: each example as an earlier answer."""
    ask = pool.prompt.part("ask")
    shown = [text for example in examples for text in (ask, example)]
    if count > 1:
        ask = pool.prompt.part("ask_many", count=str(count), items=str(pool.settings.items))
    return [*pool.prompt.messages(), *prompts.alternating([*shown, ask])]


def parse(kind: str, text: str, cut: bool) -> list[list[str]]:
    """Items of each text of a reply, one text a line; a reply cut by the token limit loses its last, broken item."""
    split = facts if kind == "profiles" else traits
    people = [split(_BULLET.sub("", line)) for line in text.strip().split("\n") if line.strip()]
    if cut and people:
        people[-1].pop()
    return people


def unfit_item(kind: str, item: str, settings: Pool) -> str:
    """Why an item cannot stand in a list of this kind, or empty."""
    if not words(item):
        return "empty"
    if len(item) > settings.item_chars:
        return "too_long"
    if kind == "profiles":
        return "trait_in_profile" if hygiene.trait_like(item) else ""
    return "fact_in_personality" if hygiene.fact_like(item) else ""


def unfit_text(kind: str, text: str, language: str) -> str:
    """Why a whole text cannot be of any persona, or empty."""
    if hygiene.contact(text):
        return "contact_details"
    if language == "en" and hygiene.foreign(text, prose=kind == "profiles"):
        return "language"
    return ""


def oddities(kind: str, text: str, settings: Pool, language: str) -> list[str]:
    """All that a generated text of the kind, or an item of it, would be dropped for."""
    items = facts(text) if kind == "profiles" else traits(text)
    number = {"too_few_items": len(items) < settings.min_items, "too_many_items": len(items) > settings.items}
    found = [unfit_text(kind, text, language), *(reason for reason, wrong in number.items() if wrong)]
    return [r for r in dict.fromkeys([*found, *(unfit_item(kind, item, settings) for item in items)]) if r]


def compose(kind: str, items: list[str], settings: Pool, dropped: Counter[str]) -> tuple[str, str]:
    """(text, reason it is rejected or empty) of one generated list; items that cannot stand are dropped and counted."""
    kept: list[str] = []
    for item in items:
        if len(kept) == settings.items:
            break
        reason = unfit_item(kind, item, settings)
        if not reason and any(words(item) == words(k) or jaccard(item, k) > REPEATED for k in kept):
            reason = "repeated"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(item)
    if len(kept) < settings.min_items:
        return "", "unparsable" if not items else "too_few_items"
    if kind == "profiles" or not all(_I_AM.match(item) for item in kept):
        return " ".join(item if item[-1] in ".!?" or ended(item) else item + "." for item in kept), ""
    names = [_I_AM.sub("", item).strip(" .,") for item in kept]
    return f"I am {', '.join(names[:-1])}, and {names[-1]}.", ""


async def _ask(
    pool: TextPool, p: FilterPersonas, client: Client, generator: Role, texts: list[str], where: tuple[object, ...]
) -> list[list[str]]:
    """Items of the texts of one generator call; its examples are drawn from `texts` by the call's own seed."""
    chosen = sorted(texts, key=lambda t: seed_of(*where, t))[: p.examples]
    try:
        answer = await client.ask(generator, chat(pool, chosen, p.per_call), seed_of(*where), str.strip)
    except CallFailed as e:
        pool.rejected[e.reason] += p.per_call
        return []
    return parse(pool.name, answer.text, answer.outcome == "truncated")[: p.per_call]


async def _round(pool: TextPool, p: FilterPersonas, client: Client, generator: Role, encode: Encode) -> int:
    """One round of calls; returns how many of the texts were kept."""
    number, texts = len(pool.rounds), [t["text"] for t in pool.texts]
    asks = [partial(_ask, pool, p, client, generator, texts, (p.seed, pool.name, number, call)) for call in range(p.calls)]
    replies = await bounded_gather(asks, p.calls)
    composed = [compose(pool.name, items, pool.settings, pool.dropped) for reply in replies for items in reply]
    pool.rejected.update(reason for _, reason in composed if reason)
    fit = [text for text, reason in composed if not reason]
    encode(fit)  # in one batch; below it is looked up, as the pool must end with exactly `target` texts
    accepted = surplus = 0
    for text in fit:
        if len(pool.texts) < pool.settings.target:
            accepted += pool.offer([text], "generated", p.language, encode)
        else:
            surplus += 1  # the pool was full: neither kept nor rejected, so not counted
    asked = p.calls * p.per_call - surplus
    pool.generated += asked
    pool.rounds.append({"round": number + 1, "pool": len(pool.texts), "acceptance": round(accepted / asked, 4)})
    return accepted


async def grow(pool: TextPool, p: FilterPersonas, client: Client, generator: Role, encode: Encode) -> None:
    """Take over what is imported, then run rounds of generation until a stop is reached; `pool` is changed in place."""
    if pool.imported:
        pool.take_over(p, encode)

    def numbers() -> dict[str, float | None]:
        return {**client.ledger.numbers(), "acceptance": pool.rounds[-1]["acceptance"] if pool.rounds else None}

    with Progress(f"filter_personas: {pool.name}", pool.settings.target, numbers) as progress:
        progress.step(min(len(pool.texts), pool.settings.target))
        while not (reason := pool.stop_reason(p)):
            progress.step(await _round(pool, p, client, generator, encode))
    pool.stopped = reason
