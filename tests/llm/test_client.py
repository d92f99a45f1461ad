"""The client: which replies are used, which are drawn again, and jobs side by side."""

import asyncio
from functools import partial

import pytest
from calls import CHAT, ROLE, ask, changed, run, settings
from conftest import completion

from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.servers import Servers


def finished(finish, text="", **message):
    def answer(body):
        made = completion(text, body, finish)
        made["choices"][0]["message"].update(message)
        return 200, made

    return answer


@pytest.mark.parametrize(
    "bad, reason",
    [
        (finished("content_filter"), "filtered"),
        (finished("content_filter", "half a"), "filtered"),
        (finished("stop", refusal="I will not."), "refused"),
        (finished("stop", content=None, refusal="I will not."), "refused"),
        (finished("stop", " \n "), "empty"),
        (finished("stop", content=None), "empty"),
        (finished("length", "half a"), "truncated"),
    ],
)
def test_each_unusable_reply_has_its_name_and_is_drawn_again(server, bad, reason):
    server.reply = lambda body: bad(body) if len(server.requests) == 1 else "fine"

    async def one(client):
        return await ask(client), client.ledger.metrics()["user"]["outcomes"]

    answer, outcomes = run(server, one)
    assert (answer.value, answer.sample) == ("fine", 1) and outcomes == {reason: 1, "ok": 1}
    first, second = server.requests
    assert first["seed"] != second["seed"] and {**first, "seed": 0} == {**second, "seed": 0}
    server.reply = bad
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, CHAT, 8, str.strip))
    assert e.value.reason == reason and len(server.requests) == 5


def test_every_draw_has_its_own_seed_and_the_last_one_counts(server):
    server.reply = lambda body: "" if len(server.requests) < 3 else "good"
    answer = run(server, ask)
    assert answer.value == "good" and answer.sample == 2
    assert len({b["seed"] for b in server.requests}) == 3
    server.reply = lambda body: "unfit"

    def parse(text):
        raise ValueError("neither 1 nor 2")

    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, [*CHAT, *CHAT], 7, parse))
    assert (e.value.reason, e.value.raw) == ("unreadable", "neither 1 nor 2: unfit") and len(server.requests) == 6


def test_greedy_decoding_is_not_drawn_again_and_accepted_outcomes_are_used(server):
    server.reply = lambda body: ""
    greedy = changed(ROLE, temp=0.0)
    with pytest.raises(CallFailed):
        run(server, lambda c: c.ask(greedy, CHAT, 7, str.strip))
    assert len(server.requests) == 1
    answer = run(server, lambda c: c.ask(changed(greedy, accept=("ok", "empty")), CHAT, 7, str.strip))
    assert (answer.value, answer.outcome) == ("", "empty") and len(server.requests) == 1  # from the cache


class Nobody:
    """A backend without replies."""

    def __init__(self, **llm):
        self.servers = Servers(settings(llm=llm), {})


@pytest.mark.parametrize("batched, in_order, in_parallel", [([], 1, 4), (["user"], 10, 10)])
def test_jobs_of_a_batched_role_run_all_at_once_and_others_in_their_width(batched, in_order, in_parallel):
    running = 0

    async def job(n, peaks):
        nonlocal running
        running += 1
        peaks.append(running)
        await asyncio.sleep(0.001)
        running -= 1
        return n

    async def work():
        client = Client(Nobody(batch_roles=batched))
        for width, jobs_of in (
            (in_order, lambda jobs: client.in_order(ROLE, jobs)),
            (in_parallel, lambda jobs: client.in_parallel(jobs, roles=[ROLE])),
            (4, client.in_parallel),  # whose conversations wait for no batch
        ):
            peaks = []
            assert await jobs_of([partial(job, n, peaks) for n in range(10)]) == list(range(10))
            assert max(peaks) == width

    asyncio.run(work())
