"""A server that refuses, misbehaves or is away: what is sent again, what has failed, what stops a run."""

import asyncio
import threading
import time

import pytest
from calls import CHAT, ROLE, ask, run
from conftest import Server
from http_faults import half, hang_up, raw

from stages.core.cli import UserError
from stages.llm import endpoint
from stages.llm.endpoint import CallFailed


@pytest.mark.parametrize("fault", [half, hang_up, (500, {"error": {"message": "x"}}), (502, {}), (529, {})])
def test_a_connection_or_server_that_fails_now_and_then_is_asked_again(server, fault):
    server.reply = lambda body: fault if len(server.requests) <= 2 else "fine"
    answer = run(server, ask)
    assert (answer.value, answer.sample) == ("fine", 0) and len(server.requests) == 3
    assert all(b == server.requests[0] for b in server.requests)


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(server):
    over = threading.Event()

    def reply(body):
        if len(server.requests) == 1:
            over.wait(30)
        return "fine"

    server.reply = reply
    assert run(server, ask, timeout_s=0.5).value == "fine" and len(server.requests) >= 2
    over.set()


@pytest.mark.slow
def test_a_server_that_restarts_is_waited_for(server):
    port, again = int(server.url.split(":")[2].split("/")[0]), []

    def restart():
        server.stop()
        time.sleep(0.7)
        again.append(Server(port))
        again[0].reply = lambda body: "after"

    restarting = threading.Thread(target=restart)

    def reply(body):
        n = len(server.requests)
        if n == 8:
            restarting.start()
        return hang_up if n >= 8 else "before"

    server.reply = reply

    async def many(client):
        return await asyncio.gather(*(client.ask(ROLE, CHAT, n, str.strip) for n in range(30)))

    values = [a.value for a in run(server, many)]
    assert values.count("before") == 7 and values.count("after") == 23
    assert len(again[0].requests) == 23
    again[0].stop()


def test_one_request_the_server_falls_over_does_not_stop_the_others(server):
    server.reply = lambda body: hang_up if body["seed"] == 3 else "fine"

    async def many(client):
        asked = (client.ask(ROLE, CHAT, n, str.strip) for n in range(10))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(server, many, deadline_s=1.0)
    assert isinstance(answers[3], CallFailed) and answers[3].reason == "deadline"
    assert [a.value for a in answers[:3] + answers[4:]] == ["fine"] * 9


@pytest.mark.parametrize(
    "answer",
    [raw(200, b'{"choices": ['), raw(200, b""),
     raw(200, b"<html>busy</html>", Content_Type="text/html"),
     raw(200, b"[]"), raw(200, b"null"), (200, {"object": "error"}),
     (200, {"choices": None}), (200, {"choices": [{}]}), (200, {"choices": [None]})],
)  # fmt: skip
def test_an_answer_that_is_no_completion_is_failed(server, answer):
    server.reply = lambda body: answer
    with pytest.raises(CallFailed) as e:
        run(server, ask)
    assert e.value.reason == "malformed" and len(server.requests) == 1
    server.reply = lambda body: "fine"
    assert run(server, ask).value == "fine"  # and nothing of it was stored


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_that_concern_every_call_stop_the_run_without_the_key(server, status, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    server.reply = lambda body: (status, {"error": {"message": "Incorrect API key provided: sk-very-secret"}})
    with pytest.raises(UserError) as e:
        run(server, ask, key_env="A_KEY")
    assert str(status) in str(e.value) and "Incorrect API key" in str(e.value) and "very-secret" not in str(e.value)
    assert len(server.requests) == 1


def test_quota_stops_the_run(server):
    server.reply = lambda body: (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    with pytest.raises(UserError, match="out of quota"):
        run(server, ask)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "status, error, reason",
    [
        (400, {"message": "bad schema"}, "status_400"),
        (422, {"message": "x"}, "status_422"),
        (400, {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192 tokens."},
         "context_overflow"),
        (400, {"code": 400, "type": "exceed_context_size_error", "message": "request (9 tokens) exceeds the context size"},
         "context_overflow"),
        (413, {"message": "prompt is longer than the context window"}, "context_overflow"),
    ],
)  # fmt: skip
def test_a_request_that_the_server_rejects_is_never_sent_again(server, status, error, reason):
    server.reply = lambda body: (status, {"error": error})
    with pytest.raises(CallFailed) as e:
        run(server, ask)
    assert e.value.reason == reason and error["message"] in e.value.raw and len(server.requests) == 1


def test_nothing_answers(server):
    server.stop()
    with pytest.raises(UserError, match="is not there"):
        run(server, ask, deadline_s=0.5)


def test_a_server_that_never_answered_is_not_waited_for_as_a_restart_is(server, monkeypatch):

    monkeypatch.setattr(endpoint, "ABSENT_S", 0.3)
    server.stop()
    with pytest.raises(UserError, match="is not there"):
        run(server, ask, deadline_s=600.0)
