"""Filter personas: grow the pools by self-generation, keep what is new, pair profiles with personalities, split.

The paper's loop: examples from the current pool, a model writes more, a text is kept if its greatest cosine to everything
kept is at most the threshold; until the target size, until few new ones come, or until a round limit. Then distinct
profile x personality pairs, with no profile and no personality in both train and eval.

Run: python -m stages.filter_personas (the arguments are in dvc.yaml)
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import params, prompts
from stages.common.embed import EncoderParams
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.personas import Persona, facts, traits
from stages.common.progress import Progress
from stages.common.records import Record, digest, read_jsonl, seed_of, write_json, write_jsonl
from stages.common.turns import overlap, words

if TYPE_CHECKING:
    from stages.common.embed import Encoder


_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


@dataclass
class Pool:
    """How one pool (profiles or personalities) grows.

    `target` texts in the pool; `threshold` greatest cosine to a kept one; `min_items` to `items` facts or traits in each
    text; `item_chars` longest of them.
    """

    target: int
    threshold: float
    min_items: int
    items: int
    item_chars: int

    def __post_init__(self) -> None:
        params.require(
            (0 < self.threshold <= 1, f"threshold: {self.threshold} is outside (0, 1]"),
            (self.target >= 1, f"target: {self.target} is not at least 1"),
            (1 <= self.min_items <= self.items, f"min_items: {self.min_items} is outside 1 to items = {self.items}"),
        )


@dataclass
class FilterPersonas:
    """Section `filter_personas`.

    A round makes `calls` calls that show `examples` texts each and ask for `per_call` new ones. Saturation: an acceptance
    below `min_acceptance` for `patience` rounds. `train` personas; eval personas are all pairs of `eval_profiles` profiles
    and `eval_personalities` personalities that train has none of.
    """

    seed: int
    profiles: Pool
    personalities: Pool
    examples: int
    per_call: int
    calls: int
    min_acceptance: float
    patience: int
    max_rounds: int
    train: int
    eval_profiles: int
    eval_personalities: int

    def __post_init__(self) -> None:
        params.require(
            (0 <= self.min_acceptance <= 1, f"min_acceptance: {self.min_acceptance} is outside [0, 1]"),
            *((getattr(self, k) >= 1, f"{k}: {getattr(self, k)} is not at least 1") for k in (
                "examples", "per_call", "calls", "patience", "train", "eval_profiles", "eval_personalities")),
        )  # fmt: skip


@dataclass
class Roles:
    """Keys of section `roles`."""

    generator_model: str
    generator_temp: float
    generator_top_p: float
    generator_penalty: float
    generator_tokens: int


@dataclass
class Params:
    """What this stage reads."""

    filter_personas: FilterPersonas
    roles: Roles
    encoder: EncoderParams
    llm: Llm


@dataclass
class Kind:
    """One pool as it grows: kept texts in order of arrival, counts, and why it stopped growing."""

    name: str
    settings: Pool
    prompt: prompts.Prompt
    texts: list[Record]
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # items, not texts
    rounds: list[Record] = field(default_factory=list)
    stopped: str = ""

    @property
    def split(self) -> Any:
        """Text -> items."""
        return facts if self.name == "profiles" else traits


def chat(kind: Kind, examples: list[str]) -> list[prompts.Message]:
    """Messages of one generator call: each example as an earlier answer."""
    ask = {"role": "user", "content": kind.prompt.part("ask")}
    messages = kind.prompt.messages()
    for text in examples:
        messages += [ask, {"role": "assistant", "content": text}]
    return [*messages, ask]


def parse(kind: Kind, text: str, cut: bool) -> list[list[str]]:
    """Items of each text of a reply, one text a line; a reply cut by the token limit loses its last, broken item."""
    people = [kind.split(_BULLET.sub("", line)) for line in text.strip().split("\n") if line.strip()]
    if cut and people:
        people[-1].pop()
    return people


def compose(kind: str, items: list[str], settings: Pool, dropped: Counter[str]) -> tuple[str, str]:
    """(text, reason it is refused or empty) of one generated list; items that cannot stand are dropped and counted."""
    kept: list[str] = []
    for item in items:
        if len(kept) == settings.items:
            break
        if len(item) > settings.item_chars or not words(item):
            dropped["too_long" if words(item) else "empty"] += 1
        elif any(words(item) == words(k) or overlap(item, k) > 0.4 for k in kept):
            dropped["repeated"] += 1
        else:
            kept.append(item)
    if len(kept) < settings.min_items:
        return "", "too_few_items"
    if kind == "profiles":
        return " ".join(i if i[-1] in ".!?" else i + "." for i in kept), ""
    names = [i.removeprefix("I am ").strip(" .,") for i in kept]
    return f"I am {', '.join(names[:-1])}, and {names[-1]}.", ""


async def _ask(
    kind: Kind, p: FilterPersonas, client: Client, generator: Role, pool: list[str], where: tuple[object, ...]
) -> list[list[str]]:
    """One generator call; its examples are drawn from `pool` by the call's own seed."""
    chosen = sorted(pool, key=lambda t: seed_of(*where, t))[: p.examples]
    try:
        answer = await client.ask(generator, chat(kind, chosen), seed_of(*where), str.strip)
    except SetAside as e:
        kind.rejected[e.reason] += p.per_call
        return []
    return parse(kind, answer.text, answer.outcome == "truncated")[: p.per_call]


