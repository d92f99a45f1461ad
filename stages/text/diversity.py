"""How varied a pool of texts is: measures of the texts and of their embeddings (unit vectors), no model asked."""

from collections import Counter
from typing import Any

import numpy as np

from stages.text.encoder import Vectors
from stages.text.ngrams import ngrams, words

PERCENTILES = (5, 50, 95)


def distinct(texts: list[str], n: int) -> float:
    """distinct-n (Li et al. 2016): share of the word n-grams of all texts that are different ones."""
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return round(len(set(grams)) / len(grams), 4) if grams else 0.0


def effective_number(vectors: Vectors) -> float:
    """Vendi score (Friedman & Dieng 2023): exp of the entropy of the eigenvalues of the cosine matrix over n.

    n for texts that have nothing in common, 1 for copies of one: the effective number of clusters. [n, dim] unit rows.
    """
    # the cosine matrix X X' and the smaller X' X have the same eigenvalues but for zeros
    small = vectors.T @ vectors if len(vectors) > vectors.shape[1] else vectors @ vectors.T
    values = np.linalg.eigvalsh(small.astype(np.float64) / len(vectors))
    values = values[values > 1e-12]
    return round(float(np.exp(-(values * np.log(values)).sum())), 2)


def nearest_cosines(vectors: Vectors) -> Vectors:
    """Cosine of each row [n, dim] to its nearest other row, [n]; -1 for a single row."""
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for start in range(0, len(vectors), 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -1.0
        best[start : start + 1024] = cosines.max(1)
    return best


def spread(values: Any) -> dict[str, float]:
    """Mean and percentiles of a set of numbers."""
    marks = np.percentile(values, PERCENTILES)
    named = {f"p{p}": round(float(v), 4) for p, v in zip(PERCENTILES, marks, strict=True)}
    return {"mean": round(float(np.mean(values)), 4), **named}


def plane(vectors: Vectors) -> Vectors:
    """Two principal components of [n, dim] -> [n, 2]; signs fixed so that the same vectors give the same picture."""
    centred = vectors.astype(np.float64) - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(1)])[:, None]
    found = centred @ axes.T
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def measure(texts: list[str], vectors: Vectors, seeds: int, categories: list[str]) -> dict[str, Any]:
    """How varied a pool is.

    Args:
        texts: the pool; its first `seeds` texts are the seeds.
        vectors: their embeddings, [n, dim].
        categories: of the seeds.
    """
    near = vectors[seeds:] @ vectors[:seeds].T if seeds and len(texts) > seeds else np.zeros((0, 1))
    covered = Counter(categories[int(i)] for i in near.argmax(1)) if len(near) else Counter[str]()
    known = sorted(set(categories))
    cosines = nearest_cosines(vectors)
    return {
        "effective_number": effective_number(vectors),
        "nearest_cosine": {**spread(cosines), "max": round(float(cosines.max()), 4)},
        "distinct": {f"{n}": distinct(texts, n) for n in (1, 2, 3)},
        "words": spread([len(words(t)) for t in texts]),
        "categories_covered": round(len(covered) / len(known), 4) if known else None,
        "generated_by_nearest_category": {name: covered.get(name, 0) for name in known},
    }


def histogram(values: dict[str, Any], edges: list[float], name: str) -> list[dict[str, Any]]:
    """Rows for a bar chart: share of each set of `values` in each bin, `name` the lower edge."""
    shares = {k: np.histogram(v, edges)[0] / max(len(v), 1) for k, v in values.items()}
    return [{name: edges[i], **{k: round(float(s[i]), 4) for k, s in shares.items()}} for i in range(len(edges) - 1)]
