"""Roles on several servers at once, and a model that is not the one asked for."""

import json
import re
import shlex
import subprocess
from collections import Counter

import pytest
from conftest import Server, complains, completion
from omegaconf import OmegaConf
from pages import blocks, commands
from test_batch import asks, batches  # noqa: F401
from test_batch import run as run_batches
from test_llm import ASK, ROLE, run
from test_plan import planned  # noqa: F401

from stages.core.cli import UserError
from stages.core.files import root
from stages.llm.cache import Cache
from stages.llm.client import listed, same_model

PEOPLE = [
    {"profile": "I fish at sea. I own two boats. My leg hurts.", "personality": "I am shy, loud, and kind."},
    {"profile": "I sell old maps. I walk to work. My cat is blind.", "personality": "I am vain, dry, and fair."},
]
ENDPOINTS = OmegaConf.to_container(OmegaConf.create(blocks("endpoints", "yaml")[0]))["endpoints"]
WORDS = {  # how the scripted roles are known: the beginning of their system prompt
    "You are a person who writes": "user",
    "You write down": "inducer",
    "Two replies": "verifier",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def ask(client):
    return client.ask(ROLE, ASK, 7, str.strip)


def answers_as(name):
    """A server whose replies say that they are from model `name`."""
    return lambda body: (200, {**completion("hello", body), "model": name})


# --- the page ----------------------------------------------------------------------------------------------------------


def settings_of_the_page() -> dict[str, str]:
    """Role -> endpoint:model, from the page's `dvc exp run`."""
    _, _, line = commands("endpoints", "Roles on different")
    assert line.startswith("dvc exp run")
    return dict(word.split("=") for word in shlex.split(line) if "=" in word)


def test_no_command_of_the_page_is_left_out():
    run = ("Roles on different", "Starting the servers")
    assert commands("endpoints") == [line for heading in run for line in commands("endpoints", heading)]


def test_the_page_checks_and_plans_before_it_asks(planned):  # noqa: F811
    planned.set(llm__endpoints=ENDPOINTS, **{k.replace(".", "__"): v for k, v in settings_of_the_page().items()})
    first, second, _ = (shlex.split(c) for c in commands("endpoints", "Roles on different"))
    assert first[:2] == second[:2] == ["python", "-m"]
    planned._run(first[2:], check=True)
    table = planned._run(second[2:], check=True).stdout
    assert re.search(r"roleplay +verifier +0 +24 .* unknown", table)  # a server of one's own has no price
    assert re.search(r"judge@dpo +judge +0 +12 .* 0\.00 ", table)


def test_every_role_of_the_page_reaches_its_own_server(project, monkeypatch):
    servers = {}
    for name, limits in ENDPOINTS.items():
        monkeypatch.setenv(limits["key_env"], f"key-of-{name}")
        servers[name] = Server()
        limits = {**limits, "base_url": servers[name].url, "requests_per_minute": 0}
        OmegaConf.update(project.params, f"llm.endpoints.{name}", limits)
    for key, value in settings_of_the_page().items():
        OmegaConf.update(project.params, key, value)
        endpoint, model = value.split(":")
        servers[endpoint].models = [*(servers[endpoint].models or []), model]
    project.set(roleplay__turns=2)
    project._run(["stages.core.params"], check=True)
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PEOPLE))
    project.run("roleplay")

    asked = Counter()
    for name, server in servers.items():
        for body in server.requests:
            system = body["messages"][0]["content"]
            role = next((role for words, role in WORDS.items() if system.startswith(words)), "preferred or rejected")
            asked[role, f"{name}:{body['model']}"] += 1
    bound = {key.removeprefix("roles.").removesuffix("_model"): value for key, value in settings_of_the_page().items()}
    turns = len(PEOPLE) * 2
    assert bound["preferred"] == bound["rejected"] and len(set(bound.values())) == 4
    assert asked == {
        ("user", bound["user"]): turns,
        ("inducer", bound["inducer"]): turns,
        ("preferred or rejected", bound["preferred"]): 2 * turns,
        ("verifier", bound["verifier"]): 2 * turns,
    }
    assert all(servers[n].keys == {f"Bearer key-of-{n}"} for n in servers if n != "openai")
    calls = json.loads((project.folder / "results/roleplay.json").read_text())["calls"]
    assert {role: calls[role]["served"] for role in ("user", "inducer", "verifier")} == {
        role: bound[role].split(":")[1] for role in ("user", "inducer", "verifier")
    }
    for server in servers.values():
        server.stop()


