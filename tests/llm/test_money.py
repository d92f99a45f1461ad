"""What replies cost: counted by role, kept inside a budget, never thrown away once they are under way."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, completion

from stages.core.aio import asking
from stages.core.cli import UserError
from stages.llm.cache import Cache
from stages.llm.client import Client
from stages.llm.settings import Embedded, Limits, Llm, Price, Role

ROLE = Role("user", "scripted:tiny", 0.5, 1.0, 0.0, 20)
PRICE = Price(prompt=1000.0, completion=2000.0, cached=100.0)  # USD per million tokens


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def chat(n: int) -> list[dict]:
    return [{"role": "user", "content": f"Hello {n}"}]


def run(server, work, prices=None, concurrency=4, **budget):
    async def inside():
        limits = Limits(base_url=server.url, concurrency=concurrency, deadline_s=20.0, prices=prices or {})
        async with Client(
            "test", Llm(conversations_in_flight=4, embedded=Embedded(), endpoints={"scripted": limits}, **budget), {}
        ) as client:
            return await work(client)

    return asking(inside())


def asks(n: int, role: Role = ROLE):
    async def work(client):
        async with asyncio.TaskGroup() as group:
            for k in range(n):
                group.create_task(client.ask(role, chat(k), k, str.strip))
        return client.metrics(), client.budget.made, client.budget.paid

    return work


def test_cost_counts_cached_tokens_and_stays_what_was_paid(server):
    def reply(body):
        answer = completion("hello", body)
        answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
        return 200, answer

    server.reply = reply
    metrics, made, paid = run(server, asks(5), {"tiny": PRICE})
    each = (6 * 1000 + 4 * 100 + 3 * 2000) / 1e6
    sums = {"calls": 5, "prompt_tokens": 50, "cached_tokens": 20, "completion_tokens": 15, "cost_usd": round(5 * each, 6)}
    assert metrics == {"all": sums, "user": {**sums, "outcomes": {"ok": 5}, "served": "tiny"}}
    assert made == 5 and paid == pytest.approx(5 * each)
    again, made, paid = run(server, asks(5), {"tiny": Price(prompt=1.0, completion=1.0)})  # the price changed since
    assert again == metrics and made == 0 and paid == 0


def test_what_the_server_does_not_tell_is_unknown_not_zero(server):
    metrics, *_ = run(server, asks(2), {"tiny": PRICE})
    assert metrics["all"]["cached_tokens"] is None and metrics["all"]["cost_usd"] is not None

    server.reply = lambda body: (200, {**completion("x", body), "usage": None})
    metrics, *_ = run(server, asks(3), {"tiny": PRICE})
    assert metrics["all"]["prompt_tokens"] is None and metrics["all"]["cost_usd"] is None
    metrics, *_ = run(server, asks(2))
    assert metrics["all"]["cost_usd"] is not None  # of the stored ones, as paid


def test_a_model_without_a_price_costs_an_unknown_sum(server):
    assert run(server, asks(1))[0]["all"]["cost_usd"] is None


def test_budget_of_calls_stops_before_the_limit_and_a_rerun_continues(server):
    for done in (7, 14, 20):
        if done < 20:
            with pytest.raises(UserError, match=r"budget_calls: 7 calls are made.*run again"):
                run(server, asks(20), budget_calls=7)
        else:
            assert run(server, asks(20), budget_calls=7)[1] == 6
        assert len(server.requests) == done  # and every answer under way at the stop was kept
    assert run(server, asks(20), budget_calls=0)[1] == 0


def test_budget_in_usd_is_never_crossed_and_nearly_used(server):
    each = (7 * 1000 + 3 * 2000) / 1e6
    with pytest.raises(UserError, match="budget_usd"):
        run(server, asks(40), {"tiny": PRICE}, budget_usd=10.5 * each)
    spent = len(server.requests)
    worst = (len("Hello 11") * 1000 + 20 * 2000) / 1e6
    assert spent * each <= 10.5 * each and spent * each > 10.5 * each - worst - each
    run(server, asks(spent), {"tiny": PRICE}, budget_usd=0.0)  # what was bought is there


def test_a_budget_needs_a_price(server):
    with pytest.raises(UserError, match="scripted:tiny has no price"):
        run(server, asks(1), budget_usd=1.0)


def test_an_error_loses_no_answer_under_way(server):
    first = threading.Event()

    def reply(body):
        if body["seed"] == 0:
            first.wait(5)
            return 401, {"error": {"message": "no"}}
        if body["seed"] == 1:
            first.set()
            time.sleep(0.5)  # still under way when the 401 ends the run
        return "paid"

    server.reply = reply
    with pytest.raises(UserError, match="401"):
        run(server, asks(2))
    server.reply = lambda body: "anew"
    run(server, asks(2))
    assert [b["seed"] for b in server.requests].count(1) == 1 and len(server.requests) == 3


SCRIPT = """
import asyncio, sys
from stages.common import errors, llm
from stages.llm.endpoint import Limits

