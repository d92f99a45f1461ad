"""The ledger: what is reported of a stage's calls."""

import json
from collections import Counter

import pytest
from calls import ROLE, changed

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
            ledger.settle(changed(ROLE, name=role))
        found.append(ledger.metrics())
        numbers = ledger.numbers()
        assert numbers.pop("calls_per_s") > 0
        assert numbers == {"calls": 3, "stored": 3 * stored, "failed": 0, "cost_usd": 0 if stored else 1.5}
    assert found[0] == found[1]
    user = {"calls": 2, "prompt_tokens": 14, "cached_tokens": 4, "completion_tokens": 6, "cost_usd": 1.0}
    asked = {"asked": 2, "answered": 2, "failed": {}}
    assert found[0]["user"] == {**user, **asked, "outcomes": {"ok": 2}, "served": "tiny"}
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


def test_recorded_failures_are_written_in_order(tmp_path):
    ledger, path = Ledger(), tmp_path / "failed.jsonl"
    for item in ("b", "a"):
        ledger.record_failure(item, "user", CallFailed("empty", f"raw {item}"))
    ledger.finish("roleplay", 0.1, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["item"] for r in rows] == ["a", "b"]
    assert rows[0] == {"item": "a", "role": "user", "reason": "empty", "raw": "raw a"}


@pytest.mark.parametrize(
    "failed, asked, share, stops",
    [(2, 20, 0.1, False), (3, 20, 0.1, True), (3, 30, 0.1, False), (4, 30, 0.1, True), (1, 8, 0.1, False), (2, 8, 0.1, True),
     (1, 1, 0.9, True), (5, 5, 1.0, False), (1, 100, 0.0, True), (0, 5, 0.0, False)],
)  # fmt: skip
def test_too_many_failed_calls_of_a_role_stop_the_stage(tmp_path, failed, asked, share, stops):
    ledger = Ledger()
    for n in range(asked):
        ledger.settle(ROLE, CallFailed("empty", f"raw\n{n}") if n < failed else None)
        ledger.settle(changed(ROLE, model="scripted:other"))  # whose calls hide nothing
        ledger.settle(changed(ROLE, name="judge"))
    assert ledger.numbers()["failed"] == failed
    assert ledger.metrics()["user"]["failed"] == ({"empty": failed} if failed else {})
    if not stops:
        return ledger.finish("roleplay", share)
    says = (
        rf"user \(scripted:tiny\): {failed} of {asked} calls failed, more than roleplay.max_failed_share \({share}\) allows"
    )
    with pytest.raises(UserError, match=rf"{says}: empty \({failed}\); see .*failed.jsonl; the first: raw$"):
        ledger.finish("roleplay", share, tmp_path / "failed.jsonl")
