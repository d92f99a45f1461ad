"""The client: what is stored, what is asked again, what is set aside, what stops a run."""

import asyncio
import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, completion

from stages.core.aio import asking, windowed
from stages.core.cli import UserError
from stages.core.progress import Progress
from stages.llm.cache import Cache
from stages.llm.client import Client, outcome
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Embedded, Limits, Llm, Role

ROLE = Role("user", "scripted:tiny", 0.5, 1.0, 0.0, 20)
ASK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def settings(server, **limits):
    return Llm(
        conversations_in_flight=4,
        embedded=Embedded(),
        endpoints={"scripted": Limits(base_url=server.url, **{"deadline_s": 20.0, **limits})},
    )


def run(server, work, resamples=2, **limits):
    """Result of `await work(client)`."""

    async def inside():
        async with Client("test", settings(server, **limits), {}, resamples) as client:
            return await work(client)

    return asking(inside())


def test_a_reply_is_asked_for_once(server):
    async def twice(client):
        first, second = await asyncio.gather(*(client.ask(ROLE, ASK, 7, str.strip) for _ in range(2)))
        return first.text, second.text, client.calls, client.hits

    a, b, calls, hits = run(server, twice)
    assert a == b and (calls, hits) == (2, 1) and len(server.requests) == 1
    assert run(server, twice)[3] == 2 and len(server.requests) == 1


def test_key_is_all_that_changes_an_answer_and_nothing_else(server):
    from dataclasses import replace

    roles = [ROLE, replace(ROLE, temp=0.6), replace(ROLE, top_p=0.5), replace(ROLE, penalty=0.1), replace(ROLE, tokens=9),
             replace(ROLE, stop=("x",)), replace(ROLE, model="scripted:other")]  # fmt: skip

    async def all_of_them(client):
        for role in roles:
            await client.ask(role, ASK, 7, str.strip)
        await client.ask(ROLE, ASK, 8, str.strip)
        await client.ask(ROLE, [*ASK, *ASK], 7, str.strip)
        await client.ask(ROLE, ASK, 7, str.strip, schema={"type": "object"})

    run(server, all_of_them)
    assert len(server.requests) == len(roles) + 3
    run(server, all_of_them, concurrency=2, timeout_s=9.0, requests_per_minute=5)
    assert len(server.requests) == len(roles) + 3


@pytest.mark.parametrize(
    "reply, name",
    [
        ({"text": "x", "finish": "stop"}, "ok"),
        ({"text": " \n", "finish": "stop"}, "empty"),
        ({"text": "x", "finish": "length"}, "truncated"),
        ({"text": "", "finish": "content_filter"}, "filtered"),
        ({"text": "", "finish": "stop", "refusal": "no"}, "refused"),
    ],
)
def test_outcomes_have_names(reply, name):
    assert outcome(reply) == name


def test_unusable_replies_are_drawn_again_with_another_seed_and_then_failed(server):
    server.reply = lambda body: "" if len(server.requests) < 3 else "good"

    async def one(client):
        return await client.ask(ROLE, ASK, 7, str.strip)

    answer = run(server, one)
    assert answer.value == "good" and answer.sample == 2
    assert len({b["seed"] for b in server.requests}) == 3
    server.reply = lambda body: (200, completion("cut", body, finish="length"))
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, [*ASK, *ASK], 7, str.strip))
    assert e.value.reason == "truncated" and e.value.raw == "cut" and len(server.requests) == 6


def test_rate_limit_is_waited_for(server):
    def reply(body):
        return (429, {"error": {"message": "slow down"}}) if len(server.requests) <= 3 else "fine"

    server.reply = reply
    assert run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip)).value == "fine"
    assert len(server.requests) == 4


def test_server_errors_are_retried_by_one_probe_at_a_time(server):
    start = time.monotonic()

    def reply(body):
        return (503, {"error": {"message": "down"}}) if time.monotonic() - start < 1.5 else "up"

    server.reply = reply

    async def many(client):
        return await asyncio.gather(*(client.ask(ROLE, ASK, n, str.strip) for n in range(20)))

    assert [a.value for a in run(server, many)] == ["up"] * 20
    assert len(server.requests) < 45  # twenty calls that each retried alone would have made over a hundred


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_that_concern_every_call_stop_the_run_without_the_key(server, status, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    server.reply = lambda body: (status, {"error": {"message": "Incorrect API key provided: sk-very-secret"}})
    with pytest.raises(UserError) as e:
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip), key_env="A_KEY")
    assert str(status) in str(e.value) and "Incorrect API key" in str(e.value) and "very-secret" not in str(e.value)
    assert len(server.requests) == 1