ROLE = llm.Role("user", "scripted:tiny", 0.5, 1.0, 0.0, 20)

async def work():
    limits = Limits(base_url=sys.argv[1], concurrency=8)
    async with llm.Client("test", llm.Llm(conversations_in_flight=4, embedded=llm.Embedded(), endpoints={"scripted": limits}), {}) as client:
        chats = [[{"role": "user", "content": f"Hello {n}"}] for n in range(100)]
        await asyncio.gather(*(client.ask(ROLE, chat, n, str.strip) for n, chat in enumerate(chats)))

errors.run(lambda: llm.asking(work()))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_soon_and_keeps_what_is_paid(server, tmp_path, sent):
    begun = threading.Event()

    def reply(body):
        if len(server.requests) > 20:
            begun.set()
        time.sleep(0.3)
        return "paid"

    server.reply = reply
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, server.url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert begun.wait(30)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "run again to continue" in errors and "Traceback" not in errors
    with Cache(tmp_path / ".cache") as cache:
        kept = cache.db.execute("SELECT COUNT(*) FROM replies").fetchone()[0]
        assert cache.db.execute("SELECT COUNT(*) FROM claims").fetchone()[0] == 0
    assert len(server.requests) == kept  # every request that went out was waited for and stored


def replies(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "stages.tools.replies", *words], cwd=ROOT, capture_output=True, text=True,
        env={"DVC_ROOT": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_cache_is_seen_shared_and_pruned(server, tmp_path):
    run(server, asks(3), {"tiny": PRICE})
    shown = replies(tmp_path, "size").stdout
    assert "3 replies" in shown and "scripted:tiny" in shown and f"{3 * (7000 + 6000) / 1e6:.4f} USD" in shown
    file, other = tmp_path / "share.jsonl.gz", tmp_path / "other"
    assert "3 replies written" in replies(tmp_path, "export", str(file)).stdout
    assert "3 new replies" in replies(other, "import", str(file)).stdout
    assert "0 new replies" in replies(other, "import", str(file)).stdout
    replies(other, "export", str(tmp_path / "back.jsonl.gz"))
    assert (tmp_path / "back.jsonl.gz").read_bytes() == file.read_bytes()
    assert "0 replies dropped" in replies(tmp_path, "prune", "--days", "1").stdout
    assert "3 replies dropped" in replies(tmp_path, "prune", "--days", "0").stdout
    run(server, asks(3))
    assert len(server.requests) == 6


@pytest.mark.parametrize("content", [b"plain text", None])
def test_a_broken_export_is_named_and_changes_nothing(tmp_path, content):
    import gzip

    file = tmp_path / "bad.jsonl.gz"
    row = {"key": "k", "reply": json.dumps({"text": "x"}), "stage": "s", "role": "r", "model": "m", "created": 1.0,
           "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "cost_usd": 0.0}  # fmt: skip
    file.write_bytes(content or gzip.compress(json.dumps(row).encode() + b"\n{broken\n"))
    done = replies(tmp_path, "import", str(file))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{file}:{1 if content else 2}: not a row" in done.stderr
    assert "0 replies" in replies(tmp_path, "size").stdout