async def grow(kind: Kind, p: FilterPersonas, client: Client, generator: Role, encode: "Encoder") -> None:
    """Rounds of generation until a stop is reached; `kind` is changed in place."""
    import numpy as np

    kept = encode([t["text"] for t in kind.texts])
    poor = 0
    with Progress(f"filter_personas: {kind.name}", kind.settings.target) as progress:
        progress.step(min(len(kind.texts), kind.settings.target))
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
            replies = await windowed(asks, p.calls)
            people = [person for reply in replies for person in reply]
            texts = []
            for items in people:
                text, reason = compose(kind.name, items, kind.settings, kind.dropped)
                if reason:
                    kind.rejected[reason] += 1
                else:
                    texts.append(text)
            accepted = 0
            for text, vector in zip(texts, encode(texts), strict=True):
                if float(np.max(kept @ vector)) > kind.settings.threshold:
                    kind.rejected["duplicate"] += 1
                elif len(kind.texts) < kind.settings.target:
                    kind.texts.append({"text": text, "category": "generated"})
                    kept = np.vstack([kept, vector])
                    accepted += 1
                    progress.step()
            share = accepted / (p.calls * p.per_call)
            kind.rounds.append({"round": number + 1, "pool": len(kind.texts), "acceptance": round(share, 4)})
            poor = poor + 1 if share < p.min_acceptance else 0
            if poor >= p.patience:
                kind.stopped = "saturated"


def split(profiles: list[str], personalities: list[str], p: FilterPersonas) -> tuple[list[Persona], list[Persona]]:
    """Train and eval personas: distinct pairs, no profile and no personality in both.

    Raises:
        UserError: the pools are too small for what is asked.
    """
    facts_order = sorted(profiles, key=lambda t: digest(p.seed, "split", t))
    traits_order = sorted(personalities, key=lambda t: digest(p.seed, "split", t))
    held, rest = facts_order[: p.eval_profiles], facts_order[p.eval_profiles :]
    held_traits, rest_traits = traits_order[: p.eval_personalities], traits_order[p.eval_personalities :]
    if len(rest) * len(rest_traits) < p.train:
        raise UserError(
            f"filter_personas: {len(profiles)} profiles and {len(personalities)} personalities give "
            f"{len(rest) * len(rest_traits)} training pairs beside the eval ones, fewer than train = {p.train}; "
            "raise the pools' targets or lower train"
        )
    # round k pairs every profile with its own k-th personality, so a larger `train` keeps all earlier pairs
    order = {t: sorted(rest_traits, key=lambda s: digest(p.seed, t, s)) for t in rest}
    pairs = [Persona(t, order[t][k]) for k in range(len(rest_traits)) for t in rest]
    return pairs[: p.train], [Persona(t, s) for t in held for s in held_traits]


async def work(p: Params, kinds: list[Kind], base: Path) -> dict[str, Any]:
    """Grow both pools; returns the calls' counts."""
    from stages.common.embed import Encoder

    encode = Encoder(p.encoder)
    stop = ("\n",) if p.filter_personas.per_call == 1 else ()
    generator = role(p.roles, "generator", stop=stop, accept=("ok", "truncated"))
    async with Client("filter_personas", p.llm, {EMBEDDED: base}, resamples=0) as client:
        for kind in kinds:
            await grow(kind, p.filter_personas, client, generator, encode)
        return client.metrics()


def main() -> None:
    a = parser(
        __doc__,
        ["seed-profiles", "seed-personalities", "profile-prompt", "personality-prompt", "base"],
        ["profiles", "personalities", "train", "eval", "metrics", "growth"],
    ).parse_args()
    p = params.load("filter_personas", Params)
    f = p.filter_personas
    kinds = [
        Kind("profiles", f.profiles, prompts.load(a.profile_prompt), read_jsonl(a.seed_profiles)),
        Kind("personalities", f.personalities, prompts.load(a.personality_prompt), read_jsonl(a.seed_personalities)),
    ]
    seeds = {k.name: len(k.texts) for k in kinds}
    calls = asking(work(p, kinds, a.base))
    profiles, personalities = ([t["text"] for t in k.texts] for k in kinds)
    train, held = split(profiles, personalities, f)
    for kind, path in zip(kinds, (a.profiles, a.personalities), strict=True):
        write_jsonl(path, kind.texts)
    write_jsonl(a.train, (x.record() for x in train))
    write_jsonl(a.eval, (x.record() for x in held))
    write_json(
        a.metrics,
        {
            "calls": calls,
            "train": len(train),
            "eval": len(held),
            **{
                k.name: {
                    "seeds": seeds[k.name],
                    "pool": len(k.texts),
                    "rejected": dict(sorted(k.rejected.items())),
                    "items_dropped": dict(sorted(k.dropped.items())),
                    "rounds": k.rounds,
                    "stopped": k.stopped,
                }
                for k in kinds
            },
        },
    )
    sizes = {k.name: [seeds[k.name], *(r["pool"] for r in k.rounds)] for k in kinds}
    rounds = range(max(map(len, sizes.values())))
    write_json(a.growth, [{"round": n, **{k: s[min(n, len(s) - 1)] for k, s in sizes.items()}} for n in rounds])


if __name__ == "__main__":
    run(main)
