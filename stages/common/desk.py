"""The desk: the reply cache and the budget of a stage whose conversations run in other processes (cluster.py).

It stays with the driver. A call is claimed here before it is made and its reply is committed here before it is used, so two
actors never pay for the same reply, one budget holds for all, and an actor that dies loses no more than its calls under way.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from stages.common import engine
from stages.common.cache import Cache
from stages.common.errors import UserError
from stages.common.llm import Budget, Client, Llm


class Desk:
    """The reply cache and the budget, for all actors. `folders`: local models by name, as the driver sees them."""

    def __init__(self, cache: Path, budget: Budget, folders: dict[str, Path]):
        self._cache, self._budget, self._folders = Cache(cache), budget, folders
        self._made: dict[str, tuple[str, asyncio.Future[dict[str, Any]], asyncio.Task[Any]]] = {}  # calls under way, by key
        self._closed = False

    async def opened(self, actor: str) -> None:
        """An actor has started. Calls it had under way before died with it, and may have been paid for."""
        for key, (owner, future, _) in list(self._made.items()):
            if owner == actor:
                self._budget.settle(key, None)
                future.cancel()

    async def claim(self, actor: str, key: str, about: dict[str, Any]) -> dict[str, Any] | None:
        """The stored reply, waited for if another is making it. None: the caller is to make it, and `put` or `give_up`."""
        if self._closed:
            raise UserError("the stage has ended")
        ours: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        granted = asyncio.Event()

        async def make() -> dict[str, Any]:
            granted.set()
            return await ours

        task = asyncio.create_task(self._cache.once(key, make, **about))
        waiting = asyncio.create_task(granted.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not granted.is_set():
            return (await task)[0]
        self._made[key] = made = actor, ours, task

        def ended(_: asyncio.Task[Any]) -> None:
            if self._made.get(key) is made:
                del self._made[key]

        task.add_done_callback(ended)
        return None

    async def reserve(self, key: str, model: str, worst: float | None) -> None:
        """`Budget.reserve`, for all actors together."""
        await self._budget.reserve(key, model, worst)

    async def put(self, key: str, reply: dict[str, Any]) -> None:
        """Store the reply to a claimed call; it is on disk when this returns."""
        self._budget.settle(key, reply["cost_usd"])
        _, future, task = self._made[key]
        future.set_result(reply)
        await task

    async def give_up(self, key: str) -> None:
        """A claimed call was not answered; whoever waits for it may make it."""
        self._budget.settle(key, 0.0)
        if key in self._made:
            self._made[key][1].cancel()

    async def identity(self, model: str) -> str:
        """Digest of a local model's weights, as the driver sees them."""
        return await asyncio.to_thread(engine.identity, self._folders[model])

    async def close(self, timeout: float | None) -> None:
        """Grant no more calls, wait for those under way, and close the cache."""
        self._closed = True
        if tasks := [task for _, _, task in self._made.values()]:
            await asyncio.wait(tasks, timeout=timeout)
        self._cache.close()


class DeskCache:
    """What a client asks of its `Cache`, at the desk."""

    def __init__(self, desk: Any, actor: str):
        self._desk, self._actor = desk, actor

    def get(self, _: str) -> None:
        """Nothing is known here; `once` asks."""

    async def once(
        self, key: str, make: Callable[[], Awaitable[dict[str, Any]]], **about: Any
    ) -> tuple[dict[str, Any], bool]:
        """As `Cache.once`."""
        claim = asyncio.ensure_future(self._desk.claim.remote(self._actor, key, about))
        try:
            stored = await asyncio.shield(claim)
            if stored is not None:
                return stored, True
            reply = await make()
        except BaseException:
            await asyncio.wait([claim])  # one that is granted to nobody would keep others waiting
            if claim.exception() is None and claim.result() is None:
                await self._desk.give_up.remote(key)
            raise
        await self._desk.put.remote(key, reply)
        return reply, False

    def close(self) -> None:
        """The desk is closed by the driver."""


class DeskBudget(Budget):
    """An actor's part of the desk's budget; `made` and `paid` are its own."""

    def __init__(self, desk: Any):
        super().__init__(None, None)
        self._desk = desk

    async def reserve(self, key: str, model: str, worst: float | None) -> None:
        """As `Budget.reserve`."""
        await self._desk.reserve.remote(key, model, worst)
        await super().reserve(key, model, worst)


class Member(Client):
    """A client on an actor. A local model must be the driver's."""

    def __init__(self, stage: str, settings: Llm, folders: dict[str, Path], resamples: int, desk: Any, actor: str):
        super().__init__(stage, settings, folders, resamples, cast(Cache, DeskCache(desk, actor)), DeskBudget(desk))
        self._desk = desk

    def model_identity(self, model: str) -> str:
        """As the client's. Raises UserError where the weights on this node are missing or others."""
        if model in self.folders and model not in self._identities:
            import ray

            own, theirs = super().model_identity(model), "sha256:" + ray.get(self._desk.identity.remote(model))
            if own != theirs:
                del self._identities[model]
                raise UserError(f"{self.folders[model]}: holds other weights than on the driver's node; copy them again")
        return super().model_identity(model)

    def taken(self) -> dict[str, Any]:
        """What was counted since the last time, for `add`."""
        names = ("calls", "hits", "outcomes", "served", "usage", "set_aside")
        counts = {name: getattr(self, name) for name in names} | {"made": self.budget.made, "paid": self.budget.paid}
        self.calls = self.hits = self.budget.made = 0
        self.budget.paid = 0.0
        self.outcomes, self.served, self.usage, self.set_aside = {}, {}, {}, []
        return counts


def add(client: Client, counts: dict[str, Any]) -> None:
    """Count on the driver's client what an actor's has counted."""
    client.calls += counts["calls"]
    client.hits += counts["hits"]
    client.budget.made += counts["made"]
    client.budget.paid += counts["paid"]
    client.set_aside += counts["set_aside"]
    for name in ("outcomes", "served"):
        for role, found in counts[name].items():
            getattr(client, name).setdefault(role, Counter()).update(found)
    for role, rows in counts["usage"].items():
        client.usage.setdefault(role, []).extend(tuple(row) for row in rows)
