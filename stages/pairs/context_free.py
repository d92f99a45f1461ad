"""Whether the label can be told without the conversation: a bag of words that sees the two replies alone.

A model trained on pairs that differ in style can lower its loss by style and learn nothing about the person.
"""

import re
from dataclasses import dataclass
from typing import Any

from stages.text.ngrams import sign_pairs, words

ALONE = 50  # up to so many trees each is left out by itself ...
FOLDS = 20  # ... above it so many parts of them
RESAMPLES = 2000
_MARK = re.compile(r"[^\w\s]")


def features(text: str) -> list[str]:
    """Words, of scripts without blanks single signs and pairs of them, and marks, which are style, too."""
    found = words(text)
    return found + sign_pairs(found) + _MARK.findall(text)


@dataclass(frozen=True)
class Replies:
    """The two replies of a pair, its tree, and the persona whose note the other reply had ("": none)."""

    tree: str
    chosen: str
    other: str
    of: str


def links(pairs: list[Replies]) -> dict[str, set[str]]:
    """For each tree the trees that a fit for it must not see: itself, and those that tell a reply of it from its label.

    A note that one tree's chosen replies fit is the misinformed note of another, where the same words mark the other reply;
    fitted on these, a classifier is wrong as surely as on itself it is right. So is one fitted on a reply that both have.
    """
    found: dict[str, set[str]] = {p.tree: {p.tree} for p in pairs}
    owners: dict[str, set[str]] = {}
    for p in pairs:
        for text in (p.chosen, p.other):
            owners.setdefault(text, set()).add(p.tree)
        if p.of in found:
            found[p.tree].add(p.of)
            found[p.of].add(p.tree)
    for trees in owners.values():
        for name in trees:
            found[name] |= trees
    return found


def context_free_predicts(pairs: list[Replies]) -> dict[str, Any] | None:
    """How often a logistic regression on the difference of the two replies' words, fitted on other trees (`links`), finds
    the chosen one; 0.5 is clean.

    Returns:
        accuracy, ci (95 %, bootstrap over trees), folds; None with fewer than two trees.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    from stages.core.statistics import interval, resampled_means

    linked = links(pairs)
    trees = sorted(linked)
    if len(trees) < 2:
        return None
    group = np.array([trees.index(p.tree) for p in pairs])
    read = TfidfVectorizer(analyzer=features, binary=True).fit([text for p in pairs for text in (p.chosen, p.other)])
    differences = read.transform([p.chosen for p in pairs]) - read.transform([p.other for p in pairs])
    folds = len(trees) if len(trees) <= ALONE else FOLDS
    right = np.zeros(len(pairs))
    for fold in range(folds):
        left = group % folds == fold
        unseen = set().union(*(linked[name] for name in trees[fold::folds]))
        fitted = ~np.isin(group, [i for i, name in enumerate(trees) if name in unseen])
        score = differences[left] @ _weights(differences[fitted])
        right[left] = np.where(score == 0, 0.5, score > 0)
    sums, counts = (np.bincount(group, w, len(trees)).astype(float) for w in (right, np.ones(len(pairs))))
    ci = interval(resampled_means(sums, counts, RESAMPLES, 0), len(trees))
    return {"accuracy": round(float(right.mean()), 4), "ci": ci, "folds": folds}


def _weights(differences: Any) -> Any:
    """Coefficients fitted on rows chosen - other; every second row is turned round, as a fit needs both labels."""
    import numpy as np
    from scipy.sparse import diags_array
    from sklearn.linear_model import LogisticRegression

    if differences.shape[0] < 2:
        return np.zeros(differences.shape[1])
    sign = np.resize([1.0, -1.0], differences.shape[0])
    fit = LogisticRegression(fit_intercept=False, C=10.0, solver="liblinear", random_state=0)
    return fit.fit(diags_array(sign) @ differences, sign).coef_[0]
