"""Ray: the same files and the same calls as locally, on two nodes, one of which dies."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, Done, Project, complains, reply_to
from omegaconf import OmegaConf
from pages import blocks, commands
from ray.util import get_node_ip_address
from repository import jsonl, repository

from stages.common import cluster, engine
from stages.common.cache import Cache
from stages.common.desk import Desk, Member
from stages.common.endpoint import Limits
from stages.common.errors import UserError
from stages.common.llm import Budget, Embedded, Llm

HERE = get_node_ip_address()  # a cluster is not found at 127.0.0.1: Ray puts this in its place
SECRET = "sk-planted-on-the-nodes-only"
PEOPLE = [
    {"profile": f"I mend boat {n}. I keep {n} hens. My knee {n} hurts.", "personality": "I am shy, blunt, and vain."}
    for n in range(8)
]
ARMS = {
    "remote": {"model": "scripted:tested", "weights": "base", "prompt": "assistant", "strategy": "reply", "memory": "all"}
}
FILES = [
    "data/trees.jsonl", "results/roleplay.json", "data/set_aside/roleplay.jsonl",
    "data/conversations/remote.jsonl", "results/converse/remote.json",
]  # fmt: skip


def filled(project: Project, **values) -> Project:
    for name in ("train", "eval"):
        jsonl(project.folder / f"data/personas/{name}.jsonl", PEOPLE)
    project.params.arms = ARMS
    project.set(roleplay__turns=2, converse__turns=3, **values)
    return project


def made(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def asked(server) -> Counter:
    return Counter(json.dumps(body, sort_keys=True) for body in server.requests)


def until(holds, seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def started(project: Project, *stage: str) -> subprocess.Popen:
    """A stage in a process of its own, as DVC runs it."""
    if not (project.folder / "stages").exists():  # Ray's processes look for the code where the driver was started
        (project.folder / "stages").symlink_to(ROOT / "stages")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *project.command(*stage)]
    return subprocess.Popen(
        words, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def process(project: Project, *stage: str) -> Done:
    """The same, to its end."""
    running = started(project, *stage)
    stdout, stderr = running.communicate()
    return Done(running.returncode, stdout, stderr)


def quiet(done: Done) -> None:
    """Nothing but the progress of the stage."""
    assert done.returncode == 0 and done.stdout == "", done
    assert all(re.match(r"(filter_personas|roleplay|converse|personas): ", line) for line in done.stderr.splitlines()), (
        done.stderr
    )


# --- the page -----------------------------------------------------------------------------------------------------------


def test_no_command_of_the_page_is_left_out():
    run = [*commands("cluster", "The nodes"), *commands("cluster", "The run")]
    assert commands("cluster") == ["python -m pip install 'ray[data]'", *run]  # the first: ours is from requirements.lock


@pytest.mark.slow
def test_the_page_gives_two_nodes_with_a_token_and_the_files_and_calls_of_a_local_run(tmp_path, server):
    (tmp_path / "local").mkdir()
    local = filled(Project(tmp_path / "local", server.url))
    local.run("roleplay")
    local.run("converse", "remote")
    needed = asked(server)
    server.requests.clear()
    server.keys.clear()

    with socket.create_server((HERE, 0)) as s:
        port = str(s.getsockname()[1])
    lines = [re.sub(r"10\.0\.0\.\d", HERE, line).replace("6379", port) for line in commands("cluster")[1:]]
    token, *exports, head, second, check, repro = lines
    (settings,) = (OmegaConf.create(b.replace("10.0.0.1:6379", f"{HERE}:{port}")) for b in blocks("cluster", "yaml"))
    folder = tmp_path / "shared"
    values = {f"llm__{name}": value for name, value in settings.items()}
    local.set(**values)
    local._run(shlex.split(check)[2:], check=True)
    project = repository(folder, server.url, "roleplay", "converse", llm__endpoints__scripted__key_env="SCRIPTED_KEY")
    filled(project, **values)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "RAY"))}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **dict(line.split()[1].split("=") for line in exports)}
    subprocess.run(token, shell=True, env=environment, check=True)

    of_nodes = {"SCRIPTED_KEY": SECRET, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"}

    def node(line: str, *more: str) -> subprocess.Popen:
        words = [*shlex.split(line), "--num-cpus", "1", "--object-store-memory", "80000000", *more]
        return subprocess.Popen(words, env=environment | of_nodes, cwd=tmp_path, stdout=subprocess.DEVNULL)

    def status(env: dict[str, str]) -> str:
        words = ["ray", "status", "--address", f"{HERE}:{port}"]
        return subprocess.run(words, env=env, capture_output=True, text=True).stdout

    logs = Path(tempfile.mkdtemp(dir="/tmp"))  # Ray puts sockets there, whose paths must be short
    nodes = [node(head, "--temp-dir", str(logs))]
    try:
        until(lambda: " CPU" in status(environment))
        nodes.append(node(second))
        until(lambda: "/2.0 CPU" in status(environment))
        assert " CPU" not in status({**environment, "RAY_AUTH_TOKEN": "0" * 64})
        subprocess.run(shlex.split(repro), cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    finally:
        for n in nodes[::-1]:
            n.send_signal(signal.SIGINT)  # Ctrl-C
            n.wait(60)
    assert made(folder) == made(local.folder)
    assert asked(server) == needed and set(needed.values()) == {1}
    assert server.keys == {f"Bearer {SECRET}"}  # which the driver never had
    looked = [f for f in (*folder.rglob("*"), *logs.rglob("*")) if f.is_file() and not f.is_symlink()]
    assert len(looked) > 100 and any(f.name == "raylet.out" for f in looked)
    assert not [f for f in looked if SECRET.encode() in f.read_bytes()]
    shutil.rmtree(logs)


# --- a node dies ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes on this machine, with room for two actors on each."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "node_ip_address": HERE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small)
    made.add_node(**small)
    yield made
    made.shutdown()


def actors(node) -> list[int]:
    """Processes of the conversations' actors on a node."""
    (raylet,) = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children()
    return [c.pid for c in children if "MapWorker" in " ".join(c.cmdline()) + c.name()]


