"""A server that refuses, misbehaves or is away: what is sent again, what has failed, what stops a run."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import pytest
from calls import CHAT, ROLE, ask, run
from conftest import Server
from http_faults import half, hang_up, raw

from stages.core.cli import UserError
from stages.llm import endpoint, replicas
from stages.llm.endpoint import CallFailed
from stages.llm.settings import Limits


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


@pytest.mark.slow
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
    [raw(200, b'{"choices": ['), raw(200, b""), raw(200, b"<html>busy</html>", Content_Type="text/html"),
     raw(200, b"[]"), raw(200, b"null"), raw(200, b"\xff\xfe"), (200, {"object": "error"}), (200, {"choices": None}),
     (200, {"choices": [{}]}), (200, {"choices": [None]}),
     (200, {"choices": ["x"]}), (200, {"choices": [{"message": "x"}]}), (200, {"choices": [{"message": {"content": 5}}]}),
     (200, {"choices": [{"message": {"content": {"text": "x"}}}]}),
     (200, {"choices": [{"message": {"content": [{"type": "image_url", "image_url": "x"}]}}]})],
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


@pytest.mark.parametrize(
    "status, error",
    [(429, {"message": "You exceeded your quota", "code": "insufficient_quota"}), (402, {"message": "Insufficient Balance"}),
     (402, {})],
)  # fmt: skip
def test_no_money_stops_the_run(server, status, error):
    server.reply = lambda body: (status, {"error": error})
    with pytest.raises(UserError, match="endpoint scripted: out of quota or balance"):
        run(server, ask)
    assert len(server.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("header", ["1", "0", "nan", None])
def test_a_throttle_that_is_worded_as_quota_is_waited_out(server, header):
    error = {"error": {"message": "You exceeded your current quota: 20 requests per minute", "code": "429"}}
    headers = {"Retry_After": header} if header else {}
    busy = raw(429, json.dumps(error).encode(), **headers)
    server.reply = lambda body: busy if len(server.requests) == 1 else "fine"
    assert run(server, ask).value == "fine" and len(server.requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize("header", ["0", "nan", "-1", "inf"])
def test_a_throttle_without_a_time_is_asked_less_and_less_often(server, header):
    server.reply = lambda body: raw(429, b'{"error": {"message": "slow down"}}', Retry_After=header)
    with pytest.raises(UserError, match="keeps to its rate limit: slow down"):
        run(server, ask, deadline_s=4.0)
    assert 3 <= len(server.requests) <= 8


@pytest.mark.parametrize("status", [408, 409, 425])
def test_a_conflict_or_a_time_out_of_the_server_is_asked_again(server, status):
    server.reply = lambda body: (status, {"error": {"message": "x"}}) if len(server.requests) <= 2 else "fine"
    assert run(server, ask).value == "fine" and len(server.requests) == 3


@pytest.mark.parametrize("code", [502, "503", 429])
def test_an_error_in_a_router_s_answer_is_asked_again_as_that_status(server, code):
    error = {"error": {"code": code, "message": "Provider returned error"}}
    server.reply = lambda body: (200, error) if len(server.requests) == 1 else "fine"
    assert run(server, ask).value == "fine" and len(server.requests) == 2


def test_a_router_s_answer_that_says_401_stops_the_run(server, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "secret")
    server.reply = lambda body: (200, {"error": {"code": 401, "message": "no such key"}})
    with pytest.raises(UserError, match="answers 401: no such key; is TOY_KEY right"):
        run(server, ask, key_env="TOY_KEY")


FLAGGED = (403, {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"flagged_input": "x"}}})
FORBIDDEN = (403, {"error": {"message": "Forbidden"}})


def asks(n):
    async def many(client):
        found = []
        for k in range(n):
            try:
                found.append((await client.ask(ROLE, CHAT, k, str.strip)).value)
            except CallFailed as e:
                found.append(e.reason)
        return found

    return many


@pytest.mark.parametrize("refused, reason", [(FLAGGED, "filtered"), (FORBIDDEN, "status_403")])
def test_a_403_for_one_input_is_that_input_s_own(server, refused, reason):
    server.reply = lambda body: refused if body["seed"] == 1 else "fine"
    assert run(server, asks(3)) == ["fine", reason, "fine"]
    if refused is FLAGGED:
        assert run(server, asks(3)) == ["fine", reason, "fine"]  # also where nothing else is asked any more


def test_a_403_for_every_input_stops_the_run_even_without_a_reason(server):
    server.reply = lambda body: FORBIDDEN if body["seed"] else "fine"
    with pytest.raises(UserError, match="answers 403: Forbidden"):
        run(server, asks(30))
    assert len(server.requests) == 1 + endpoint.FORBIDDEN_ROW


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "[::1]:8", "127.9.9.9", "0.0.0.0:8000", "a.localhost", "[::ffff:127.0.0.1]"]
)
def test_addresses_of_this_machine(host):
    assert replicas.loopback(f"http://{host}/v1")


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "http://10.0.0.1/v1", "http://127.0.0.1.example.org/v1", ""])
def test_addresses_of_others(url):
    assert not replicas.loopback(url)


def test_loopback_never_goes_through_a_proxy(server, monkeypatch):
    proxy = Server()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.models = ["tiny"]
    run(server, ask)
    assert len(server.requests) == 1 and not proxy.requests
    proxy.stop()


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
    with pytest.raises(UserError, match=r"is not there: .*; start it, or correct llm\.endpoints\.scripted\.base_url"):
        run(server, ask, deadline_s=0.5)


def test_a_server_that_takes_too_long_is_there(server):
    gate = threading.Event()
    server.reply = lambda body: gate.wait(5) and "late"
    with pytest.raises(UserError, match=r"takes longer than 0\.2 s: .*; raise llm\.endpoints\.scripted\.timeout_s"):
        run(server, ask, timeout_s=0.2, deadline_s=0.5)
    gate.set()


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "127.0.0.1/v1", ["http://a/v1", "b/v1"], "http://a:port/v1", "http:///v1"]
)
def test_an_address_without_a_scheme_or_a_host_or_with_a_bad_port_is_a_fault(url):
    with pytest.raises(ValueError, match=r"an address begins with http:// or https://|Port could not be cast"):
        Limits(base_url=url)


def test_a_server_without_an_address_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(endpoint, "ABSENT_S", 0.1)
    with pytest.raises(UserError, match=r"correct llm\.endpoints\.scripted\.base_url"):
        run(SimpleNamespace(url=""), ask, deadline_s=600.0)


def test_a_server_that_never_answered_is_not_waited_for_as_a_restart_is(server, monkeypatch):

    monkeypatch.setattr(endpoint, "ABSENT_S", 0.3)
    server.stop()
    with pytest.raises(UserError, match="is not there"):
        run(server, ask, deadline_s=600.0)
