"""Calls through a real client to the scripted server: what the tests of stages/llm share."""

from stages.core.aio import run_async
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import Embedded, Limits, Llm, Price, Role

ROLE = Role(name="user", model="scripted:tiny", temp=0.5, top_p=1.0, penalty=0.0, tokens=20)
CHAT = [{"role": "user", "content": "Hello"}]
PRICE = Price(prompt=1000.0, completion=2000.0, cached=100.0)  # USD per million tokens


def changed(role, **values):
    """The role with other settings."""
    return role.model_copy(update=values)


def settings(url="", llm=None, **limits):
    """Section llm with the scripted server as its only endpoint. `llm`: more keys of the section."""
    scripted = Limits(**{"base_url": url, "deadline_s": 20.0, **limits})
    return Llm(conversations_in_flight=4, embedded=Embedded(), endpoints={"scripted": scripted}, **(llm or {}))


def run(server, work, resamples=2, llm=None, **limits):
    """Result of `await work(client)`."""

    async def inside():
        async with Client(PaidCalls("test", settings(server.url, llm, **limits), {}), resamples) as client:
            return await work(client)

    return run_async(inside())


def ask(client, seed=7):
    """One call."""
    return client.ask(ROLE, CHAT, seed, str.strip)
