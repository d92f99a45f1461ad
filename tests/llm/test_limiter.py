"""When calls go out: rate limits, a server that is down, and how many calls it gets at once."""

import asyncio
import threading
import time

import pytest
from calls import CHAT, ROLE, ask, run
from http_faults import raw

from stages.core.cli import UserError
from stages.llm.limiter import Limiter, Window
from stages.llm.settings import Limits


def test_requests_per_minute():
    window = Window(3)
    assert [window.delay(1, t) for t in (0.0, 1.0, 2.0)] == [0, 0, 0]
    assert window.delay(1, 10.0) == pytest.approx(50.0)
    assert window.delay(1, 60.5) == 0


def test_all_who_wait_for_a_place_hear_that_the_server_went_down():
    async def work():
        limiter = Limiter(Limits(concurrency=1))
        await limiter.enter(0)
        waiting = [asyncio.create_task(limiter.enter(0, lambda: True)) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(limiter.TRIP):
            limiter.fault(0)
        limiter.leave(False)
        return await asyncio.wait_for(asyncio.gather(*waiting), 1)

    assert asyncio.run(work()) == [None] * 3  # each is to ask another server


@pytest.mark.slow
def test_a_rate_limit_without_retry_after_is_waited_for(server):
    server.reply = lambda body: (429, {"error": {"message": "slow down"}}) if len(server.requests) <= 3 else "fine"
    assert run(server, ask).value == "fine" and len(server.requests) == 4


@pytest.mark.slow
def test_server_errors_are_retried_by_one_probe_at_a_time(server):
    start = time.monotonic()

    def reply(body):
        return (503, {"error": {"message": "down"}}) if time.monotonic() - start < 1.5 else "up"

    server.reply = reply

    async def many(client):
        return await asyncio.gather(*(client.ask(ROLE, CHAT, n, str.strip) for n in range(20)))

    assert [a.value for a in run(server, many)] == ["up"] * 20
    assert len(server.requests) < 45  # twenty calls that each retried alone would have made over a hundred


@pytest.mark.slow
def test_rate_limits_cut_the_concurrency_once_and_retry_after_is_kept(server):
    """Ten calls are refused together: the ten cuts are one, to eight calls at a time."""
    change, gate = threading.Condition(), threading.Event()
    refused, later = {}, []  # seed -> moment of the refusal; (seed, moment) of all that came after

    def reply(body):
        with change:
            first = len(refused) < 10
            if first:
                refused[body["seed"]] = time.monotonic()
            else:
                later.append((body["seed"], time.monotonic()))
            change.notify_all()
            # all ten are in flight before any of them is refused
            assert not first or change.wait_for(lambda: len(refused) == 10, 30)
        if first:
            return raw(429, b'{"error": {"message": "slow down"}}', Retry_After="1.2")
        assert gate.wait(30)
        return "fine"

    server.reply = reply
    seen = []

    def watch():
        with change:
            change.wait_for(lambda: len(later) >= 8, 30)
        time.sleep(0.5)  # room for a ninth to come, which must not
        seen.append(len(later))
        gate.set()

    watching = threading.Thread(target=watch)
    watching.start()

    async def many(client):
        return await asyncio.gather(*(client.ask(ROLE, CHAT, n, str.strip) for n in range(30)))

    answers = run(server, many, concurrency=10)
    watching.join()
    assert [a.value for a in answers] == ["fine"] * 30 and len(server.requests) == 40
    assert seen == [8]
    waited = [moment - refused[seed] for seed, moment in later if seed in refused]
    assert len(waited) == 10 and min(waited) > 1.1  # jitter alone would be at most half a second


def test_rate_limits_are_never_an_items_failure(server):
    """Where they outlast the deadline the run stops; no item is given up for them."""
    server.reply = lambda body: (429, {"error": {"message": "try again tomorrow"}})
    with pytest.raises(UserError, match=r"rate limit.*try again tomorrow"):
        run(server, ask, deadline_s=1.0)
