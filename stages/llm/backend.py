"""Where replies come from. In a run: the cache, else a paid call; tools/plan.py has a backend that asks nobody."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from stages.llm.batch import Batches
from stages.llm.budget import Budget
from stages.llm.cache import Cache, folder_of
from stages.llm.endpoint import CallFailed, Endpoint
from stages.llm.reply import Reply, Unreadable, from_answer
from stages.llm.request import Request
from stages.llm.servers import Servers
from stages.llm.settings import Llm, Price

GRACE_S = 1.5  # how long Ctrl-C waits for answers that are already paid for


class Backend(Protocol):
    """What a client gets its replies from."""

    servers: Servers

    async def reply(self, request: Request) -> tuple[Reply, bool]:
        """The reply, and whether it was stored before. Raises CallFailed or UserError where there is none."""
        ...

    async def close(self, interrupted: bool) -> None:
        """The stage is over. `interrupted`: by Ctrl-C."""
        ...


def _read(answer: dict[str, Any], price: Price | None, *, local: bool, seconds: float) -> Reply:
    """`from_answer`. Raises CallFailed for a reply that is no text."""
    try:
        return from_answer(answer, price, local=local, seconds=seconds)
    except Unreadable as e:
        raise CallFailed("malformed", str(e)) from None


class PaidCalls:
    """Stored replies; others are paid for within the budget, and stored before they are used.

    Args:
        stage: kept beside what is stored.
        settings: section `llm`.
        folders: local models by the name that a role calls them (`embedded`, ...).
    """

    def __init__(self, stage: str, settings: Llm, folders: dict[str, Path]):
        self.stage, self.settings = stage, settings
        self.servers = Servers(settings, folders)
        self.cache = Cache(folder_of(settings.cache))
        self.budget = Budget(settings.budget_usd, settings.budget_calls)
        self._running: set[asyncio.Task[tuple[Reply, bool]]] = set()
        self._online: set[asyncio.Task[Any] | None] = set()  # of these, those that a batch is to wait for
        self._batches: dict[str, Batches] = {}

    async def reply(self, request: Request) -> tuple[Reply, bool]:
        """See Backend. Raises UserError where another model than the one asked for gave the reply, which stays stored."""
        found = self.cache.get(request.key)
        if found is not None:
            reply, stored = found, True
        else:
            role = request.role
            about = {"stage": self.stage, "role": role.name, "model": self.servers.identity(role.model)}
            call = partial(self._call, request, about)
            task = asyncio.create_task(self.cache.once(request.key, call, **about))
            self._running.add(task)
            if not self.servers.batched(role):
                self._online.add(task)
            task.add_done_callback(self._ended)
            reply, stored = await asyncio.shield(task)  # whoever gives up waiting, the answer is stored
        if served := reply.get("served_model"):
            self.servers.check_served(request.role.model, [served])
        return reply, stored

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._online.discard(task)
        if not task.cancelled():
            task.exception()  # counts as retrieved, should nobody wait for it any more

    async def _call(self, request: Request, about: dict[str, str]) -> Reply:
        """A paid call: the reply as it is stored."""
        role, key, size = request.role, request.key, request.size
        endpoint, served = await self.servers.reach(role.model)
        price, batched = self.servers.price(role), self.servers.batched(role)
        self._online.discard(this := asyncio.current_task())  # it may wait for what a batch has reserved
        await self.budget.reserve(key, role.model, price.usd(size, 0, request.tokens) if price else None)
        if not batched:
            self._online.add(this)
        cost: float | None = 0.0  # of a call that nothing came of
        try:
            data, seconds = request.to(served), 0.0
            if batched:
                tokens = size // 4 + request.tokens
                answer = await self._batch(endpoint).answer(key, json.loads(data), {**about, "served": served}, tokens)
            else:
                answer, seconds = await endpoint.post(data, tokens=size // 4 + request.tokens)
            cost = None
            reply = _read(answer, price, local=role.model in self.servers.folders, seconds=seconds)
            cost = reply["cost_usd"]
            return reply
        finally:
            self.budget.settle(key, cost)

    def _batch(self, endpoint: Endpoint) -> Batches:
        async def store(key: str, answer: dict[str, Any], about: dict[str, str]) -> None:
            price = endpoint.limits.prices.get(about.pop("served"))
            reply = _read(answer, price.batched() if price else None, local=False, seconds=0.0)
            await self.cache.put(key, reply, **about)

        if endpoint.name not in self._batches:
            self._batches[endpoint.name] = Batches(endpoint, self.cache, store, self._online.__len__, self.settings)
        return self._batches[endpoint.name]

    async def close(self, interrupted: bool) -> None:
        """Whatever ended the stage, answers under way are waited for and stored: they are paid for."""
        endpoints = self.servers.endpoints()
        for endpoint in endpoints:
            endpoint.drain()
        for task in self._running - {t for e in endpoints for t in e.sending}:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_S if interrupted else None)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for batches in self._batches.values():
            await batches.close()
        await self.servers.close()
        self.cache.close()
