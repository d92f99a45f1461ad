"""The measures of the evaluation, as pure functions of scores (paper section 4, METHOD: AL(k), IR, N-IR, N-R2).

Scores come as an array [cases, turns]; NaN is a reply without a score. Every mean leaves NaN out and is NaN over nothing.

Cases that share a profile are not independent, so intervals and p-values take the profile as the unit. They speak of other
profiles drawn like these, with the personalities, the judge and the trained models as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.core.statistics import Array, complete_cases, interval, known_mean, resampled_means, rounded, sign_flip

FLAT = 1e-9  # a curve that spans less than this part of its height is flat: what is left is the noise of floating point


def alignment(scores: Array) -> Array:
    """AL(k): mean score over the cases at each turn. [..., cases, K] -> [..., K]."""
    return known_mean(scores, -2)


def level(al: Array) -> Array:
    """Mean of AL(k) over the turns, so that a turn weighs the same however many cases reached it. [..., K] -> [...]."""
    return known_mean(al, -1)


def slopes(values: Array) -> Array:
    """Slope of the least-squares line through (k, value) for many curves at once; NaN with fewer than two values.

    [..., K] -> [...], per turn.
    """
    known = ~np.isnan(values)
    k = np.where(known, np.arange(1.0, values.shape[-1] + 1), np.nan)
    dk = np.where(known, k - known_mean(k, -1)[..., None], 0.0)
    dy = np.where(known, values - known_mean(values, -1)[..., None], 0.0)
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
    return known_mean(scores, -1), slopes(scores)


def resampled_alignment(scores: Array, clusters: Sequence[str], n: int, seed: int) -> Array:
    """AL(k) of every resample, [n, K]: clusters are drawn, each with all of its cases."""
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    known = ~np.isnan(scores)
    own = np.eye(len(names))[:, member]  # [clusters, cases]: sums by cluster first, as they are what a resample adds up
    return resampled_means(own @ np.where(known, scores, 0.0), own @ known.astype(float), n, seed)


@dataclass(frozen=True)
class Inference:
    """Intervals and p-values over the profiles that the cases belong to."""

    clusters: Sequence[str]
    """Profile of each case, the rows of every array."""
    resamples: int
    seed: int

    def estimate(self, measure: Callable[..., Array], *scores: Array, digits: int = 4) -> tuple[Any, list[Any]]:
        """A measure of AL curves, with its interval by cluster bootstrap.

        Args:
            measure: takes AL curves [..., K], one for each of `scores`, and gives [...] (or [..., K]).
            scores: arrays [cases, K]; only cells that all of them have count.
        Returns:
            (value, [low, high]), or lists of both by turn; None where not defined.
        """
        paired = complete_cases(*scores)
        rows = np.flatnonzero(~np.isnan(paired[0]).all(1)).tolist()
        names = [self.clusters[i] for i in rows]
        value = rounded(measure(*(alignment(s[rows]) for s in paired)), digits)
        if not rows:
            return value, interval(np.full((1, *np.shape(value)), np.nan), 0)
        drawn = measure(*(resampled_alignment(s[rows], names, self.resamples, self.seed) for s in paired))
        return value, interval(drawn, len(set(names)), digits)

    def named(self, name: str, measure: Callable[..., Array], *scores: Array) -> dict[str, Any]:
        """The same as `estimate` under the keys `<name>` and `<name>_ci`."""
        return dict(zip((name, f"{name}_ci"), self.estimate(measure, *scores), strict=True))

    def p_value(self, differences: Array) -> float | None:
        """Two-sided p-value of paired differences [cases, K], by sign flips of whole profiles."""
        p: float | None = rounded(sign_flip(differences, self.clusters, self.resamples, self.seed), 6)
        return p


def curve(al: Array) -> Array:
    """AL(k) itself, as a measure. [..., K] -> [..., K]."""
    return al


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