def local_and_cluster(nodes, tmp_path, server) -> tuple[Project, Project, Counter]:
    """A project whose conversations are made, its like on the cluster whose are not, and the requests that they need."""
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
    local, project = (filled(Project(tmp_path / name, server.url)) for name in ("local", "cluster"))
    local.run("converse", "remote")
    needed = asked(server)
    server.requests.clear()
    project.set(llm__engine="ray", llm__ray__address=nodes.address)
    return local, project, needed


def slowly(body):
    """A server's reply that takes its time."""
    time.sleep(0.5)
    return reply_to(body)


@pytest.mark.slow
def test_a_node_that_dies_costs_the_calls_under_way_and_changes_no_byte(nodes, tmp_path, server):
    local, project, needed = local_and_cluster(nodes, tmp_path, server)

    dead, waiting = threading.Event(), []

    def reply(body):
        if len(server.requests) > len(needed) // 3 and not dead.is_set():
            waiting.append(json.dumps(body, sort_keys=True))
            dead.wait(60)
        return reply_to(body)

    server.reply = reply
    (second,) = nodes.worker_nodes

    def kill() -> None:
        until(lambda: len(waiting) == 2 * 4)  # each actor has its share of the endpoint's eight calls under way
        assert len(actors(second)) == len(actors(nodes.head_node)) == 1
        (talking,) = actors(second)
        nodes.remove_node(second, allow_graceful=False)
        until(lambda: not psutil.pid_exists(talking))
        dead.set()

    killer = threading.Thread(target=kill)
    killer.start()
    done = process(project, "converse", "remote")
    killer.join()
    assert done.returncode == 0, done.stderr
    assert dead.is_set() and not nodes.worker_nodes
    for name in FILES[3:]:
        assert (project.folder / name).read_bytes() == (local.folder / name).read_bytes()
    twice = asked(server) - needed
    assert asked(server).keys() == needed.keys() and 1 <= sum(twice.values()) <= 4
    assert set(twice) <= set(waiting)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_paid_on_the_actors(nodes, tmp_path, server):
    local, project, needed = local_and_cluster(nodes, tmp_path, server)

    server.reply = slowly
    running = started(project, "converse", "remote")
    until(lambda: len(server.requests) > len(needed) // 3)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-1] == "interrupted; replies already paid for are kept, run again to continue"
    until(lambda: not actors(nodes.head_node))
    assert len(server.requests) < len(needed)
    quiet(process(project, "converse", "remote"))
    assert asked(server) == needed
    for name in FILES[3:]:
        assert (project.folder / name).read_bytes() == (local.folder / name).read_bytes()


@pytest.mark.slow
def test_embeddings_are_those_of_a_local_run(nodes, tmp_path, server):
    """Batches of one text: more than 16 texts at once are spread over the actors."""
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
    small = {"encoder__batch_size": 1, "filter_personas__max_rounds": 1}
    local, project = (Project(tmp_path / name, server.url) for name in ("local", "cluster"))
    for p in (local, project):
        p.set(**small)
        p.run("seed_personas")
    local.run("filter_personas")
    needed = asked(server)
    server.requests.clear()
    project.set(llm__engine="ray", llm__ray__address=nodes.address, llm__ray__actors=1)
    quiet(process(project, "filter_personas"))
    assert asked(server) == needed
    found = [f.relative_to(local.folder) for f in local.folder.rglob("*.json*")]
    assert len(found) > 8
    for file in found:
        assert (project.folder / file).read_bytes() == (local.folder / file).read_bytes(), file


@pytest.mark.slow
def test_what_the_cluster_lacks_is_told_in_one_line(nodes, tmp_path, server):
    project = filled(Project(tmp_path, server.url), llm__engine="ray", llm__ray__address=nodes.address)
    project.set(llm__ray__gpus=1)
    complains(process(project, "converse", "remote"), "llm.ray: 2 actors with 1 GPU each do not fit: the cluster has 0")
    project.set(llm__ray__gpus=0, llm__ray__actors=1, roles__user_model="embedded")
    complains(process(project, "converse", "remote"), "node ", "models/base: holds neither model.gguf nor")
    assert not server.requests


@pytest.mark.slow
def test_a_head_node_that_is_gone_is_told_in_one_line(nodes, tmp_path, server):
    """The last of those on these nodes."""
    project = filled(Project(tmp_path, server.url), llm__engine="ray", llm__ray__address=nodes.address)

    server.reply = slowly
    running = started(project, "converse", "remote")
    until(lambda: len(server.requests) > 20)
    (head,) = nodes.head_node.all_processes["gcs_server"]
    head.process.kill()
    _, told = running.communicate(timeout=55)
    complains(Done(running.returncode, "", told), "llm.ray: head node", "is gone; start it and run again")


# --- without a cluster ----------------------------------------------------------------------------------------------------


def test_ray_that_is_not_there_is_told_in_one_line(project, monkeypatch):
    filled(project, llm__engine="ray", llm__ray__address=f"{HERE}:1")
    complains(process(project, "converse", "remote"), f"llm.ray.address: {HERE}:1 cannot be joined: ", "refused")
    monkeypatch.setitem(sys.modules, "ray", None)
    complains(
        project.run("converse", "remote", check=False), "llm.engine: ray is not installed; run pip install 'ray[data]'"
    )


@pytest.mark.parametrize(
    "values, told",
    [
        ({"llm__engine": "spark"}, "llm.engine: 'spark' is neither local nor ray"),
        ({"llm__engine": "ray", "llm__batch_roles": ["verifier"]}, "llm.batch_roles: must be [] with engine ray"),
        ({"llm__ray__actors": 0}, "llm.ray.actors: 0 is not at least 1"),
        ({"llm__ray__gpus": -1}, "llm.ray.cpus and gpus: must not be below 0"),
        ({"llm__ray__address": "ray://head:10001"}, "llm.ray.address: must be HOST:PORT or auto"),
    ],
)
def test_settings_are_checked(project, values, told):
    project.set(**values)
    complains(project._run(["stages.common.params"], check=False), told)


def test_an_endpoint_is_shared_out():
    shared = cluster.shared(
        Llm(4, Embedded(), {"a": Limits("http://a", concurrency=9, requests_per_minute=1), "b": Limits()})
    )
    assert [(e.concurrency, e.requests_per_minute, e.tokens_per_minute) for e in shared.endpoints.values()] == [
        (4, 1, 0), (4, 0, 0)
    ]  # fmt: skip
    assert shared.embedded.threads == 1


def reply(text: str, cost: float | None = 0.5) -> dict:
    return {"text": text, "cost_usd": cost}


def at_the_desk(tmp_path, work, **limits):
    async def inside():
        desk = Desk(tmp_path, Budget(limits.get("usd"), limits.get("calls")), {})
        await work(desk)
        await desk.close(5)

    asyncio.run(inside())
    with Cache(tmp_path) as cache:
        return {key: cache.get(key) for key in "kl"}


def test_one_actor_makes_a_call_and_the_others_wait_for_its_reply(tmp_path):
    async def work(desk):
        assert await desk.claim("a", "k", {}) is None
        waiting = asyncio.create_task(desk.claim("b", "k", {}))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await desk.put("k", reply("once"))
        assert await waiting == reply("once") == await desk.claim("c", "k", {})

    assert at_the_desk(tmp_path, work)["k"] == reply("once")


def test_what_a_dead_actor_had_claimed_is_made_by_another_and_counts_as_spent(tmp_path):
    async def work(desk):
        assert await desk.claim("a", "k", {}) is None and await desk.claim("b", "l", {}) is None
        await desk.reserve("k", "m", 0.6)
        waiting = asyncio.create_task(desk.claim("b", "k", {}))
        await desk.opened("a")
        assert await waiting is None
        with pytest.raises(UserError, match=r"0.6000 of 1.0 USD are spent and the next call may cost 0.6"):
            await desk.reserve("k", "m", 0.6)
        await desk.reserve("k", "m", 0.4)
        await desk.put("k", reply("second", 0.4))
        await desk.put("l", reply("of b"))  # which lives

    assert at_the_desk(tmp_path, work, usd=1.0) == {"k": reply("second", 0.4), "l": reply("of b")}


def test_a_call_that_is_given_up_can_be_made_again_and_costs_nothing(tmp_path):
    async def work(desk):
        assert await desk.claim("a", "k", {}) is None
        await desk.reserve("k", "m", 1.0)
        await desk.give_up("k")
        assert await desk.claim("b", "k", {}) is None
        await desk.reserve("k", "m", 1.0)
        await desk.put("k", reply("then"))

    assert at_the_desk(tmp_path, work, usd=1.0)["k"] == reply("then")


def test_a_closing_desk_waits_for_the_calls_under_way_and_grants_no_more(tmp_path):
    async def work(desk):
        assert await desk.claim("a", "k", {}) is None
        closing = asyncio.create_task(desk.close(None))
        await asyncio.sleep(0.2)
        assert not closing.done()
        with pytest.raises(UserError, match="has ended"):
            await desk.claim("a", "l", {})
        await desk.put("k", reply("late"))
        await closing

    assert at_the_desk(tmp_path, work) == {"k": reply("late"), "l": None}


def test_other_weights_on_a_node_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_text("weights")
    there = ["0" * 64]
    monkeypatch.setattr("ray.get", lambda ref: ref)
    desk = SimpleNamespace(identity=SimpleNamespace(remote=lambda model: there[0]))
    member = Member("test", Llm(4, Embedded(), {}), {"embedded": tmp_path}, 0, desk, "actor")
    for _ in range(2):
        with pytest.raises(UserError, match="holds other weights than on the driver's node"):
            member.model_identity("embedded")
    there[0] = engine.identity(tmp_path)
    fresh = Member("test", Llm(4, Embedded(), {}), {"embedded": tmp_path}, 0, desk, "actor")
    assert fresh.model_identity("embedded") == f"sha256:{there[0]}"
