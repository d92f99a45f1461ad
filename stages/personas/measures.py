"""Measures and plots of grown pools."""

from statistics import fmean
from typing import Any

from stages.core.files import Record
from stages.personas.pool import TextPool
from stages.text import diversity
from stages.text.encoder import Encode, Vectors
from stages.text.ngrams import words

ORIGINS = ("seeds", "imported", "generated")
NAMED = 500  # most imported texts that are named of a reason
COSINES = [round(-0.2 + 0.05 * i, 2) for i in range(25)]  # lower edges of the bins of a plot
WORDS = [float(10 * i) for i in range(26)]


def measures(pool: TextPool, seeds: int, encode: Encode) -> Record:
    """Diversity of a grown pool, what became of the generated texts, and why it stopped. `seeds`: how many texts are."""
    texts = [t["text"] for t in pool.texts]
    rates = {str(r["round"]): float(r["acceptance"]) for r in pool.rounds}
    offered = max(1, pool.generated + len(pool.imported))
    noted = {reason: {"count": len(texts), "texts": texts[:NAMED]} for reason, texts in sorted(pool.noted.items())}
    rejected = dict(sorted(pool.rejected.items()))
    return {
        "seeds": seeds,
        "imported": sum(t["category"] == "imported" for t in pool.texts),
        **({"imported_noted": noted} if pool.imported else {}),
        "pool": len(texts),
        "generated": pool.generated,
        "acceptance": {"mean": round(fmean(rates.values()), 4) if rates else None, **rates},
        "rejected": rejected,
        "rejected_share": {reason: round(n / offered, 4) for reason, n in rejected.items()},
        "items_dropped": dict(sorted(pool.dropped.items())),
        "stopped": pool.stopped,
        **diversity.measure(texts, encode(texts), seeds, [t["category"] for t in pool.texts[:seeds]]),
    }


def growth(pools: list[TextPool], seeds: dict[str, int]) -> list[Record]:
    """Size and acceptance of each pool by round; round 0 is what the generation starts from."""
    rounds = 1 + max(len(pool.rounds) for pool in pools)
    columns: dict[str, list[Any]] = {}
    for pool in pools:
        start, rest = seeds[pool.name] + sum(t["category"] == "imported" for t in pool.texts), rounds - len(pool.rounds) - 1
        sizes = [start, *(r["pool"] for r in pool.rounds)]
        columns[pool.name] = sizes + sizes[-1:] * rest
        columns[f"{pool.name} accepted"] = [None, *(r["acceptance"] for r in pool.rounds), *[None] * rest]
    return [{"round": n, **{name: values[n] for name, values in columns.items()}} for n in range(rounds)]


def persona_map(pools: list[TextPool], vectors: dict[str, Vectors]) -> list[Record]:
    """Two principal components of every text, a column for each pool and origin."""
    blank = {f"{pool.name} {origin}": None for pool in pools for origin in ORIGINS}  # DVC's plots want every field in a row
    rows = []
    for pool in pools:
        for (x, y), text in zip(diversity.plane(vectors[pool.name]).round(4).tolist(), pool.texts, strict=True):
            origin = text["category"] if text["category"] in ORIGINS else "seeds"
            rows.append({"x": x, **blank, f"{pool.name} {origin}": y})
    return rows


def plots(pools: list[TextPool], seeds: dict[str, int], encode: Encode) -> dict[str, list[Record]]:
    """Rows of the plots by name. `seeds`: number of seeds of each pool."""
    vectors = {pool.name: encode([t["text"] for t in pool.texts]) for pool in pools}
    nearest = {name: diversity.nearest_cosines(v) for name, v in vectors.items()}
    lengths = {pool.name: [len(words(t["text"])) for t in pool.texts] for pool in pools}
    return {
        "pool_growth": growth(pools, seeds),
        "nearest_cosine": diversity.histogram(nearest, COSINES, "cosine"),
        "lengths": diversity.histogram(lengths, WORDS, "words"),
        "persona_map": persona_map(pools, vectors),
    }
