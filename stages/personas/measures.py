"""Measures and plots of a grown pool."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.core.files import Record
from stages.personas.pool import Kind
from stages.text import diversity
from stages.text.ngrams import words

if TYPE_CHECKING:
    from stages.text.encoder import Vectors

    Encode = Callable[[list[str]], Vectors]


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
