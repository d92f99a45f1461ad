"""The measures of the evaluation, as pure functions of scores (paper section 4, METHOD: AL(k), IR, N-IR, N-R2).

Scores come as an array [cases, turns]; NaN is a reply without a score. Every mean leaves NaN out and is NaN over nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def alignment(scores: Array) -> Array:
    """AL(k): mean score over the cases at each turn. [..., cases, K] -> [..., K]."""
    known = ~np.isnan(scores)
    counts = known.sum(-2)
    sums = np.where(known, scores, 0.0).sum(-2)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def improvement(al: Sequence[float] | Array) -> dict[str, float | None]:
    """Slope of AL over the turns, plain and normalised.

    Args:
        al: AL(1..K). Turns without a score (NaN) are left out of the fit.
    Returns:
        ir: slope of the least-squares line through (k, AL(k)), in points a turn; n_ir: the same for
        N-AL(k) = (AL(k) - min) / (max - min); r2: of either fit (they are equal). None where not defined: fewer than two
        turns, and n_ir and r2 for a flat curve.
    """
    y = np.asarray(al, dtype=float)
    k = np.arange(1, len(y) + 1, dtype=float)
    known = ~np.isnan(y)
    y, k = y[known], k[known]
    if len(y) < 2:
        return {"ir": None, "n_ir": None, "r2": None}
    dk, dy = k - k.mean(), y - y.mean()
    ir = float(dk @ dy / (dk @ dk))
    span = float(y.max() - y.min())
    if span == 0.0:
        return {"ir": 0.0, "n_ir": None, "r2": None}
    return {"ir": ir, "n_ir": ir / span, "r2": float((dk @ dy) ** 2 / ((dk @ dk) * (dy @ dy)))}


def resamples(clusters: Sequence[str], n: int, seed: int) -> NDArray[np.int64]:
    """Case weights of `n` bootstrap resamples, [n, cases]: clusters drawn with replacement, all cases of each drawn.

    Cases that share a profile are not independent, so the cluster is the profile.
    """
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return np.asarray(drawn[:, member], dtype=np.int64)


def resampled_alignment(scores: Array, weights: NDArray[np.int64]) -> Array:
    """AL(k) of every resample, [n, K]."""
    known = ~np.isnan(scores)
    sums = weights @ np.where(known, scores, 0.0)
    counts = weights @ known.astype(float)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def interval(values: Array, level: float = 0.95) -> list[Any]:
    """Percentile interval over the first axis: [low, high] or a list of them; None where nothing is known."""
    tail = 100 * (1 - level) / 2
    if values.ndim == 1:
        known = values[~np.isnan(values)]
        return [round(float(x), 4) for x in np.percentile(known, [tail, 100 - tail])] if len(known) else [None, None]
    return [interval(values[:, i], level) for i in range(values.shape[1])]
