"""The greedy filter keeps what one by one keeps."""

import numpy as np
import pytest
from fakes import unit
from hypothesis import given
from hypothesis import strategies as st

from stages.text import diversity
from stages.text.dedup import Kept


def one_by_one(x, threshold):
    kept = []
    for i, v in enumerate(x):
        if not kept or float(np.max(x[kept] @ v)) <= threshold:
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_blocks_keep_what_one_by_one_keeps(threshold):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2000, 24)).astype(np.float32)
    copies = rng.integers(0, 1000, 700)
    x[1000:1700] = x[copies] + 0.35 * rng.standard_normal((700, 24)).astype(np.float32)
    x = unit(x)
    kept = one_by_one(x, threshold)
    assert 10 < len(kept) < 2000
    assert Kept(24).offer(x, threshold) == kept
    pool = Kept(24)  # the same when they come in parts
    parts = [pool.offer(x[a : a + 333], threshold) for a in range(0, 2000, 333)]
    assert [a * 333 + i for a, part in enumerate(parts) for i in part] == kept
    assert np.array_equal(pool.vectors, x[kept])


@pytest.mark.parametrize("planted", [0.0, 0.1, 0.3])
def test_duplicated_people_are_found_at_their_rate(planted):
    rng = np.random.default_rng(3)
    x = unit(rng.standard_normal((1000, 64)))
    copies = rng.permutation(np.arange(500, 1000))[: int(planted * 1000)]
    x[copies] = unit(x[rng.integers(0, 500, len(copies))] + 0.03 * rng.standard_normal((len(copies), 64)))
    assert 1 - len(Kept(64).offer(x, 0.8)) / 1000 == pytest.approx(planted, abs=0.02)
    assert (diversity.nearest_cosines(x)[copies] > 0.8).all()


@given(st.lists(st.sampled_from([[1, 0], [0.9, 0.4], [0.5, 0.9], [0, 1], [-1, 0.2]]), max_size=12))
def test_nothing_kept_is_near_anything_kept_before(rows):
    x = unit(rows) if rows else np.zeros((0, 2), dtype=np.float32)
    kept = Kept(2).offer(x, 0.8)
    for n, i in enumerate(kept):
        assert all(float(x[i] @ x[j]) <= 0.8 for j in kept[:n])
    for i in set(range(len(x))) - set(kept):
        assert any(float(x[i] @ x[j]) > 0.8 for j in kept if j < i)
