"""The addresses of one endpoint, and which of them a conversation is asked at.

A conversation keeps its replica, whose prefix cache holds its beginning. It gets the one with the fewest conversations;
rendezvous hashing (Thaler and Ravishankar 1998) decides between equals, and where it is asked while its own is down. No
reply's key depends on the address.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from stages.core.files import seed_of
from stages.llm.limiter import Limiter
from stages.llm.settings import Limits


def loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


class Replica:
    """One address: its connections, when calls to it go out, and the conversations that it was given and that go on."""

    def __init__(self, url: str, limits: Limits, key: str):
        self.url, self.limiter = url, Limiter(limits)
        self.conversations: WeakSet[Conversation] = WeakSet()
        self._limits, self._key = limits, key
        self._client: Any = None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    def client(self) -> Any:
        """The openai client; its own retries are off."""
        if self._client is None:
            import gc

            import httpx2
            from openai import AsyncOpenAI, DefaultAioHttpClient

            pool = httpx2.Limits(max_connections=None, max_keepalive_connections=self._limits.concurrency)
            direct = loopback(self.url)  # chats and the run's key stay on the machine, whatever HTTP_PROXY says
            self._client = AsyncOpenAI(
                base_url=self.url,
                api_key=self._key,
                max_retries=0,
                timeout=self._limits.timeout_s,
                http_client=DefaultAioHttpClient(limits=pool, timeout=self._limits.timeout_s, trust_env=not direct),
            )
            gc.collect()
            gc.freeze()  # what is imported by now stays: scanning it again took a tenth of the time per call
        return self._client


class Conversation:
    """Calls that begin alike, under a name that is the same in every run; a call of no conversation is one of its own."""

    def __init__(self, name: object):
        self.name = name
        self._given: dict[str, Replica] = {}  # by endpoint

    def replica(self, endpoint: str, replicas: Sequence[Replica]) -> Replica:
        """Which of an endpoint's replicas it is asked at now: its own, unless that is down and another is not."""
        if len(replicas) == 1:
            return replicas[0]
        own = self._given.get(endpoint)
        if own is not None and not own.limiter.down():
            return own
        up = [replica for replica in replicas if not replica.limiter.down()]
        order = sorted(up or replicas, key=lambda replica: seed_of(str(self.name), replica.url))
        if own is not None:
            return order[0] if up else own
        own = self._given[endpoint] = min(order, key=lambda replica: len(replica.conversations))
        own.conversations.add(self)
        return own


_CURRENT: ContextVar[Conversation | None] = ContextVar("conversation", default=None)


def current() -> Conversation | None:
    """The conversation that the caller is in."""
    return _CURRENT.get()


@contextmanager
def conversation(name: object) -> Iterator[None]:
    """What is asked inside, also by tasks that are started there, is of one conversation."""
    before = _CURRENT.set(Conversation(name))
    try:
        yield
    finally:
        _CURRENT.reset(before)
