"""Filter personas: grow the pools by self-generation, keep what is new, pair profiles with personalities, split.

The paper's loop: examples from the current pool, a model writes more, a text is kept if its greatest cosine to everything
kept is at most the threshold; until the target size, until few new ones come, or until a round limit. Texts that are
imported pass the same rule before the first round. Then distinct profile x personality pairs, with no profile, no
personality and no near-duplicate of one in both train and eval.

Run: python -m stages.filter_personas (the arguments are in dvc.yaml)
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import diversity, hygiene, params, prompts
from stages.common.embed import EncoderParams
from stages.common.endpoint import SetAside
from stages.common.errors import UserError, parser, run
from stages.common.llm import EMBEDDED, Client, Llm, Role, asking, role, windowed
from stages.common.personas import Persona, facts, traits
from stages.common.progress import Progress
from stages.common.records import Record, digest, read_jsonl, seed_of, write_json, write_jsonl
from stages.common.turns import overlap, words
from stages.seed_personas import SeedPersonas, read

if TYPE_CHECKING:
    from stages.common.embed import Kept, Vectors

    Encode = Callable[[list[str]], Vectors]

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

    `import_profiles`, `import_personalities`: files of one's own texts, read as seeds are; an empty file for none.
    A round makes `calls` calls that show `examples` texts each and ask for `per_call` new ones. Saturation: an acceptance
    below `min_acceptance` for `patience` rounds. `train` personas; eval personas are all pairs of `eval_profiles` profiles
    and `eval_personalities` personalities that train has none of, nor anything with a cosine above `split_threshold` to one.
    `language`: en, or any.
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
    split_threshold: float
    language: str
    import_profiles: str
    import_personalities: str

    def __post_init__(self) -> None:
        params.require(
            (0 <= self.min_acceptance <= 1, f"min_acceptance: {self.min_acceptance} is outside [0, 1]"),
            (0 < self.split_threshold <= 1, f"split_threshold: {self.split_threshold} is outside (0, 1]"),
            (self.language in ("en", "any"), f"language: {self.language!r} is neither en nor any"),
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
    seed_personas: SeedPersonas
    roles: Roles
    encoder: EncoderParams
    llm: Llm


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
    except SetAside as e:
        kind.rejected[e.reason] += p.per_call
        return []
    return parse(kind, answer.text, answer.outcome == "truncated")[: p.per_call]


def begin(kind: Kind, language: str, encode: "Encode") -> None:
    """Embed the seeds and take over what is imported and new."""
    from stages.common.embed import Kept

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
        return {**client.numbers(), "acceptance": kind.rounds[-1]["acceptance"] if kind.rounds else None}

    with Progress(f"filter_personas: {kind.name}", kind.settings.target, numbers=numbers) as progress:
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


def measures(kind: Kind, seeds: int, encode: "Encode") -> Record:
    """What a grown pool is worth (diversity.py), what became of what was generated, and why it stopped."""
    texts = [t["text"] for t in kind.texts]
    rates = {str(r["round"]): float(r["acceptance"]) for r in kind.rounds}
    offered = max(1, kind.generated + len(kind.imported))
    return {
        "seeds": seeds,
        "imported": sum(t["category"] == "imported" for t in kind.texts),
        "pool": len(texts),
        "generated": kind.generated,
        "acceptance": {"mean": mean(list(rates.values())), **rates},
        "rejected": dict(sorted(kind.rejected.items())),
        "rejected_share": {k: round(v / offered, 4) for k, v in sorted(kind.rejected.items())},
        "items_dropped": dict(sorted(kind.dropped.items())),
        "stopped": kind.stopped,
        **diversity.measure(texts, encode(texts), seeds, [t["category"] for t in kind.texts[:seeds]]),
    }


def mean(values: list[float]) -> float | None:
    """Mean, None of nothing."""
    return round(sum(values) / len(values), 4) if values else None


def apart(rest: list[str], held: list[str], threshold: float, encode: "Encode") -> list[str]:
    """Those of `rest` that are no near-duplicate of anything in `held`."""
    if not rest or not held:
        return rest
    near = (encode(rest) @ encode(held).T).max(1)
    return [text for text, cosine in zip(rest, near, strict=True) if cosine <= threshold]


def ranked(profile: str, personalities: list[str], seed: int) -> list[str]:
    """Personalities in the order in which `profile` is paired with them."""
    return sorted(personalities, key=lambda t: digest(seed, profile, t))


def nearest(texts: list[str], others: list[str], encode: "Encode") -> float:
    """Greatest cosine between two sets of texts."""
    return round(float((encode(texts) @ encode(others).T).max()), 4)


def split(
    profiles: list[str], personalities: list[str], p: FilterPersonas, encode: "Encode"
) -> tuple[list[Persona], list[Persona]]:
    """Train and eval personas: distinct pairs that speak of one person, no profile and no personality (near) in both.

    Raises:
        UserError: the pools are too small for what is asked.
    """
    facts_order = sorted(profiles, key=lambda t: digest(p.seed, "split", t))
    traits_order = sorted(personalities, key=lambda t: digest(p.seed, "split", t))
    held, rest = facts_order[: p.eval_profiles], facts_order[p.eval_profiles :]
    held_traits, rest_traits = traits_order[: p.eval_personalities], traits_order[p.eval_personalities :]
    rest = apart(rest, held, p.split_threshold, encode)
    rest_traits = apart(rest_traits, held_traits, p.split_threshold, encode)
    # round k pairs every profile with its own k-th personality, so a larger `train` keeps all earlier pairs
    order = {t: ranked(t, [x for x in rest_traits if hygiene.agree(t, x)], p.seed) for t in rest}
    pairs = [Persona(t, order[t][k]) for k in range(len(rest_traits)) for t in rest if k < len(order[t])]
    evals = [Persona(t, s) for t in held for s in held_traits if hygiene.agree(t, s)]
    if len(pairs) < p.train or not evals:
        raise UserError(
            f"filter_personas: {len(profiles)} profiles and {len(personalities)} personalities give {len(evals)} eval pairs "
            f"and {len(pairs)} training pairs that share nothing with them and agree in their pronouns, fewer than "
            f"train = {p.train}; raise the pools' targets or lower train"
        )
    return pairs[: p.train], evals


def generator(p: Params) -> Role:
    """The role that invents texts."""
    stop = ("\n",) if p.filter_personas.per_call == 1 else ()
    return role(p.roles, "generator", stop=stop, accept=("ok", "truncated"))


async def work(p: Params, kinds: list[Kind], base: Path, encode: "Encode") -> dict[str, Any]:
    """Grow both pools; returns the calls' counts."""
    async with Client("filter_personas", p.llm, {EMBEDDED: base}, resamples=0) as client:
        for kind in kinds:
            await grow(kind, p.filter_personas, client, generator(p), encode)
        return client.metrics()


