"""Models and their servers: what identifies a model, and a server that serves another one than was asked for."""

import re

import pytest
from calls import CHAT, ROLE, ask, changed, run, settings
from conftest import completion

from stages.core.cli import UserError
from stages.core.files import root
from stages.llm.cache import Cache
from stages.llm.servers import Servers, same_model


def answers_as(name):
    """A server whose replies say that they are from model `name`."""
    return lambda body: (200, {**completion("hello", body), "model": name})


@pytest.mark.parametrize(
    "asked, served, same",
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4", "gpt-4-0613", True),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
        ("Llama-3.1-8B", "llama-3.1-8b", True),
        ("llama3.2", "llama3.2:latest", True),  # Ollama
        ("llama3.2", "llama3.2:1b", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("llama", "other/llama", False),
        ("llama-3", "llama-3.1", False),
    ],
)
def test_a_dated_snapshot_is_the_model_and_nothing_else_is(asked, served, same):
    assert same_model(asked, served) == same


def test_a_local_model_is_identified_by_its_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    servers = Servers(settings(), {"embedded": tmp_path})
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", servers.identity("embedded"))
    assert servers.served_name("embedded", None) == servers.identity("embedded")[:19]
    assert servers.identity("scripted:tiny") == "scripted:tiny"
    with pytest.raises(UserError, match=r"model 'tiny': neither \['embedded'\] nor <endpoint>:<model>"):
        servers.identity("tiny")


def test_local_models_cost_nothing_and_are_not_batched(tmp_path):
    prices = {"tiny": {"prompt": 2.0, "completion": 4.0}}
    servers = Servers(settings(llm={"batch_roles": ["user"]}, prices=prices), {"embedded": tmp_path})
    local = changed(ROLE, model="embedded")
    assert not servers.batched(local) and servers.price(local).usd(5, 0, 5) == 0
    assert servers.batched(ROLE) and servers.price(ROLE).usd(1e6, 0, 1e6) == 3  # half of it
    assert servers.price(changed(ROLE, model="scripted:other")) is None
    assert servers.limits("embedded").concurrency == 8
    with pytest.raises(UserError, match=r"endpoint 'nowhere': not among llm\.endpoints"):
        servers.limits("nowhere:tiny")


def test_another_model_stops_the_run_and_its_reply_is_used_only_once_the_name_is_settled(server):
    server.reply = answers_as("cheaper")
    for _ in range(2):  # from the server, then from the cache
        with pytest.raises(UserError, match=r"endpoint scripted: serves cheaper, not tiny.*aliases to \{tiny: cheaper\}"):
            run(server, ask)
    assert len(server.requests) == 1
    answer = run(server, ask, aliases={"tiny": "cheaper"})
    assert answer.text == "hello" and len(server.requests) == 1


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


def test_the_served_name_is_in_the_metrics_with_numbers_where_it_changed(server):
    server.reply = answers_as("tiny-2024-08-06")

    async def two(client):
        await ask(client)
        server.reply = answers_as("tiny-2024-11-20")
        for seed in (8, 9):
            await client.ask(ROLE, CHAT, seed, str.strip)
        return client.ledger.metrics()["user"]["served"]

    for _ in range(2):
        assert run(server, two) == "tiny-2024-08-06 (1), tiny-2024-11-20 (2)" and len(server.requests) == 3


def test_replies_stored_before_names_were_are_used(server):
    run(server, ask)
    with Cache(root()) as cache:
        cache.db.execute("UPDATE replies SET reply=json_remove(reply, '$.served_model')")

    async def metrics(client):
        await ask(client)
        return client.ledger.metrics()["user"]["served"]

    assert run(server, metrics) == "not told" and len(server.requests) == 1
