"""Servers that misbehave, disks that fill up and processes that are killed: nothing is lost, little is paid for twice."""

import asyncio
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial

import pytest
from conftest import ROOT, Done, Project, Server, complains, completion, reply_to
from test_llm import ASK, ROLE, run

from stages.core.cli import UserError
from stages.llm.endpoint import CallFailed

# --- whole runs of role-play, each in a process of its own -------------------------------------------------------------

PEOPLE, TURNS, TOGETHER = 8, 3, 2
CALLS = PEOPLE * TURNS * 6  # user, inducer, two replies, two verdicts
# one conversation waits for two replies and, of each turn before, for one verdict
IN_FLIGHT = TOGETHER * (TURNS + 1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def prepare(project):
    """A small role-play run."""
    project.set(roleplay__turns=TURNS, llm__conversations_in_flight=TOGETHER)
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    people = [
        {"profile": f"I own {n} boats. I live at sea.", "personality": "I am shy, loud, and kind."} for n in range(PEOPLE)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in people))


def start(project, **more):
    command = [sys.executable, "-m", *project.command("roleplay")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=project.folder, env=env, stderr=subprocess.PIPE, text=True, **more)


def finish(process):
    errors = process.communicate()[1]
    return Done(process.returncode, "", errors)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Bytes of the trees that the run grows when nothing goes wrong."""
    server = Server()
    project = Project(tmp_path_factory.mktemp("undisturbed"), server.url)
    prepare(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(project.folder))
        project.run("roleplay")
    server.stop()
    assert len(server.requests) == CALLS
    return (project.folder / "data/trees.jsonl").read_bytes()


def test_a_run_killed_twenty_times_ends_the_same_and_repeats_only_what_was_in_flight(undisturbed, project, server):
    draw = random.Random(20)
    moments = sorted(draw.sample(range(1, CALLS), 20))  # kill number k: once so many different requests came in
    delays = [draw.choice((0, 0, 0.002, 0.01)) for _ in moments]  # ... or shortly after, while replies are stored
    lock = threading.Lock()
    processes, killed = [], []
    arrived: dict[str, list[int]] = {}  # request -> numbers of the processes that made it
    made: dict[str, str] = {}  # reply -> request
    used, repeated_after_use = set(), []

    def answer(body, handler):
        number = int(handler.path.split("/")[1])  # of the process, by the URL it was given
        request, text = json.dumps(body, sort_keys=True), reply_to(body)
        said = " ".join(m["content"] for m in body["messages"])
        with lock:
            if request in used:
                repeated_after_use.append(text)
            arrived.setdefault(request, []).append(number)
            # a request that quotes a reply proves that the reply was had, so it must have been on disk
            used.update(r for t, r in made.items() if t in said)
            if len(text) > 1:  # verdicts are the same for everybody
                made.setdefault(text, request)
            kill = number == len(killed) < len(moments) and len(arrived) >= moments[number]
            if kill:
                killed.append(number)
            latency = draw.uniform(0, 0.02)
        if kill:
            time.sleep(delays[number])
            processes[number].kill()
        time.sleep(latency)
        raw(200, json.dumps(completion(text, body)).encode())(handler)

    server.reply = lambda body: partial(answer, body)
    prepare(project)
    while True:
        project.set(llm__endpoints__scripted__base_url=server.url.replace("v1", str(len(processes))))
        with lock:
            processes.append(start(project))
        done = finish(processes[-1])
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert len(processes) == 21
    assert (project.folder / "data/trees.jsonl").read_bytes() == undisturbed
    assert len(arrived) == CALLS
    assert not repeated_after_use
    assert all(len(numbers) == len(set(numbers)) for numbers in arrived.values())
    lost = Counter(number for numbers in arrived.values() for number in sorted(numbers)[:-1])
    assert max(lost.values()) <= IN_FLIGHT


def test_a_disk_that_fills_up_stops_the_run_with_one_line_and_the_next_goes_on(undisturbed, project, server):
    prepare(project)
    full = 300_000  # bytes that any file may have
    process = start(project, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (full, full)))
    complains(finish(process), "replies.sqlite", "could not be stored", "free disk space")
    before = len(server.requests)
    assert 10 < before < CALLS
    project.run("roleplay")
    assert (project.folder / "data/trees.jsonl").read_bytes() == undisturbed
    assert len(server.requests) <= CALLS + IN_FLIGHT


def test_a_key_that_expires_stops_the_run_with_one_line_and_the_next_goes_on(undisturbed, project, server):
    prepare(project)
    server.reply = lambda b: reply_to(b) if len(server.requests) < 60 else (401, {"error": {"message": "key expired"}})
    complains(finish(start(project)), "401", "key expired")
    refused = len(server.requests) - 59
    assert refused <= IN_FLIGHT
    server.reply = reply_to
    project.run("roleplay")
    assert (project.folder / "data/trees.jsonl").read_bytes() == undisturbed
    assert len(server.requests) <= CALLS + refused + IN_FLIGHT


# --- one client against a server that misbehaves -----------------------------------------------------------------------


def ask(client):
    return client.ask(ROLE, ASK, 7, str.strip)


def hang_up(handler):
    """Close the connection with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def raw(status, data, length=None, **headers):
    """An answer of exactly these bytes."""

    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": length or len(data), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def half(handler):
    raw(200, b'{"choices": [', length=1000)(handler)
    hang_up(handler)


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
        return await asyncio.gather(*(client.ask(ROLE, ASK, n, str.strip) for n in range(30)))

    values = [a.value for a in run(server, many)]
    assert values.count("before") == 7 and values.count("after") == 23
    assert len(again[0].requests) == 23
    again[0].stop()