def plots(kinds: list[Kind], seeds: dict[str, int], encode: "Encode") -> dict[str, list[Record]]:
    """Rows for the plots: growth and acceptance by round, nearest cosines, lengths, and a map of each pool."""
    before = {k.name: seeds[k.name] + sum(t["category"] == "imported" for t in k.texts) for k in kinds}
    sizes = {k.name: [before[k.name], *(r["pool"] for r in k.rounds)] for k in kinds}
    rates = {k.name: [None, *(r["acceptance"] for r in k.rounds)] for k in kinds}
    growth = [
        {
            "round": n,
            **{k: v[min(n, len(v) - 1)] for k, v in sizes.items()},
            **{f"{k} accepted": v[n] if n < len(v) else None for k, v in rates.items()},
        }
        for n in range(max(map(len, sizes.values())))
    ]
    vectors = {k.name: encode([t["text"] for t in k.texts]) for k in kinds}
    lengths = {k.name: [len(words(t["text"])) for t in k.texts] for k in kinds}
    origins = ("seeds", "imported", "generated")
    blank = {f"{k.name} {origin}": None for k in kinds for origin in origins}  # DVC's plots want every field in every row
    places = []
    for k in kinds:
        for (x, y), text in zip(diversity.plane(vectors[k.name]).round(4).tolist(), k.texts, strict=True):
            origin = text["category"] if text["category"] in origins else "seeds"
            places.append({"x": x, **blank, f"{k.name} {origin}": y})
    bins = [round(-0.2 + 0.05 * i, 2) for i in range(25)]
    return {
        "pool_growth": growth,
        "nearest_cosine": diversity.histogram({k: diversity.nearest_cosines(v) for k, v in vectors.items()}, bins, "cosine"),
        "lengths": diversity.histogram(lengths, [float(10 * i) for i in range(26)], "words"),
        "persona_map": places,
    }


def main() -> None:
    drawn = ("pool_growth", "nearest_cosine", "lengths", "persona_map")
    a = parser(
        __doc__,
        ["seed-profiles", "seed-personalities", "import-profiles", "import-personalities",
         "profile-prompt", "personality-prompt", "base"],
        ["profiles", "personalities", "train", "eval", "metrics", *(d.replace("_", "-") for d in drawn)],
    ).parse_args()  # fmt: skip
    p = params.load("filter_personas", Params)
    f = p.filter_personas
    from stages.common.embed import Encoder

    encode = Encoder(p.encoder)
    kinds = [
        Kind("profiles", f.profiles, prompts.load(a.profile_prompt), read_jsonl(a.seed_profiles),
             read(a.import_profiles, p.seed_personas, least=0)),
        Kind("personalities", f.personalities, prompts.load(a.personality_prompt), read_jsonl(a.seed_personalities),
             read(a.import_personalities, p.seed_personas, least=0)),
    ]  # fmt: skip
    seeds = {k.name: len(k.texts) for k in kinds}
    calls = asking(work(p, kinds, a.base, encode))
    profiles, personalities = ([t["text"] for t in k.texts] for k in kinds)
    train, held = split(profiles, personalities, f, encode)
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
            "nearest_eval_to_train": {
                "profile": nearest([x.profile for x in held], [x.profile for x in train], encode),
                "personality": nearest([x.personality for x in held], [x.personality for x in train], encode),
            },
            **{k.name: measures(k, seeds[k.name], encode) for k in kinds},
        },
    )
    for name, rows in plots(kinds, seeds, encode).items():
        write_json(getattr(a, name), rows)


if __name__ == "__main__":
    run(main)