def test_start_lines_agree_with_the_endpoints_and_the_roles():
    """Their dry form: the shell reads them, and each serves the name, at the port and with the key that the stages use."""
    first, *others = commands("endpoints", "Starting the servers")
    starts = [c for c in others if re.match(r"vllm serve|python -m sglang|llama-server", c)]
    served = {}
    for line in (first, *others):
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    assert first.startswith("ssh -N -L 8000:127.0.0.1:8000 ")
    head, node = (c for c in others if c not in starts)
    assert re.fullmatch(r"VLLM_HOST_IP=(\S+) ray start --head --node-ip-address \1 --port 6379", head)
    assert re.fullmatch(r"VLLM_HOST_IP=(\S+) ray start --address 10.0.0.1:6379 --node-ip-address \1", node)
    for line in starts:
        words = shlex.split(line)
        option = {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}
        assert option["--host"] == "127.0.0.1"
        kind = {"vllm": "vllm", "python": "sglang", "llama-server": "llamacpp"}[words[0]]
        assert ENDPOINTS[kind]["base_url"] == f"http://127.0.0.1:{option['--port']}/v1"
        assert kind == "llamacpp" or option["--load-format"] == "safetensors"
        assert kind != "sglang" or option["--api-key"] == f"${ENDPOINTS[kind]['key_env']}"
        assert "--trust-remote-code" not in words
        served.setdefault(kind, []).append(option.get("--served-model-name") or option["--alias"])
        if kind == "llamacpp":
            assert int(option["--parallel"]) == ENDPOINTS[kind]["concurrency"]
    assert len(starts) == 8
    for value in settings_of_the_page().values():
        endpoint, model = value.split(":")
        assert endpoint == "openai" or model == served[endpoint][0]


# --- the model that answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, told, same",
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4", "gpt-4-0613", True),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
        ("Llama-3.1-8B", "llama-3.1-8b", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("llama", "other/llama", False),
        ("llama-3", "llama-3.1", False),
    ],
)
def test_a_dated_snapshot_is_the_model_and_nothing_else_is(asked, told, same):
    assert same_model(asked, told) == same


def test_the_served_name_is_in_the_metrics_with_numbers_where_it_changed(server):
    server.reply = answers_as("tiny-2024-08-06")

    async def two(client):
        await ask(client)
        server.reply = answers_as("tiny-2024-11-20")
        for seed in (8, 9):
            await client.ask(ROLE, ASK, seed, str.strip)
        return client.metrics()["user"]["served"]

    assert run(server, two) == "tiny-2024-08-06 (1), tiny-2024-11-20 (2)"
    assert run(server, two) == "tiny-2024-08-06 (1), tiny-2024-11-20 (2)" and len(server.requests) == 3
    assert listed(Counter(one=3)) == "one"


def test_another_model_stops_the_run_and_its_reply_is_used_only_once_the_name_is_settled(server):
    server.reply = answers_as("cheaper")
    for _ in range(2):  # from the server, then from the cache
        with pytest.raises(UserError, match=r"endpoint scripted: serves cheaper, not tiny.*aliases to \{tiny: cheaper\}"):
            run(server, ask)
    assert len(server.requests) == 1
    answer = run(server, ask, aliases={"tiny": "cheaper"})
    assert answer.text == "hello" and len(server.requests) == 1


def test_a_stage_stops_before_it_has_asked_much(project, server):
    server.reply = answers_as("cheaper")
    folder = project.folder / "data/personas"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PEOPLE * 10))
    complains(project.run("roleplay", check=False), "serves cheaper, not tiny")
    assert len(server.requests) <= 4  # conversations_in_flight, of one call each
    assert not (project.folder / "data/trees.jsonl").exists()


def test_a_server_that_gives_back_any_name_is_known_by_its_list(server):
    server.models = ["other", "tiny-chat"]
    with pytest.raises(UserError, match="endpoint scripted: serves tiny-chat, other, not tiny"):
        run(server, ask)
    assert not server.requests
    server.models = ["other", "tiny"]
    assert run(server, ask).text and len(server.requests) == 1


@pytest.mark.parametrize("broken", [[], None])
def test_a_server_without_a_list_is_asked(server, broken):
    server.models = broken
    assert run(server, ask).text


def test_replies_stored_before_names_were_are_used(server):
    run(server, ask)
    with Cache(root()) as cache:
        cache.db.execute("UPDATE replies SET reply=json_remove(reply, '$.served_model')")

    async def metrics(client):
        await ask(client)
        return client.metrics()["user"]["served"]

    assert run(server, metrics) == "not told" and len(server.requests) == 1


def test_another_model_behind_a_batch_is_not_paid_for_again(batches, monkeypatch):  # noqa: F811
    monkeypatch.setattr("test_batch.completion", lambda text, body: {**completion(text, body), "model": "cheaper"})
    refused = run_batches(batches, asks("a", "b"))[0]
    assert all("serves cheaper, not tiny" in str(error) for error in refused)
    again = run_batches(batches, asks("a", "b"), budget_calls=0)[0]
    assert all("serves cheaper, not tiny" in str(error) for error in again) and len(batches.batches) == 1


def test_a_local_model_is_known_by_its_weights(tmp_path):
    from stages.llm.client import Client
    from stages.llm.settings import Embedded, Llm

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    client = Client("test", Llm(conversations_in_flight=1, embedded=Embedded(), endpoints={}), {"embedded": tmp_path})
    assert re.fullmatch(r"sha256:[0-9a-f]{12}", client._served("embedded", None))
    client.cache.close()