def test_one_request_the_server_falls_over_does_not_stop_the_others(server):
    server.reply = lambda body: hang_up if body["seed"] == 3 else "fine"

    async def many(client):
        asked = (client.ask(ROLE, ASK, n, str.strip) for n in range(10))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(server, many, deadline_s=1.0)
    assert isinstance(answers[3], CallFailed) and answers[3].reason == "deadline"
    assert [a.value for a in answers[:3] + answers[4:]] == ["fine"] * 9


@pytest.mark.parametrize(
    "answer",
    [raw(200, b'{"choices": ['), raw(200, b""), raw(200, b"<html>busy</html>", Content_Type="text/html"),
     raw(200, b"[]"), raw(200, b"null"), (200, {"choices": None}), (200, {"choices": [{}]}), (200, {"choices": [None]})],
)  # fmt: skip
def test_an_answer_that_is_no_completion_is_failed(server, answer):
    server.reply = lambda body: answer
    with pytest.raises(CallFailed) as e:
        run(server, ask)
    assert e.value.reason == "malformed" and len(server.requests) == 1
    server.reply = lambda body: "fine"
    assert run(server, ask).value == "fine"  # and nothing of it was stored


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
        return await ask(client), client.metrics()["user"]["outcomes"]

    answer, outcomes = run(server, one)
    assert (answer.value, answer.sample) == ("fine", 1) and outcomes == {reason: 1, "ok": 1}
    first, second = server.requests
    assert first["seed"] != second["seed"] and {**first, "seed": 0} == {**second, "seed": 0}
    server.reply = bad
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, ASK, 8, str.strip))
    assert e.value.reason == reason and len(server.requests) == 5


@pytest.mark.parametrize(
    "status, error",
    [
        (400, {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192 tokens."}),
        (400, {"code": 400, "type": "exceed_context_size_error", "message": "request (9 tokens) exceeds the context size"}),
        (413, {"message": "prompt is longer than the context window"}),
    ],
)
def test_a_chat_too_long_for_the_model_is_failed_at_once(server, status, error):
    server.reply = lambda body: (status, {"error": error})
    with pytest.raises(CallFailed) as e:
        run(server, ask)
    assert e.value.reason == "context_overflow" and error["message"] in e.value.raw and len(server.requests) == 1


def test_tokens_that_were_not_counted_are_unknown(server):
    def reply(body):
        answer = completion("fine", body)
        if len(server.requests) == 1:
            del answer["usage"]
        elif len(server.requests) == 2:
            answer["usage"] = None
        return 200, answer

    server.reply = reply
    replies = [run(server, lambda c, n=n: c.ask(ROLE, ASK, n, str.strip)).reply for n in range(3)]
    assert [r["prompt_tokens"] for r in replies] == [None, None, 7]
    assert [r["completion_tokens"] for r in replies] == [None, None, 3]
    assert [r["cached_tokens"] for r in replies] == [None, None, None]


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
        return await asyncio.gather(*(client.ask(ROLE, ASK, n, str.strip) for n in range(30)))

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


# --- two processes, one cache ------------------------------------------------------------------------------------------

HOLDER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
async def main():
    with Cache(Path(sys.argv[1])) as cache:
        async def make():
            print("makes", flush=True)
            return {"text": await asyncio.to_thread(sys.stdin.readline)}
        print("asks", flush=True)
        print(await cache.once("k", make), flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["answered", "killed"])
def test_a_call_another_process_is_making_is_waited_for_and_made_again_only_if_that_process_dies(tmp_path, end):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "c"), str(ROOT)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert [first.stdout.readline(), first.stdout.readline()] == ["asks\n", "makes\n"]
    second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(30, second.kill)  # rather than wait for ever
    watchdog.start()
    assert second.stdout.readline() == "asks\n"
    time.sleep(0.5)  # room for it to make the call, which it must not while the first one lives
    if end == "killed":
        first.kill()
        assert second.stdout.readline() == "makes\n"
        assert "theirs" in second.communicate("theirs\n")[0]
    else:
        assert "'ours\\n'}, False" in first.communicate("ours\n")[0]
        assert second.communicate()[0] == "({'text': 'ours\\n'}, True)\n"
    first.communicate()
    watchdog.cancel()


CLOSER = """
import asyncio, sqlite3, sys, threading
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
folder = Path(sys.argv[1])
async def main(key):
    cache = Cache(folder)
    other = sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)
    async def make():
        other.execute("BEGIN IMMEDIATE")  # nobody else can store anything for a while
        threading.Timer(0.3, other.execute, ["COMMIT"]).start()
        return {"text": "x"}
    asks = asyncio.create_task(cache.once(key, make))
    while not other.in_transaction:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the reply is being stored
    asks.cancel()
    cache.close()
for key in "abcdef":
    asyncio.run(main(key))
with Cache(folder) as cache:
    print([cache.has(key) for key in "abcdef"])
"""


def test_a_reply_that_is_being_stored_when_the_run_ends_is_stored(tmp_path):
    command = [sys.executable, "-c", CLOSER, str(tmp_path / "c"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{[True] * 6}\n", "")
