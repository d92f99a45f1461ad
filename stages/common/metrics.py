"""The measures of the evaluation, as pure functions of scores (paper section 4, METHOD: AL(k), IR, N-IR, N-R2).

Scores come as an array [cases, turns]; NaN is a reply without a score. Every mean leaves NaN out and is NaN over nothing.

Cases that share a profile are not independent, so intervals and p-values take the profile as the unit. They speak of other
profiles drawn like these, with the personalities, the judge and the trained models as they are.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FLAT = 1e-9  # a curve that spans less than this part of its height is flat: what is left is the noise of floating point
EXACT = 12  # up to so many clusters all sign flips are tried (4,096), above it they are drawn


def _mean(values: Array, axis: int) -> Array:
    """Mean of what is known along an axis, NaN where nothing is (numpy's nanmean says the same with a warning)."""
    known = ~np.isnan(values)
    counts, sums = known.sum(axis), np.where(known, values, 0.0).sum(axis)
    return np.asarray(np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0))


def alignment(scores: Array) -> Array:
    """AL(k): mean score over the cases at each turn. [..., cases, K] -> [..., K]."""
    return _mean(scores, -2)


def level(al: Array) -> Array:
    """Mean of AL(k) over the turns, so that a turn weighs the same however many cases reached it. [..., K] -> [...]."""
    return _mean(al, -1)


def slopes(values: Array) -> Array:
    """Slope of the least-squares line through (k, value) for many curves at once; NaN with fewer than two values.

    [..., K] -> [...], per turn.
    """
    known = ~np.isnan(values)
    k = np.where(known, np.arange(1.0, values.shape[-1] + 1), np.nan)
    dk = np.where(known, k - _mean(k, -1)[..., None], 0.0)
    dy = np.where(known, values - _mean(values, -1)[..., None], 0.0)
    square = (dk * dk).sum(-1)
    return np.asarray(np.divide((dk * dy).sum(-1), square, out=np.full(square.shape, np.nan), where=square > 0))


def improvement(al: Sequence[float | None] | Array) -> dict[str, float | None]:
    """Slope of AL over the turns, plain and normalised.

    Args:
        al: AL(1..K). Turns without a score (NaN or None) are left out of the fit.
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
    span = float(y.max() - y.min())
    if span <= FLAT * float(np.abs(y).max()):
        return {"ir": 0.0, "n_ir": None, "r2": None}
    dk, dy = k - k.mean(), (y - y.mean()) / span
    n_ir = float(dk @ dy / (dk @ dk))
    return {"ir": n_ir * span, "n_ir": n_ir, "r2": float((dk @ dy) ** 2 / ((dk @ dk) * (dy @ dy)))}


def area(al: Sequence[float | None] | Array) -> float | None:
    """Area under AL by the trapezoid rule over k = 1..K, divided by K - 1: a mean in which both end turns weigh half.

    A turn without a score is bridged by a straight line. None with fewer than two turns.
    """
    y = np.asarray(al, dtype=float)
    k = np.flatnonzero(~np.isnan(y))
    return float(np.trapezoid(y[k], k) / (k[-1] - k[0])) if len(k) > 1 else None


def trajectories(scores: Array) -> tuple[Array, Array]:
    """Mean and slope of every case over its turns, [cases] each."""
    return _mean(scores, -1), slopes(scores)


@lru_cache(maxsize=4)
def resamples(clusters: int, n: int, seed: int) -> Array:
    """How often each cluster is in each of `n` bootstrap resamples, [n, clusters], read-only: drawn with replacement."""
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=n).astype(float)
    drawn.setflags(write=False)
    return drawn


def resampled_alignment(scores: Array, clusters: Sequence[str], n: int, seed: int) -> Array:
    """AL(k) of every resample, [n, K]: clusters are drawn, each with all of its cases."""
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    known = ~np.isnan(scores)
    own = np.eye(len(names))[:, member]  # [clusters, cases]: sums by cluster first, as they are what a resample adds up
    sums, counts = own @ np.where(known, scores, 0.0), own @ known.astype(float)
    drawn = resamples(len(names), n, seed)
    # not `@`: on products as small as these the threads of BLAS cost more than they bring
    sums, counts = (np.einsum("ng,gk->nk", drawn, x) for x in (sums, counts))
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def interval(values: Array, clusters: int, digits: int = 4, percent: float = 95.0) -> list[Any]:
    """Expanded percentile interval over the first axis: [low, high] or a list of them; None where nothing is known.

    The plain percentiles of a bootstrap over few clusters are too narrow, by sqrt((n - 1) / n) and by the normal in place of
    Student's t; so the tail is taken at Phi(-sqrt(n / (n - 1)) t) (Hesterberg 2015, What Teachers Should Know about the
    Bootstrap). With 10 and 20 clusters it covers 94-97 % where the plain one covers 88-95 % (benchmarks/metrics.py).
    From one cluster no interval can be had.
    """
    from scipy.special import ndtr, stdtrit

    if values.ndim > 1:
        return [interval(values[:, i], clusters, digits, percent) for i in range(values.shape[1])]
    known = values[~np.isnan(values)]
    if clusters < 2 or not len(known):
        return [None, None]
    tail = 100 * ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, (1 - percent / 100) / 2))
    return [round(float(x), digits) for x in np.percentile(known, [tail, 100 - tail])]


def shared(*scores: Array) -> list[Array]:
    """The same arrays with NaN wherever any of them has NaN: what is compared is compared on the same replies' places."""
    missing = np.isnan(np.stack(scores)).any(0)
    return [np.where(missing, np.nan, s) for s in scores]


