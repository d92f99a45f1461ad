"""Several addresses of one endpoint: a conversation keeps its replica, the load is even, one that dies or returns."""

import asyncio
from collections import Counter

import pytest
from calls import ROLE, run, settings
from conftest import Server
from http_faults import hang_up

from stages.core.cli import UserError
from stages.llm.replicas import Conversation, Replica
from stages.llm.settings import Limits


@pytest.fixture
def servers():
    made = [Server(), Server()]
    yield made
    for server in made:
        server.stop()


def talks(client, number, calls=3, pause=0.0):
    """Results of conversations of so many calls each, one after the other."""

    async def talk(n):
        chat = [{"role": "user", "content": f"talk {n}"}]
        for seed in range(calls):
            await client.ask(ROLE, chat, seed, str.strip)
            await asyncio.sleep(pause)

    return client.in_parallel([lambda n=n: talk(n) for n in range(number)])


def asked(server):
    """Calls of each conversation that a server got."""
    return Counter(body["messages"][0]["content"] for body in server.requests)


@pytest.mark.slow
def test_a_conversation_keeps_its_replica_and_the_load_is_even(servers):
    run(servers[0], lambda client: talks(client, 40), base_url=[s.url for s in servers])
    one, two = map(asked, servers)
    assert not one.keys() & two.keys() and len(one | two) == 40 and set((one | two).values()) == {3}
    assert abs(len(one) - len(two)) <= 4  # as many as are under way


def placed(replicas, names):
    talks = [Conversation(name) for name in names]
    return talks, [talk.replica("e", replicas) for talk in talks]


def test_conversations_of_a_replica_that_is_down_are_shared_out_and_come_back():
    replicas = [Replica(f"http://127.0.0.1:{n}/v1", Limits(), "none") for n in range(4)]
    talks, own = placed(replicas, range(40))
    assert Counter(own) == dict.fromkeys(replicas, 10)
    for _ in range(3):
        replicas[0].limiter.fault(0)
    refuge = [talk.replica("e", replicas) for talk in talks]
    assert [a for a, b in zip(own, refuge, strict=True) if a is not b] == [replicas[0]] * 10
    assert len(set(refuge)) == 3 and [talk.replica("e", replicas) for talk in talks] == refuge
    replicas[0].limiter.answered()
    assert [talk.replica("e", replicas) for talk in talks] == own
    del talks
    assert not any(replica.conversations for replica in replicas), "they are over"


def test_the_same_conversations_get_the_same_replicas_in_another_run():
    def run():
        return [r.url for r in placed([Replica(f"http://127.0.0.1:{n}/v1", Limits(), "x") for n in range(3)], range(9))[1]]

    assert run() == run() and len(set(run())) == 3


def test_a_replica_that_is_not_there_is_not_missed_and_all_of_them_are(servers):
    servers[1].stop()
    urls = [s.url for s in servers]
    run(servers[0], lambda client: talks(client, 10), base_url=urls, deadline_s=2.0)
    assert sum(asked(servers[0]).values()) == 30
    servers[0].stop()
    with pytest.raises(UserError, match=r"endpoint scripted at http://127\.0\.0\.1:\d+/v1 is not there"):
        run(servers[0], lambda client: talks(client, 11), base_url=urls, deadline_s=0.5)


def test_each_replica_must_serve_the_model(servers):
    servers[0].models, servers[1].models = ["tiny"], ["other"]
    with pytest.raises(UserError, match="endpoint scripted: serves other, not tiny"):
        run(servers[0], lambda client: talks(client, 1), base_url=[s.url for s in servers])


def test_an_empty_list_of_addresses_is_a_fault():
    with pytest.raises(ValueError, match="base_url"):
        settings([])


@pytest.mark.slow
def test_a_replica_that_returns_gets_its_conversations_back_and_nothing_is_answered_twice(servers):
    answered, broken = Counter(), []

    def replies(name):
        def reply(body):
            if name == "two" and 10 <= answered.total() < 40:
                broken.append(repr(body))
                return hang_up
            answered[name, repr(body)] += 1
            return "fine"

        return reply

    for server, name in zip(servers, ("one", "two"), strict=True):
        server.reply = replies(name)
    run(servers[0], lambda client: talks(client, 4, calls=40, pause=0.02), base_url=[s.url for s in servers])
    assert set(Counter(body for _, body in answered.elements()).values()) == {1} and answered.total() == 160
    after = [name for name, _ in list(answered)[60:]]
    assert 3 <= len(broken) < 15 and after.count("two") > 20
