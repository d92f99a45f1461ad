"""Scores on one grid of cases and turns, and the scale they are on."""

import numpy as np
import pytest
from scoring import ABSENT, made

from stages.core.cli import UserError
from stages.evaluation.scores import Scale


@pytest.mark.parametrize("scale", ["5", "5-1", "a-b", "1-inf", "nan-5"])
def test_a_bad_scale(scale):
    with pytest.raises(UserError, match=f"scale {scale}"):
        Scale.read(scale)


def test_the_grid_has_a_row_for_every_case_of_any_model():
    scores = made({
        "a": lambda c, k, _: 3.0 if c else ABSENT,
        "b": lambda c, k, _: None if k == 2 else 4.0,
    })  # fmt: skip
    a, b = scores.array("a", "judge"), scores.array("b", "judge")
    assert a.shape == b.shape == (6, 4) and len(scores.clusters) == 6 and scores.cases["a"] == {f"c{n}" for n in range(1, 6)}
    assert np.isnan(a[0]).all() and (a[1:] == 3).all() and np.isnan(b[:, 1]).all() and (b[:, [0, 2, 3]] == 4).all()


def test_a_consensus_needs_every_judge():
    scores = made({"a": lambda c, k, _: 2.0}, judges=("x", "y"))
    scores.scores["a", "y", "right"]["c0", 1] = 4.0
    scores.scores["a", "y", "right"]["c0", 2] = None
    both = scores.consensus("a", ["x", "y"])
    assert both[0, 0] == 3 and np.isnan(both[0, 1]) and both[0, 2] == 2
