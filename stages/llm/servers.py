"""Names of models -> servers: which model is where, what identifies it, and whether a server serves what is asked for."""

import asyncio
import difflib
import re
from pathlib import Path

from stages.core.cli import UserError
from stages.llm import local
from stages.llm.endpoint import Endpoint
from stages.llm.profiles import Wire
from stages.llm.settings import Limits, Llm, Price, Role

_SNAPSHOT = re.compile(r"-(\d{4}-\d\d-\d\d|\d{8}|\d{4})")  # gpt-4o-2024-08-06, claude-3-5-sonnet-20241022, gpt-4-0613


def same_model(asked: str, served: str) -> bool:
    """Whether a server that calls itself `served` is the model `asked`: the same name, or a dated snapshot of it."""
    asked, served = (re.sub(r"^models/|[-:]latest$", "", n.lower()) for n in (asked, served))
    return served == asked or (served.startswith(asked) and _SNAPSHOT.fullmatch(served[len(asked) :]) is not None)


class Servers:
    """The servers of one stage run; each is opened when its first call is made.

    Args:
        settings: section `llm`.
        folders: local models by the name that a role calls them (`embedded`, ...).
    """

    def __init__(self, settings: Llm, folders: dict[str, Path]):
        self.settings, self.folders = settings, folders
        self.identities: dict[str, str] = {}  # by model; what is in it is not looked up
        self._wires: dict[str, Wire] = {}
        self._engines: list[local.Engine] = []
        self._opened: dict[str, asyncio.Task[tuple[Endpoint, str]]] = {}
        self._right: set[tuple[str, ...]] = set()  # models with names that servers gave and that are theirs
        self._listed: dict[str, list[list[str]]] = {}  # names of the models at each address that has a list

    def identity(self, model: str) -> str:
        """What stands for the model in a cache key and in protocols: digest of local weights, else endpoint:name."""
        if model not in self.identities:
            folder = self.folders.get(model)
            if folder is None and ":" not in model:
                raise UserError(f"model {model!r}: neither {sorted(self.folders)} nor <endpoint>:<model>")
            self.identities[model] = (
                model if folder is None else "sha256:" + local.identity(folder, self.settings.local_engine)
            )
        return self.identities[model]

    def limits(self, model: str) -> Limits:
        """How the model's server is addressed. Raises UserError for an endpoint that section llm does not name."""
        if model in self.folders:
            free = {model: Price(prompt=0, completion=0)}
            return Limits(concurrency=self.settings.embedded.concurrency, prices=free)
        return self.settings.limits(model.partition(":")[0])

    def wire(self, model: str) -> Wire:
        """What requests to the model carry."""
        if model not in self._wires:
            limits = self.settings.endpoints.get(model.partition(":")[0], Limits())  # stored replies need theirs no more
            self._wires[model] = Wire() if model in self.folders else limits.wire(model.partition(":")[2])
        return self._wires[model]

    def batched(self, role: Role) -> bool:
        """Whether the calls of `role` go through a Batch API."""
        return role.name in self.settings.batch_roles and role.model not in self.folders

    def price(self, role: Role) -> Price | None:
        """Price of the tokens of `role`; None where it is unknown."""
        name = role.model if role.model in self.folders else role.model.partition(":")[2]
        price = self.limits(role.model).prices.get(name)
        return price.batched() if price and self.batched(role) else price

    async def reach(self, model: str) -> tuple[Endpoint, str]:
        """(endpoint, model's name there); a local server starts when its first call is made."""
        name = model if model in self.folders else model.partition(":")[0]
        if name not in self._opened:
            self._opened[name] = asyncio.create_task(self._open(name))
        endpoint, served = await asyncio.shield(self._opened[name])
        if model in self.folders:
            return endpoint, served
        for listed in self._listed[name]:
            self.check_served(model, listed)
        return endpoint, model.partition(":")[2]

    async def _open(self, name: str) -> tuple[Endpoint, str]:
        if folder := self.folders.get(name):
            e = self.settings.embedded
            engine = await asyncio.to_thread(
                local.start, folder, slots=e.slots, context=e.context, threads=e.threads,
                engine=self.settings.local_engine, share=0.9 / len(set(self.folders.values())), opened=self._engines,
            )  # fmt: skip
            return Endpoint(name, Limits(base_url=engine.url, concurrency=e.concurrency), engine.key), engine.model
        endpoint = Endpoint(name, self.settings.limits(name))
        self._listed[name] = await endpoint.listed()  # some servers answer to any name, and give it back
        return endpoint, ""

    def check_served(self, model: str, served: list[str]) -> None:
        """Raise UserError unless one of the names that a server gives is the model asked for. Stored replies stay stored."""
        if (model, *served) in self._right:
            return
        endpoint, asked = model.split(":", 1)
        limits = self.settings.endpoints.get(endpoint)  # stored replies do not need theirs any more
        names = (asked, limits.aliases.get(asked, asked) if limits else asked)
        if not any(same_model(name, s) for name in names for s in served):
            nearest = difflib.get_close_matches(asked, served, n=3, cutoff=0)
            raise UserError(
                f"endpoint {endpoint}: serves {', '.join(nearest)}, not {asked}; name the model you want in roles, "
                f"or, if that is it, set llm.endpoints.{endpoint}.aliases to {{{asked}: {nearest[0]}}}"
            )
        self._right.add((model, *served))

    def served_name(self, model: str, served: str | None) -> str:
        """Name that a reply is counted under: the one that the server gave, or the weights' digest for a local model."""
        if model in self.folders:
            return self.identity(model)[: len("sha256:") + 12]
        return served or "not told"

    def endpoints(self) -> list[Endpoint]:
        """Those that are open."""
        opened = [t for t in self._opened.values() if t.done() and not t.cancelled() and t.exception() is None]
        return [task.result()[0] for task in opened]

    async def close(self) -> None:
        """Close the connections and stop the local engines."""
        for endpoint in self.endpoints():
            await endpoint.close()
        for engine in self._engines:
            engine.stop()
