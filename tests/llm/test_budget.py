"""What replies cost: kept inside the budget of a run, and counted as it was paid."""

import asyncio

import pytest
from calls import PRICE, ROLE, run
from conftest import completion

from stages.core.cli import UserError
from stages.llm.settings import Price


def asks(n, only=None):
    """Calls side by side, or those of `only`: (metrics, calls made, USD paid)."""

    async def work(client):
        async with asyncio.TaskGroup() as group:
            for k in range(n) if only is None else only:
                group.create_task(client.ask(ROLE, [{"role": "user", "content": f"Hello {k}"}], k, str.strip))
        return client.ledger.metrics(), client.backend.budget.made, client.backend.budget.paid

    return work


@pytest.mark.slow
def test_cost_counts_cached_tokens_and_stays_what_was_paid(server):
    def reply(body):
        answer = completion("hello", body)
        answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
        return 200, answer

    server.reply = reply
    metrics, made, paid = run(server, asks(5), prices={"tiny": PRICE})
    each = (6 * 1000 + 4 * 100 + 3 * 2000) / 1e6
    sums = {"calls": 5, "prompt_tokens": 50, "cached_tokens": 20, "completion_tokens": 15, "cost_usd": round(5 * each, 6)}
    asked = {"asked": 5, "answered": 5, "failed": {}}
    assert metrics == {"all": sums, "user": {**sums, **asked, "outcomes": {"ok": 5}, "served": "tiny"}}
    assert made == 5 and paid == pytest.approx(5 * each)
    again, made, paid = run(server, asks(5), prices={"tiny": Price(prompt=1.0, completion=1.0)})  # the price changed since
    assert again == metrics and made == 0 and paid == 0


def test_what_the_server_does_not_tell_is_unknown_not_zero(server):
    metrics, *_ = run(server, asks(2), prices={"tiny": PRICE})
    assert metrics["all"]["cached_tokens"] is None and metrics["all"]["cost_usd"] is not None

    server.reply = lambda body: (200, {**completion("x", body), "usage": None})
    metrics, *_ = run(server, asks(3), prices={"tiny": PRICE})
    assert metrics["all"]["prompt_tokens"] is None and metrics["all"]["cost_usd"] is None
    metrics, *_ = run(server, asks(2))
    assert metrics["all"]["cost_usd"] is not None  # of the stored ones, as paid


def test_a_model_without_a_price_costs_an_unknown_sum(server):
    assert run(server, asks(1))[0]["all"]["cost_usd"] is None


def test_budget_of_calls_stops_before_the_limit_and_a_rerun_continues(server):
    for done in (7, 14, 20):
        if done < 20:
            with pytest.raises(UserError, match=r"budget_calls: 7 calls are made.*run again"):
                run(server, asks(20), llm={"budget_calls": 7})
        else:
            assert run(server, asks(20), llm={"budget_calls": 7})[1] == 6
        assert len(server.requests) == done  # and every answer under way at the stop was kept
    assert run(server, asks(20), llm={"budget_calls": 0})[1] == 0


def test_budget_in_usd_is_never_crossed_and_nearly_used(server):
    each = (7 * 1000 + 3 * 2000) / 1e6
    with pytest.raises(UserError, match="budget_usd"):
        run(server, asks(40), prices={"tiny": PRICE}, llm={"budget_usd": 10.5 * each})
    spent = len(server.requests)
    worst = (len("Hello 11") * 1000 + 20 * 2000) / 1e6
    assert spent * each <= 10.5 * each and spent * each > 10.5 * each - worst - each
    bought = [int(b["messages"][0]["content"].split()[1]) for b in server.requests]
    run(server, asks(40, bought), prices={"tiny": PRICE}, llm={"budget_usd": 0.0})  # what was bought is there


def test_a_budget_needs_a_price(server):
    with pytest.raises(UserError, match="scripted:tiny has no price"):
        run(server, asks(1), llm={"budget_usd": 1.0})