def test_quota_stops_the_run(server):
    server.reply = lambda body: (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    with pytest.raises(UserError, match="out of quota"):
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "status, message, reason",
    [(400, "bad schema", "status_400"), (400, "context length is 10 tokens", "context_overflow"), (422, "x", "status_422")],
)  # fmt: skip
def test_a_request_the_server_rejects_is_never_sent_again(server, status, message, reason):
    server.reply = lambda body: (status, {"error": {"message": message}})
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip))
    assert e.value.reason == reason and message in e.value.raw and len(server.requests) == 1


def test_requests_per_minute():
    from stages.llm.endpoint import _Window

    window = _Window(3)
    assert [window.delay(1, t) for t in (0.0, 1.0, 2.0)] == [0, 0, 0]
    assert window.delay(1, 10.0) == pytest.approx(50.0)
    assert window.delay(1, 60.5) == 0


def test_window_keeps_the_order_and_the_bound():
    running = peak = 0

    async def job(n):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001 * (7 - n % 7))
        running -= 1
        return n

    from functools import partial

    assert asyncio.run(windowed([partial(job, n) for n in range(30)], 5)) == list(range(30))
    assert peak == 5


WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
async def main():
    with Cache(Path(sys.argv[1])) as cache:
        async def one(n):
            async def make():
                print(n, flush=True)
                await asyncio.sleep(0.01)
                return {"text": str(n)}
            return await cache.once(f"k{n}", make)
        for start in range(0, 200, 20):
            await asyncio.gather(*(one(n) for n in range(start, start + 20)))
asyncio.run(main())
"""


def start_writer(folder):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(ROOT)], stdout=subprocess.PIPE, text=True)


def test_progress_is_shown_while_a_job_takes_its_time():
    class Shown(Progress):
        def tick(self):
            ticked.set()

    async def job():
        await asyncio.wait_for(ticked.wait(), 30)

    async def work():
        nonlocal ticked
        ticked = asyncio.Event()
        await windowed([job], 1, Shown("x", 1))
        assert len(asyncio.all_tasks()) == 1 or all(t.cancelling() for t in asyncio.all_tasks() - {asyncio.current_task()})

    ticked: asyncio.Event
    asyncio.run(work())


def test_two_processes_never_make_the_same_call(tmp_path):
    writers = [start_writer(tmp_path / "c") for _ in range(2)]
    made = [line for w in writers for line in w.communicate()[0].split()]
    assert all(w.returncode == 0 for w in writers)
    assert sorted(map(int, made)) == list(range(200))


def test_a_killed_process_loses_the_calls_in_flight_and_blocks_nobody(tmp_path):
    writer = start_writer(tmp_path / "c")
    seen = []
    for line in writer.stdout:
        seen.append(int(line))
        if len(seen) == 90:
            writer.send_signal(signal.SIGKILL)
            break
    seen += [int(x) for x in writer.stdout.read().split()]
    writer.wait()
    with Cache(tmp_path / "c") as cache:
        kept = {n for n in range(200) if cache.has(f"k{n}")}
    again = start_writer(tmp_path / "c")
    made = {int(x) for x in again.communicate()[0].split()}
    assert again.returncode == 0 and made == set(range(200)) - kept
    assert len(set(seen) - kept) <= 20 and kept


def test_full_disk_is_one_clear_error_and_harms_nothing(tmp_path):
    async def work():
        with Cache(tmp_path / "c") as cache:

            async def make():
                return {"text": "x" * 100_000}

            assert (await cache.once("small", make))[1] is False
            pages = cache._write_db.execute("PRAGMA page_count").fetchone()[0]
            cache._write_db.execute(f"PRAGMA max_page_count={pages + 1}")
            with pytest.raises(UserError, match="could not be stored"):
                await cache.once("more", make)

    asyncio.run(work())
    with Cache(tmp_path / "c") as cache:
        assert cache.has("small") and not cache.has("more")


def test_a_file_that_is_no_cache(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/replies.sqlite").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(UserError, match="not a usable reply cache"):
        Cache(tmp_path / "c")


def test_nothing_answers(server):
    server.stop()
    with pytest.raises(UserError, match="is not there"):
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip), deadline_s=0.5)


def test_an_answer_without_choices_is_failed(server):
    server.reply = lambda body: (200, {"object": "error"})
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip))
    assert e.value.reason == "malformed"


def test_the_key_is_the_digest_of_model_and_request():
    from stages.core.files import digest
    from stages.llm.client import keyed

    body = {"messages": [{"role": "user", "content": 'é "quoted" \u2028'}], "seed": 3, "b": [1.5, None]}
    key, text = keyed('sha256:"é', body)
    assert key == digest('sha256:"é', body) and json.loads(text) == body


def test_a_server_that_never_answered_is_not_waited_for_as_a_restart_is(server, monkeypatch):
    from stages.llm import endpoint

    monkeypatch.setattr(endpoint, "ABSENT_S", 0.3)
    server.stop()
    with pytest.raises(UserError, match="is not there"):
        run(server, lambda c: c.ask(ROLE, ASK, 7, str.strip), deadline_s=600.0)
