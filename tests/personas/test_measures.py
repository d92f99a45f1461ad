"""Measures and plots of grown pools."""

from collections import Counter

import pytest
from fakes import encode, prompt

from stages.personas.measures import measures, plots
from stages.personas.pool import TextPool
from stages.personas.settings import Pool


def pool(name):
    origins = ["work", "care", "imported", "generated", "generated"]
    texts = [{"text": f"I own {name} {n}. I nap.", "category": origin} for n, origin in enumerate(origins)]
    grown = TextPool(name, Pool(target=5, threshold=0.8, min_items=1, items=8, item_chars=40), prompt("profile"), texts)
    grown.imported = [{"text": "x", "category": ""}] * 2
    grown.generated, grown.stopped, grown.rejected = 8, "target", Counter(duplicate=7)
    grown.noted = {"similar": ["x"]}
    grown.rounds = [{"round": 1, "pool": 4, "acceptance": 0.25}, {"round": 2, "pool": 5, "acceptance": 0.5}]
    return grown


def test_measures_of_a_pool():
    found = measures(pool("profiles"), 2, encode)
    assert (found["seeds"], found["imported"], found["pool"], found["generated"]) == (2, 1, 5, 8)
    assert found["imported_noted"] == {"similar": {"count": 1, "texts": ["x"]}}
    assert found["acceptance"] == {"mean": 0.375, "1": 0.25, "2": 0.5} and found["stopped"] == "target"
    assert found["rejected_share"] == {"duplicate": 0.7}  # of the ten texts that were offered
    assert sum(found["generated_by_nearest_category"].values()) == 3 and 4 < found["effective_number"] <= 5


def test_plots_have_every_field_in_every_row():
    pools = [pool("profiles"), pool("personalities")]
    pools[1].rounds.pop()
    found = plots(pools, {"profiles": 2, "personalities": 2}, encode)
    assert set(found) == {"pool_growth", "nearest_cosine", "lengths", "persona_map"}
    for rows in found.values():
        assert len({tuple(row) for row in rows}) == 1, "DVC wants every field in every row"
    assert found["pool_growth"][0] == {
        "round": 0, "profiles": 3, "personalities": 3, "profiles accepted": None, "personalities accepted": None
    }  # fmt: skip
    assert [row["profiles"] for row in found["pool_growth"]] == [3, 4, 5]
    assert found["pool_growth"][2]["personalities"] == 4 and found["pool_growth"][2]["personalities accepted"] is None
    assert [sum(v is not None for k, v in row.items() if k != "x") for row in found["persona_map"]] == [1] * 10
    for name in ("nearest_cosine", "lengths"):
        assert sum(row["profiles"] for row in found[name]) == pytest.approx(1)
