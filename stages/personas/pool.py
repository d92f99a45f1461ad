"""A pool of persona texts that grows by self-generation and filtering."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

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
from stages.text.ngrams import overlap, words

if TYPE_CHECKING:
    from stages.text.dedup import Kept
    from stages.text.encoder import Vectors

    Encode = Callable[[list[str]], Vectors]

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


@dataclass
class Kind:
    """One pool as it grows: kept texts in order of arrival, their vectors, counts, and why it stopped growing."""

    name: str
    settings: Pool
    prompt: prompts.Prompt
    texts: list[Record]
    imported: list[Record] = field(default_factory=list)
    kept: "Kept | None" = None
    generated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # items, not texts
    rounds: list[Record] = field(default_factory=list)
    stopped: str = ""

    @property
    def split(self) -> Any:
        """Text -> items."""
        return facts if self.name == "profiles" else traits


def chat(kind: Kind, examples: list[str], count: int) -> list[prompts.Message]:
    """Messages of one generator call for `count` texts: each example as an earlier answer."""
    ask = {"role": "user", "content": kind.prompt.part("ask")}
    messages = kind.prompt.messages()
    for text in examples:
        messages += [ask, {"role": "assistant", "content": text}]
    if count > 1:
        many = kind.prompt.part("ask_many", count=str(count), items=str(kind.settings.items))
        ask = {"role": "user", "content": many}
    return [*messages, ask]


def parse(kind: Kind, text: str, cut: bool) -> list[list[str]]:
    """Items of each text of a reply, one text a line; a reply cut by the token limit loses its last, broken item."""
    people = [kind.split(_BULLET.sub("", line)) for line in text.strip().split("\n") if line.strip()]
    if cut and people:
        people[-1].pop()
    return people


def unfit(kind: str, item: str, settings: Pool) -> str:
    """Why an item cannot stand in a list of this kind, or empty."""
    if not words(item):
        return "empty"
    if len(item) > settings.item_chars:
        return "too_long"
    if kind == "profiles":
        return "trait_in_profile" if hygiene.trait_like(item) else ""
    return "fact_in_personality" if hygiene.fact_like(item) else ""


def compose(kind: str, items: list[str], settings: Pool, dropped: Counter[str]) -> tuple[str, str]:
    """(text, reason it is refused or empty) of one generated list; items that cannot stand are dropped and counted."""
    kept: list[str] = []
    for item in items:
        if len(kept) == settings.items:
            break
        reason = unfit(kind, item, settings)
        if not reason and any(words(item) == words(k) or overlap(item, k) > 0.4 for k in kept):
            reason = "repeated"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(item)
    if len(kept) < settings.min_items:
        return "", "unparsable" if not items else "too_few_items"
    if kind == "profiles":
        return " ".join(i if i[-1] in ".!?" else i + "." for i in kept), ""
    names = [i.removeprefix("I am ").strip(" .,") for i in kept]
    return f"I am {', '.join(names[:-1])}, and {names[-1]}.", ""


def refused(kind: str, text: str, language: str) -> str:
    """Why a whole text cannot be anybody's, or empty."""
    if hygiene.contact(text):
        return "contact_details"
    if language == "en" and hygiene.foreign(text, prose=kind == "profiles"):
        return "language"
    return ""


async def _ask(
    kind: Kind, p: FilterPersonas, client: Client, generator: Role, pool: list[str], where: tuple[object, ...]
) -> list[list[str]]:
    """One generator call; its examples are drawn from `pool` by the call's own seed."""
    chosen = sorted(pool, key=lambda t: seed_of(*where, t))[: p.examples]
    try:
        answer = await client.ask(generator, chat(kind, chosen, p.per_call), seed_of(*where), str.strip)
    except CallFailed as e:
        kind.rejected[e.reason] += p.per_call
        return []
    return parse(kind, answer.text, answer.outcome == "truncated")[: p.per_call]


def begin(kind: Kind, language: str, encode: "Encode") -> None:
    """Embed the seeds and take over what is imported and new."""
    from stages.text.dedup import Kept

    vectors = encode([t["text"] for t in kind.texts])
    kind.kept = Kept(vectors.shape[1])
    kind.kept.add(vectors)
    keep(kind, [t["text"] for t in kind.imported], "imported", language, encode)


def keep(kind: Kind, texts: list[str], category: str, language: str, encode: "Encode") -> int:
    """Keep those of `texts` that may be kept; returns how many. What is refused is counted with its reason."""
    assert kind.kept is not None
    reasons = [refused(kind.name, text, language) for text in texts]
    kind.rejected.update(reason for reason in reasons if reason)
    fit = [text for text, reason in zip(texts, reasons, strict=True) if not reason]
    new = kind.kept.offer(encode(fit), kind.settings.threshold)
    kind.rejected.update(["duplicate"] * (len(fit) - len(new)))
    kind.texts += [{"text": fit[i], "category": category} for i in new]
    return len(new)


async def grow(kind: Kind, p: FilterPersonas, client: Client, generator: Role, encode: "Encode") -> None:
    """Rounds of generation until a stop is reached; `kind` is changed in place."""
    if kind.imported:
        begin(kind, p.language, encode)
    poor = 0

    def numbers() -> dict[str, float | None]:
        return {**client.ledger.numbers(), "acceptance": kind.rounds[-1]["acceptance"] if kind.rounds else None}

    already = min(len(kind.texts), kind.settings.target)
    with Progress(f"filter_personas: {kind.name}", kind.settings.target, numbers, initial=already) as progress:
        while not kind.stopped:
            if len(kind.texts) >= kind.settings.target:
                kind.stopped = "target"
                break
            if len(kind.rounds) >= p.max_rounds:
                kind.stopped = "max_rounds"
                break
            number = len(kind.rounds)
            pool = [t["text"] for t in kind.texts]
            asks = [partial(_ask, kind, p, client, generator, pool, (p.seed, kind.name, number, c)) for c in range(p.calls)]
            replies = await bounded_gather(asks, p.calls)
            composed = [compose(kind.name, items, kind.settings, kind.dropped) for reply in replies for items in reply]
            kind.generated += p.calls * p.per_call
            kind.rejected.update(reason for _, reason in composed if reason)
            if kind.kept is None:
                begin(kind, p.language, encode)
            fit = [text for text, reason in composed if not reason]
            encode(fit)  # in one batch; below it is looked up, as the pool must end with exactly `target` texts
            accepted = 0
            surplus = 0
            for text in fit:
                if len(kind.texts) < kind.settings.target:
                    accepted += keep(kind, [text], "generated", p.language, encode)
                else:
                    surplus += 1
            kind.generated -= surplus  # asked for, but the pool was full: neither kept nor refused
            progress.step(accepted)
            share = accepted / (p.calls * p.per_call - surplus)
            kind.rounds.append({"round": number + 1, "pool": len(kind.texts), "acceptance": round(share, 4)})
            poor = poor + 1 if share < p.min_acceptance else 0
            if poor >= p.patience:
                kind.stopped = "saturated"
