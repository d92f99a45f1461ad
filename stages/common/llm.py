"""Asking models: roles bound to endpoints, one stored reply a call, named outcomes, counts by role.

A call is fully described by its role's settings, its messages and its seed; the reply to it is stored under the hash of
exactly that (cache.py). Where a model is served, how many calls run at once or what a call costs is not part of it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages.common import engine
from stages.common.cache import Cache, root
from stages.common.endpoint import Endpoint, Limits, SetAside
from stages.common.errors import UserError
from stages.common.params import require
from stages.common.progress import Progress
from stages.common.prompts import Message
from stages.common.records import digest, seed_of, write_jsonl

T = TypeVar("T")
R = TypeVar("R")
EMBEDDED = "embedded"


@dataclass
class Embedded:
    """The engine inside the stage's own process.

    `concurrency` calls run at once. `slots`, each of `context` tokens, hold their key-value caches; with more slots than
    calls, a role finds the beginning of its prompt in an idle one instead of computing it again.
    """

    concurrency: int = 8
    slots: int = 24
    context: int = 2048
    threads: int = 0


@dataclass
class Llm:
    """Section `llm` of params.yaml: what never changes an answer. No stage declares it."""

    conversations_in_flight: int
    embedded: Embedded
    endpoints: dict[str, Limits]

    def __post_init__(self) -> None:
        require((self.conversations_in_flight >= 1, "conversations_in_flight: must be at least 1"))


@dataclass(frozen=True)
class Role:
    """Who speaks and how: what of a call is the same for all calls of a role.

    `model` is `embedded`, `<endpoint>:<model name there>`, or a name the stage binds to a folder.
    """

    name: str
    model: str
    temp: float
    top_p: float
    penalty: float  # frequency_penalty, of OpenAI's protocol
    tokens: int
    stop: tuple[str, ...] = ()
    accept: tuple[str, ...] = ("ok",)  # outcomes taken as they are; others are drawn again


def role(roles: Any, name: str, **changes: Any) -> Role:
    """Role `name` from the flat section `roles` (`<name>_model`, `<name>_temp`, ...)."""
    settings = {k: getattr(roles, f"{name}_{k}") for k in ("model", "temp", "top_p", "penalty", "tokens")}
    return Role(name=name, **{**settings, **changes})


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of a call: the parsed value, the raw text, its outcome and how often it was drawn before."""

    value: T
    text: str
    outcome: str
    sample: int
    reply: dict[str, Any] = field(repr=False)


def outcome(reply: dict[str, Any]) -> str:
    """Named outcome of a raw reply: ok, truncated, filtered, refused, empty."""
    if reply["finish"] == "content_filter":
        return "filtered"
    if reply.get("refusal"):
        return "refused"
    if not reply["text"].strip():
        return "empty"
    return "truncated" if reply["finish"] == "length" else "ok"


