"""Paid calls: each reply is paid for once, and none is lost that is under way when a run ends."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest
from calls import CHAT, ROLE, run
from conftest import ROOT

from stages.core.cli import UserError
from stages.llm.cache import Cache


def test_a_reply_is_asked_for_once(server):
    async def twice(client):
        first, second = await asyncio.gather(*(client.ask(ROLE, CHAT, 7, str.strip) for _ in range(2)))
        return first.text, second.text, client.ledger.calls, client.ledger.stored

    a, b, calls, stored = run(server, twice)
    assert a == b and (calls, stored) == (2, 1) and len(server.requests) == 1
    assert run(server, twice)[3] == 2 and len(server.requests) == 1


def asks(n):
    async def work(client):
        async with asyncio.TaskGroup() as group:
            for k in range(n):
                group.create_task(client.ask(ROLE, CHAT, k, str.strip))

    return work


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
sys.path.append("tests")
from calls import CHAT, ROLE, settings
from stages.core import aio, cli
from stages.llm.backend import PaidCalls
from stages.llm.client import Client

async def work():
    async with Client(PaidCalls("test", settings(sys.argv[1]), {})) as client:
        await asyncio.gather(*(client.ask(ROLE, CHAT, n, str.strip) for n in range(100)))

cli.run(lambda: aio.run_async(work()))
"""


@pytest.mark.slow
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
