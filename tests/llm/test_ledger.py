"""The ledger: what is reported of a stage's calls."""

import json
from collections import Counter

import pytest

from stages.core.cli import UserError
from stages.llm.endpoint import CallFailed
from stages.llm.ledger import Ledger, listed


def reply(**values):
    return {"prompt_tokens": 7, "cached_tokens": 2, "completion_tokens": 3, "cost_usd": 0.5, **values}


def test_sums_by_role_and_of_all_are_the_same_whether_replies_were_stored_or_not():
    found = []
    for stored in (False, True):
        ledger = Ledger()
        for role in ("user", "user", "judge"):
            ledger.record(role, reply(), "ok", stored=stored, served="tiny")
        found.append(ledger.metrics())
        numbers = ledger.numbers()
        assert numbers.pop("calls_per_s") > 0
        assert numbers == {"calls": 3, "stored": 3 * stored, "failed": 0, "cost_usd": 0 if stored else 1.5}
    assert found[0] == found[1]
    user = {"calls": 2, "prompt_tokens": 14, "cached_tokens": 4, "completion_tokens": 6, "cost_usd": 1.0}
    assert found[0]["user"] == {**user, "outcomes": {"ok": 2}, "served": "tiny"}
    assert found[0]["all"] == {k: v / 2 * 3 for k, v in user.items()}


def test_a_sum_with_an_unknown_part_is_unknown():
    ledger = Ledger()
    ledger.record("user", reply(), "ok", stored=False, served="tiny")
    ledger.record("user", reply(cached_tokens=None, cost_usd=None), "ok", stored=False, served="tiny")
    metrics = ledger.metrics()
    assert metrics["all"]["cached_tokens"] is None and metrics["user"]["cost_usd"] is None
    assert metrics["all"]["prompt_tokens"] == 14 and ledger.numbers()["cost_usd"] == 0.5


def test_names_of_models_come_with_numbers_where_there_are_several():
    assert listed(Counter(one=3)) == "one" and listed(Counter(two=1, one=3)) == "one (3), two (1)"


def test_failed_calls_are_written_and_too_many_of_them_stop_the_stage(tmp_path):
    ledger, path = Ledger(), tmp_path / "failed.jsonl"
    for item in ("b", "a"):
        ledger.record_failure(item, "user", CallFailed("empty", f"raw {item}"))
    ledger.finish(path, 20, 0.1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["item"] for r in rows] == ["a", "b"]
    assert rows[0] == {"item": "a", "role": "user", "reason": "empty", "raw": "raw a"}
    with pytest.raises(UserError, match=r"2 of 19 items failed.*failed.jsonl; the first: b: empty: raw b"):
        ledger.finish(path, 19, 0.1)
    assert ledger.numbers()["failed"] == 2 and path.read_text().count("\n") == 2
