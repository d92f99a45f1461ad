"""Assessment of a judge on the calibration items: accuracy, length bias, agreement with itself."""

import numpy as np

from stages.core.files import Record
from stages.core.statistics import interval, krippendorff_alpha, resampled_means, rounded
from stages.judging.calibration import BEST, KINDS
from stages.judging.settings import Calibrate


def comparisons(items: list[Record], scores: list[float | None]) -> dict[str, list[tuple[str, float]]]:
    """By context: (kind, 1 where the tailored reply is scored above that kind's, 0 below, 0.5 the same).

    A pair with an unscored reply is left out.
    """
    given = {(i["context"], i["kind"]): s for i, s in zip(items, scores, strict=True) if s is not None}
    found: dict[str, list[tuple[str, float]]] = {}
    for (context, kind), score in given.items():
        if kind != BEST and (best := given.get((context, BEST))) is not None:
            found.setdefault(context, []).append((kind, 1.0 if best > score else 0.5 if best == score else 0.0))
    return found


def accuracy(found: dict[str, list[tuple[str, float]]], p: Calibrate) -> Record:
    """Share of comparisons won, by kind too, with its 95 % interval by bootstrap over contexts."""
    if not found:
        return {"accuracy": None, "accuracy_ci": None, "accuracy_by_kind": {}, "comparisons": 0}
    won = np.array([sum(value for _, value in pairs) for pairs in found.values()])
    counts = np.array([float(len(pairs)) for pairs in found.values()])
    by_kind = {k: [value for pairs in found.values() for kind, value in pairs if kind == k] for k in KINDS[1:]}
    return {
        "accuracy": round(float(won.sum() / counts.sum()), 4),
        "accuracy_ci": interval(resampled_means(won, counts, p.resamples, p.seed), len(found)),
        "accuracy_by_kind": {k: round(float(np.mean(v)), 4) for k, v in by_kind.items() if v},
        "comparisons": int(counts.sum()),
    }


def length_bias(items: list[Record], scores: list[float | None]) -> Record:
    """Rank correlation of score and words within kinds, and mean score of the longer half minus that of the shorter half.

    None where no kind has two different scores (a judge that says the same to all has no bias either).
    """
    from scipy.stats import rankdata

    by_score, by_words, gaps = [np.zeros(0)], [np.zeros(0)], []
    for kind in KINDS:
        of_kind = [(s, i) for i, s in zip(items, scores, strict=True) if i["kind"] == kind and s is not None]
        score = np.array([s for s, _ in of_kind])
        words = np.array([len(i["reply"].split()) for _, i in of_kind])
        by_score.append(rankdata(score) - (len(score) + 1) / 2)
        by_words.append(rankdata(words) - (len(words) + 1) / 2)
        long = words > np.median(words) if of_kind else np.zeros(0, dtype=bool)
        if long.any() and not long.all():
            gaps.append(score[long].mean() - score[~long].mean())
    a, b = np.concatenate(by_score), np.concatenate(by_words)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return {
        "length_bias": round(float(a @ b) / spread, 4) if spread else None,
        "long_minus_short": round(float(np.mean(gaps)), 4) if gaps else None,
    }


def self_agreement(first: list[float | None], second: list[float | None]) -> float | None:
    """Krippendorff's alpha of two askings: 1 the same, 0 as by chance; None: all scores are the same."""
    alpha: float | None = rounded(krippendorff_alpha(np.array([first, second], dtype=float).T))
    return alpha


def failures(found: Record, p: Calibrate) -> list[str]:
    """Why a judge does not pass."""
    share, right, bias = found["n"] / (found["n"] + found["unscored"]), found["accuracy"], found["length_bias"] or 0.0
    tests = (
        (share >= p.min_scored, f"scored {share:.2f} of the replies, below {p.min_scored}"),
        (right is not None and right >= p.min_accuracy, f"accuracy {right}, below {p.min_accuracy}"),
        (abs(bias) <= p.max_length_bias, f"length bias {bias}, beyond {p.max_length_bias}"),
    )
    return [text for holds, text in tests if not holds]


def assessment(items: list[Record], first: list[Record], second: list[Record], p: Calibrate) -> Record:
    """All measures of one judge, from its two judgements of each item, and whether it passed."""
    scores = [r["score"] for r in first]
    masses = [r["mass"] for r in first if r["mass"] is not None]
    by_kind = {k: [s for i, s in zip(items, scores, strict=True) if i["kind"] == k and s is not None] for k in KINDS}
    found = {
        **accuracy(comparisons(items, scores), p),
        **length_bias(items, scores),
        "n": sum(s is not None for s in scores),
        "unscored": sum(s is None for s in scores),
        "from_logprobs": len(masses),
        "least_mass": min(masses, default=None),
        "means": {k: round(sum(v) / len(v), 4) if v else None for k, v in by_kind.items()},
        "self_agreement": self_agreement(scores, [r["score"] for r in second]),
    }
    failed = failures(found, p)
    return {**found, "passed": not failed, "failed": failed}
