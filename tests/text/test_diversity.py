"""Measures of pools and the rules of hygiene, on texts and vectors whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.personas import hygiene
from stages.text import diversity
from stages.text.dedup import Kept


def unit(rows):
    x = np.asarray(rows, dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_effective_number_counts_what_differs():
    axes = np.eye(8, dtype=np.float32)
    assert diversity.effective_number(axes[:5]) == pytest.approx(5, abs=0.01)
    assert diversity.effective_number(np.repeat(axes[:1], 9, 0)) == pytest.approx(1, abs=0.01)
    assert diversity.effective_number(np.repeat(axes[:3], 20, 0)) == pytest.approx(3, abs=0.01)


def test_nearest_cosine_leaves_the_text_itself_out():
    assert diversity.nearest_cosines(unit([[1, 0], [1, 0], [0, 1]])) == pytest.approx([1, 1, 0])


def test_distinct_n():
    assert diversity.distinct(["a b a b", "c"], 1) == 3 / 5
    assert diversity.distinct(["a b a b"], 2) == round(2 / 3, 4) and diversity.distinct(["a"], 3) == 0


def test_coverage_of_seed_categories():
    vectors = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.1, 0], [1, 0, 0.1]])
    found = diversity.measure(list("abcde"), vectors, 3, ["x", "y", "z"])
    assert found["categories_covered"] == round(1 / 3, 4)
    assert found["generated_by_nearest_category"] == {"x": 2, "y": 0, "z": 0}


def test_the_plane_is_the_same_whatever_the_sign_of_the_axes():
    x = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32)
    assert diversity.plane(x).shape == (30, 2) and diversity.plane(x[:1]).shape == (1, 2)
    assert np.allclose(diversity.plane(x), diversity.plane(x))
    assert np.var(diversity.plane(x)[:, 0]) >= np.var(diversity.plane(x)[:, 1])


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


@pytest.mark.parametrize(
    "text",
    ["Write to anna@example.org now.", "See https://x.org", "I am @anna_b", "Call +44 20 7946 0958.", "www.me.example"],
)
def test_contact_details_are_seen(text):
    assert hygiene.contact(text)


@pytest.mark.parametrize("text", ["I own 12 cows and 300 hens.", "I earn 1,200 a month.", "I was born in 1964.", "I @ home"])
def test_numbers_of_daily_life_are_none(text):
    assert not hygiene.contact(text)


def test_traits_and_facts_are_told_apart():
    assert hygiene.trait_like("I am kind.") and hygiene.trait_like("I'm very patient and loyal.")
    assert not hygiene.trait_like("I am a nurse.") and not hygiene.trait_like("I am forty-one and left school at twelve.")
    assert hygiene.fact_like("living in Rome") and hygiene.fact_like("42") and hygiene.fact_like("a good mother")
    assert not hygiene.fact_like("slow to trust") and not hygiene.fact_like("deaf to criticism")


def test_other_languages_are_seen():
    assert hygiene.foreign("Я живу в маленьком доме и пою по вечерам.")
    assert hygiene.foreign("Ich habe drei Hunde und wohne in einem kleinen Haus bei Bremen mit meinem Bruder zusammen.")
    assert not hygiene.foreign("I live in Łódź with my daughter Zoë and two cats, and I drive the number ten tram.")
    assert not hygiene.foreign(
        "I am shy, brave, dry-humoured, frugal, stubborn, gentle, loyal, vain, curious, and proud.", prose=False
    )


@pytest.mark.parametrize(
    "profile, personality, together",
    [
        ("I bake.", "I am shy.", True), ("He bakes.", "He is shy.", True), ("He bakes.", "She is shy.", False),
        ("I bake.", "He is shy.", False), ("She bakes.", "Shy, kind, and dry.", True),
        ("My wife bakes. She sings.", "I am shy.", True),
    ],
)  # fmt: skip
def test_pronouns(profile, personality, together):
    assert hygiene.agree(profile, personality) is together