class Client:
    """All calls of one stage run. Use as an async context manager.

    Args:
        stage: name, for counts.
        settings: section `llm`.
        folders: local models by the name a role calls them (`embedded`, ...).
        resamples: how often a reply that is not accepted is drawn anew, each time with another seed.
    """

    def __init__(self, stage: str, settings: Llm, folders: dict[str, Path], resamples: int = 2):
        self.stage, self.settings, self.resamples = stage, settings, resamples
        self._folders = folders
        self._cache = Cache(root())
        self._identities: dict[str, str] = {}
        self._engines: list[engine.Engine] = []
        self._endpoints: dict[str, asyncio.Task[tuple[Endpoint, str]]] = {}
        self.outcomes: dict[str, Counter[str]] = {}
        self.usage: dict[str, Counter[str]] = {}
        self.calls = self.hits = 0
        self.set_aside: list[dict[str, Any]] = []

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._endpoints.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result()[0].close()
        for e in self._engines:
            e.stop()
        self._cache.close()

    def model_identity(self, model: str) -> str:
        """What stands for the model in a cache key and in protocols: digest of local weights, else endpoint:name."""
        if model not in self._identities:
            folder = self._folders.get(model)
            if folder is None and ":" not in model:
                raise UserError(f"model {model!r}: neither {sorted(self._folders)} nor <endpoint>:<model>")
            self._identities[model] = model if folder is None else "sha256:" + engine.identity(folder)
        return self._identities[model]

    async def _endpoint(self, model: str) -> tuple[Endpoint, str]:
        """(endpoint, model name there); a local server starts when its first call is really made."""
        name = model if model in self._folders else model.split(":", 1)[0]
        if name not in self._endpoints:
            self._endpoints[name] = asyncio.create_task(self._open(name))
        found, served = await asyncio.shield(self._endpoints[name])
        return found, served or model.split(":", 1)[1]

    async def _open(self, name: str) -> tuple[Endpoint, str]:
        if folder := self._folders.get(name):
            e = self.settings.embedded
            local = await asyncio.to_thread(engine.start, folder, slots=e.slots, context=e.context, threads=e.threads)
            self._engines.append(local)
            return Endpoint(name, Limits(base_url=local.url, concurrency=e.concurrency), local.key), local.model
        limits = self.settings.endpoints.get(name)
        if limits is None:
            raise UserError(f"endpoint {name!r}: not among llm.endpoints in params.yaml")
        return Endpoint(name, limits), ""

    async def ask(
        self,
        role: Role,
        messages: list[Message],
        seed: int,
        parse: Callable[[str], T],
        schema: dict[str, Any] | None = None,
    ) -> Answer[T]:
        """One answer.

        Args:
            role: who is asked.
            messages: the chat so far.
            seed: of the first draw; later draws derive theirs from it.
            parse: reads the text; a ValueError makes the outcome `unreadable`.
            schema: JSON schema the reply must follow.
        Raises:
            SetAside: no draw gave an accepted outcome.
        """
        found, text = "", ""
        for sample in range(self.resamples + 1 if role.temp else 1):  # greedy decoding says the same again
            reply = await self._reply(role, messages, seed if sample == 0 else seed_of(seed, sample), schema)
            found, text = outcome(reply), reply["text"]
            value = None
            if found in ("ok", *role.accept):
                try:
                    value = parse(text)
                except ValueError as e:
                    found, text = "unreadable", f"{e}: {text}"
            self.outcomes.setdefault(role.name, Counter())[found] += 1
            if found in role.accept:
                return Answer(value, text, found, sample, reply)  # type: ignore[arg-type]
        raise SetAside(found, text)

    async def _reply(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None) -> dict[str, Any]:
        if folder := self._folders.get(role.model):
            messages = engine.disarmed(messages, folder)
        body: dict[str, Any] = {
            "messages": messages,
            "temperature": role.temp,
            "top_p": role.top_p,
            "frequency_penalty": role.penalty,
            "max_tokens": role.tokens,
            "seed": seed,
        }
        if role.stop:
            body["stop"] = list(role.stop)
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
        identity = self.model_identity(role.model)

        async def call() -> dict[str, Any]:
            endpoint, served = await self._endpoint(role.model)
            answer = await endpoint.post({"model": served, **body}, tokens=role.tokens)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return {
                "text": choice["message"].get("content") or "",
                "refusal": choice["message"].get("refusal"),
                "finish": choice.get("finish_reason"),
                "prompt_tokens": usage.get("prompt_tokens"),
                "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
                "completion_tokens": usage.get("completion_tokens"),
                "served_model": None if role.model in self._folders else answer.get("model"),
            }

        reply, hit = await self._cache.once(digest(identity, body), call, stage=self.stage, role=role.name, model=identity)
        self.calls += 1
        self.hits += hit
        counts = self.usage.setdefault(role.name, Counter())
        counts["calls"] += 1
        for name in ("prompt_tokens", "completion_tokens"):
            counts[name] += reply[name] or 0
        return reply

    def rate(self, seconds: float) -> str:
        """For the progress line: calls a second, and how many of them were stored before."""
        return f"{self.calls / max(seconds, 1e-9):.1f} calls/s, {self.hits} of {self.calls} from the cache"

    def put_aside(self, item: str, role: str, error: SetAside) -> None:
        """Record an item that could not be had; `finish` writes them down."""
        self.set_aside.append({"item": item, "role": role, "reason": error.reason, "raw": error.raw})

    def metrics(self) -> dict[str, Any]:
        """Counts by role: calls, tokens, outcomes. The same whether replies were paid for now or before."""
        return {
            name: {**dict(sorted(self.usage[name].items())), "outcomes": dict(sorted(self.outcomes[name].items()))}
            for name in sorted(self.usage)
        }

    def finish(self, path: Path, items: int, max_failed_share: float) -> None:
        """Write the quarantine file; fail if more than the given share of the items was set aside."""
        write_jsonl(path, sorted(self.set_aside, key=lambda r: str(r["item"])))
        if len(self.set_aside) > max_failed_share * items:
            first = self.set_aside[0]
            raise UserError(
                f"{len(self.set_aside)} of {items} items were set aside, more than the allowed share of "
                f"{max_failed_share}; see {path}; the first: {first['item']}: {first['reason']}: {first['raw'][:120]}"
            )


async def windowed(jobs: Iterable[Callable[[], Awaitable[R]]], width: int, progress: Progress | None = None) -> list[R]:
    """Results of `jobs` in their order, at most `width` running: each is driven to its end before a new one starts."""
    waiting = list(enumerate(jobs))[::-1]
    results: dict[int, R] = {}

    async def worker() -> None:
        while waiting:
            index, job = waiting.pop()
            results[index] = await job()
            if progress:
                progress.step()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(width, len(waiting))):
            group.create_task(worker())
    return [results[i] for i in sorted(results)]


def asking(work: Awaitable[R]) -> R:
    """Run a stage's asynchronous part; a UserError inside a task group comes out as itself."""

    async def outer() -> R:
        return await work

    try:
        return asyncio.run(outer())
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