def estimate(
    measure: Callable[..., Array], scores: Sequence[Array], clusters: Sequence[str], n: int, seed: int, digits: int = 4
) -> tuple[Any, list[Any]]:
    """A measure of one or more AL curves, with its interval from resampling the clusters.

    Args:
        measure: takes AL curves [..., K], one for each of `scores`, and gives [...] (or [..., K]).
        scores: arrays [cases, K]; only cells that all of them have count.
        clusters: the profile of each case.
    Returns:
        (value, [low, high]), or lists of both by turn; None where not defined.
    """
    masked = shared(*scores)
    rows = np.flatnonzero(~np.isnan(masked[0]).all(1)).tolist()
    names = [clusters[i] for i in rows]
    value = measure(*(alignment(s[rows]) for s in masked))
    if not rows:
        return rounded(value, digits), interval(np.full((1, *np.shape(value)), np.nan), 0)
    drawn = measure(*(resampled_alignment(s[rows], names, n, seed) for s in masked))
    return rounded(value, digits), interval(drawn, len(set(names)), digits)


def rounded(values: Array | float, digits: int = 4) -> Any:
    """For JSON: rounded numbers, None for NaN."""
    if np.ndim(values):
        return [rounded(v, digits) for v in np.asarray(values)]
    return None if np.isnan(values) else round(float(values), digits)


def difference(a: Array, b: Array) -> Array:
    """Mean over the turns of curve `a` less that of curve `b`."""
    return level(a) - level(b)


def relative(a: Array, b: Array) -> Array:
    """The headline's relative improvement: (mean of a - mean of b) / mean of b; NaN where b's mean is not above 0."""
    under = level(b)
    return np.asarray(np.divide(difference(a, b), under, out=np.full(np.shape(under), np.nan), where=under > 0))


def share_of_gain(a: Array, base: Array, oracle: Array) -> Array:
    """(a - base) / (oracle - base) of the means over the turns: the part of the possible gain that was reached."""
    possible = difference(oracle, base)
    return np.asarray(np.divide(difference(a, base), possible, out=np.full(np.shape(possible), np.nan), where=possible != 0))


def gain_of_personalisation(right: Array, wrong: Array, base_right: Array, base_wrong: Array) -> Array:
    """Personalisation proper, AL(right persona) - AL(wrong persona), less that of base."""
    return difference(right, wrong) - difference(base_right, base_wrong)


def sign_flip(differences: Array, clusters: Sequence[str], n: int, seed: int) -> float | None:
    """Two-sided p-value of the mean over turns of paired differences [cases, K], by flipping signs cluster by cluster.

    All 2^G flips of G clusters up to EXACT of them, else `n` drawn ones, where the observed flip counts as one more (so p is
    never 0; Phipson & Smyth 2010). None where nothing is known. With G clusters no p can be below 2 / 2^G.
    """
    known = ~np.isnan(differences)
    turns = known.any(0)
    if not turns.any():
        return None
    # the mean over turns of the mean over cases is a sum of parts, one a case
    parts = (np.where(known, differences, 0.0)[:, turns] / known.sum(0)[turns]).sum(1) / turns.sum()
    rows = known.any(1)
    names, member = np.unique(np.asarray(clusters)[rows], return_inverse=True)
    parts = np.bincount(member, parts[rows], len(names))
    if len(names) <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(names))))
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, size=(n, len(names))) * 2.0 - 1.0
        signs = np.vstack([np.ones(len(names)), drawn])
    flipped = np.abs(signs @ parts)
    return float((flipped >= flipped[0] - 1e-12 * np.abs(parts).sum()).mean())


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of a family of p-values; None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[i] = highest
    return corrected


def agreement(ratings: Array) -> float | None:
    """Krippendorff's alpha with the interval metric between judges, [units, judges], NaN where one gave no score.

    1: they agree, 0: no more than by chance. None where no unit has two scores, or all scores are the same.
    """
    known = ~np.isnan(ratings)
    ratings = ratings[known.sum(1) > 1]  # a unit with one score can be compared with nothing
    known = ~np.isnan(ratings)
    n = int(known.sum())
    if not n:
        return None
    raters = known.sum(1)
    within = np.where(known, ratings - _mean(ratings, 1)[:, None], 0.0) ** 2
    between = np.where(known, ratings - ratings[known].mean(), 0.0) ** 2
    observed = 2 * (within.sum(1) * raters / (raters - 1)).sum() / n
    expected = 2 * between.sum() / (n - 1)
    return float(1 - observed / expected) if expected > 0 else None
