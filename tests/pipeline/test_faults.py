"""Runs of role-play that are killed, run out of disk or lose their key: nothing is lost, little is paid for twice."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial

import pytest
from conftest import ROOT, Done, Project, Server, a_round, complains, completion, reply_to
from http_faults import raw

pytestmark = pytest.mark.slow

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


# Forks a process for each line it reads, (arguments, folder, largest file in bytes), and says its id and how it ended:
# 23 processes start here, and the imports of one take longer than what it does.
FORKER = """
import json, os, resource, sys
import aiohttp, openai, stages.llm.client, stages.roleplay
from stages.core import cli
from stages.llm import local
for line in sys.stdin:
    argv, folder, size, engine = json.loads(line)
    if not (pid := os.fork()):
        local.start = lambda *_, **__: local.Engine(engine, "policy", "key", None)
        os.chdir(folder)
        os.environ["DVC_ROOT"] = folder
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        sys.argv = argv
        cli.run(stages.roleplay.main)
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forker:
    """Runs role-play in one process after the other."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests/stand_ins")},
        )  # fmt: skip

    def start(self, project, *stage: str, largest: int = resource.RLIM_INFINITY) -> int:
        """The id of the process. `largest`: bytes that a file may have, as on a disk that is full."""
        self._folder, engine = project.folder, project.params.llm.endpoints.scripted.base_url
        line = [project.command(*(stage or ["roleplay"])), str(project.folder), largest, engine]
        print(json.dumps(line), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def finish(self) -> Done:
        """Wait for the process."""
        return Done(int(self._process.stdout.readline()), "", (self._folder / "stderr").read_text())

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def forker():
    made = Forker()
    yield made
    made.stop()


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


def test_a_run_killed_twenty_times_ends_the_same_and_repeats_only_what_was_in_flight(undisturbed, forker, project, server):
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
            os.kill(processes[number], signal.SIGKILL)
        time.sleep(latency)
        raw(200, json.dumps(completion(text, body)).encode())(handler)

    server.reply = lambda body: partial(answer, body)
    prepare(project)
    while True:
        project.set(llm__endpoints__scripted__base_url=server.url.replace("v1", str(len(processes))))
        with lock:
            processes.append(forker.start(project))
        done = forker.finish()
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


def test_a_disk_that_fills_up_stops_the_run_with_one_line_and_the_next_goes_on(undisturbed, forker, project, server):
    prepare(project)
    forker.start(project, largest=300_000)
    complains(forker.finish(), "replies.sqlite", "could not be stored", "free disk space")
    before = len(server.requests)
    assert 10 < before < CALLS
    project.run("roleplay")
    assert (project.folder / "data/trees.jsonl").read_bytes() == undisturbed
    assert len(server.requests) <= CALLS + IN_FLIGHT


def test_a_key_that_expires_stops_the_run_with_one_line_and_the_next_goes_on(undisturbed, forker, project, server):
    prepare(project)
    server.reply = lambda b: reply_to(b) if len(server.requests) < 60 else (401, {"error": {"message": "key expired"}})
    forker.start(project)
    complains(forker.finish(), "401", "key expired")
    refused = len(server.requests) - 59
    assert refused <= IN_FLIGHT
    server.reply = reply_to
    project.run("roleplay")
    assert (project.folder / "data/trees.jsonl").read_bytes() == undisturbed
    assert len(server.requests) <= CALLS + refused + IN_FLIGHT


def test_a_later_round_that_is_killed_goes_on_where_it_was(forker, project, server):
    prepare(project)
    (project.folder / "models/dpo").mkdir(parents=True)
    (project.folder / "models/dpo/model.safetensors").write_text("weights")
    project.set(rounds={"2": a_round(roleplay={"seed": 2})})

    def slowly(body):
        time.sleep(0.005)
        return reply_to(body)

    server.reply = slowly
    process = forker.start(project, "roleplay_round", "2")
    while len(server.requests) < CALLS // 2:
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert forker.finish().returncode == -9
    trees = project.folder / "data/rounds/2/trees.jsonl"
    assert not trees.exists()
    forker.start(project, "roleplay_round", "2")
    done = forker.finish()
    assert done.returncode == 0, done.stderr
    assert CALLS <= len(server.requests) <= CALLS + IN_FLIGHT
    assert Counter(body["model"] for body in server.requests)["policy"] >= PEOPLE * TURNS * 2
    resumed = trees.read_bytes()
    shutil.rmtree(project.folder / ".cache")
    forker.start(project, "roleplay_round", "2")
    assert forker.finish().returncode == 0
    assert trees.read_bytes() == resumed and len(server.requests) >= 2 * CALLS
