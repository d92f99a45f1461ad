"""Asking models: roles bound to endpoints, one stored reply a call, named outcomes, counts by role.

A call is fully described by its role's settings, its messages and its seed; the reply to it is stored under the hash of
exactly that (cache.py). Where a model is served, how many calls run at once or what a call costs is not part of it.
"""

import asyncio
import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from stages.core.cli import UserError
from stages.core.files import root, seed_of, write_jsonl
from stages.core.prompts import Message
from stages.llm import batch, local
from stages.llm.budget import Budget
from stages.llm.cache import Cache
from stages.llm.endpoint import CallFailed, Endpoint
from stages.llm.settings import Limits, Llm, Price, Role
from stages.weights import control_tokens, digest

T = TypeVar("T")
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")
GRACE_S = 1.5  # how long Ctrl-C waits for answers that are already paid for


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


def keyed(identity: str, body: dict[str, Any]) -> tuple[str, str]:
    """`records.digest(identity, body)` and the body's JSON, which is written once for both: histories are long."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"[{json.dumps(identity, ensure_ascii=False)}, {text}]".encode()).hexdigest(), text


def stored_form(answer: dict[str, Any], price: Price | None, *, local: bool, seconds: float) -> dict[str, Any]:
    """What is kept of a server's answer. Counts it does not tell, and a cost that cannot be known, are None, not 0."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cost = None
    if price and prompt is not None and completion is not None:
        cost = price.usd(prompt, cached or 0, completion)
    kept = {
        "text": choice["message"].get("content") or "",
        "refusal": choice["message"].get("refusal"),
        "finish": choice.get("finish_reason"),
        **dict(zip(COUNTS, (prompt, cached, completion, cost), strict=True)),
        "seconds": round(seconds, 3),
        "served_model": None if local else answer.get("model"),
    }
    if told := (choice.get("logprobs") or {}).get("content"):  # each token of the reply with what else was likely there
        kept["logprobs"] = [[t["token"], [[o["token"], o["logprob"]] for o in t.get("top_logprobs") or []]] for t in told]
    return kept


_SNAPSHOT = re.compile(r"-(\d{4}-\d\d-\d\d|\d{8}|\d{4})")  # gpt-4o-2024-08-06, claude-3-5-sonnet-20241022, gpt-4-0613


def same_model(asked: str, told: str) -> bool:
    """Whether a server that says it is `told` is the model `asked`: the same name, or a dated snapshot of it."""
    asked, told = asked.lower().removesuffix("-latest"), told.lower().removesuffix("-latest")
    return told == asked or (told.startswith(asked) and _SNAPSHOT.fullmatch(told[len(asked) :]) is not None)


class Client:
    """All calls of one stage run. Use as an async context manager.

    Args:
        stage: name, for counts.
        settings: section `llm`.
        folders: local models by the name a role calls them (`embedded`, ...).
        resamples: how often a reply that is not accepted is drawn anew, each time with another seed.
        cache: of replies; None: the repository's own.
        budget: that calls are made from; None: the one of `settings`.
    """

    def __init__(
        self,
        stage: str,
        settings: Llm,
        folders: dict[str, Path],
        resamples: int = 2,
        cache: Cache | None = None,
        budget: Budget | None = None,
    ):
        self.stage, self.settings, self.resamples = stage, settings, resamples
        self.folders = folders
        self.cache = cache or Cache(root())
        self.budget = budget or Budget(settings.budget_usd, settings.budget_calls)
        self._identities: dict[str, str] = {}
        self._engines: list[local.Engine] = []
        self._endpoints: dict[str, asyncio.Task[tuple[Endpoint, str]]] = {}
        self._listed: dict[str, list[str]] = {}  # names of the models of each server, none where it does not tell
        self.outcomes: dict[str, Counter[str]] = {}
        self.served: dict[str, Counter[str]] = {}  # what the servers say they are, by role
        self.usage: dict[str, list[tuple[float | None, ...]]] = {}  # COUNTS of each reply, by role
        self.calls = self.hits = self._batched = 0
        self._batches: dict[str, batch.Batches] = {}
        self._running: set[asyncio.Task[tuple[dict[str, Any], bool]]] = set()
        self.failed: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Whatever ends the stage, answers under way are waited for and stored: they are paid for."""
        opened = [t for t in self._endpoints.values() if t.done() and not t.cancelled() and t.exception() is None]
        endpoints = [task.result()[0] for task in opened]
        for endpoint in endpoints:
            endpoint.drain()
        for task in self._running - {t for e in endpoints for t in e.sending}:
            task.cancel()
        if self._running:
            interrupted = kind is not None and issubclass(kind, asyncio.CancelledError)
            await asyncio.wait(self._running, timeout=GRACE_S if interrupted else None)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for batches in self._batches.values():
            await batches.close()
        for endpoint in endpoints:
            await endpoint.close()
        for e in self._engines:
            e.stop()
        self.cache.close()

    def model_identity(self, model: str) -> str:
        """What stands for the model in a cache key and in protocols: digest of local weights, else endpoint:name."""
        if model not in self._identities:
            folder = self.folders.get(model)
            if folder is None and ":" not in model:
                raise UserError(f"model {model!r}: neither {sorted(self.folders)} nor <endpoint>:<model>")
            self._identities[model] = model if folder is None else "sha256:" + digest.identity(folder)
        return self._identities[model]

    async def _endpoint(self, model: str) -> tuple[Endpoint, str]:
        """(endpoint, model name there); a local server starts when its first call is really made."""
        name = model if model in self.folders else model.split(":", 1)[0]
        if name not in self._endpoints:
            self._endpoints[name] = asyncio.create_task(self._open(name))
        found, served = await asyncio.shield(self._endpoints[name])
        if model in self.folders:
            return found, served
        if self._listed[name]:
            self._check_served(model, self._listed[name])
        return found, model.split(":", 1)[1]

    async def _open(self, name: str) -> tuple[Endpoint, str]:
        if folder := self.folders.get(name):
            e = self.settings.embedded
            served = await asyncio.to_thread(local.start, folder, slots=e.slots, context=e.context, threads=e.threads)
            self._engines.append(served)
            return Endpoint(name, Limits(base_url=served.url, concurrency=e.concurrency), served.key), served.model
        endpoint = Endpoint(name, self.settings.limits(name))
        self._listed[name] = await endpoint.listed()  # some servers answer to any name, and give it back
        return endpoint, ""

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
            CallFailed: no draw gave an accepted outcome.
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
        raise CallFailed(found, text)

    def request(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None) -> tuple[str, str]:
        """(key of the reply, JSON of the request but for the model's name at its server)."""
        if folder := self.folders.get(role.model):
            messages = control_tokens.escaped(messages, folder)
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
        if role.logprobs:
            body["logprobs"], body["top_logprobs"] = True, role.logprobs
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
        return keyed(self.model_identity(role.model), body)

    async def _reply(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None) -> dict[str, Any]:
        key, request = self.request(role, messages, seed, schema)
        stored = self.cache.get(key)
        if stored is not None:
            reply, hit = stored, True
        else:
            about = {"stage": self.stage, "role": role.name, "model": self.model_identity(role.model)}
            task = asyncio.create_task(
                self.cache.once(key, partial(self._call, key, role, request, messages, about), **about)
            )
            self._running.add(task)
            task.add_done_callback(self._ended)
            reply, hit = await asyncio.shield(task)  # whoever gives up waiting, the answer is stored
        self.served.setdefault(role.name, Counter())[self._served(role.model, reply.get("served_model"))] += 1
        self.calls += 1
        self.hits += hit
        self.usage.setdefault(role.name, []).append(tuple(reply.get(name) for name in COUNTS))
        return reply

    def _served(self, model: str, told: str | None) -> str:
        """Name of the model that a reply is from: the server's word, or the weights' digest for a local one."""
        if model in self.folders:
            return self.model_identity(model)[: len("sha256:") + 12]
        if not told:
            return "not told"
        self._check_served(model, [told])
        return told

    def _check_served(self, model: str, told: list[str]) -> None:
        """Raise UserError unless one of the names a server tells is the model asked for. Replies stay stored and unused."""
        endpoint, asked = model.split(":", 1)
        limits = self.settings.endpoints.get(endpoint, Limits())  # stored replies do not need theirs any more
        names = (asked, limits.aliases.get(asked, asked))
        if not any(same_model(name, t) for name in names for t in told):
            nearest = difflib.get_close_matches(asked, told, n=3, cutoff=0)
            raise UserError(
                f"endpoint {endpoint}: serves {', '.join(nearest)}, not {asked}; name the model you want in roles, "
                f"or, if that is it, set llm.endpoints.{endpoint}.aliases to {{{asked}: {nearest[0]}}}"
            )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, should nobody wait for it any more

    async def _call(
        self, key: str, role: Role, request: str, messages: list[Message], about: dict[str, str]
    ) -> dict[str, Any]:
        """A paid call: the reply as it is stored."""
        endpoint, served = await self._endpoint(role.model)
        batched = self.batched(role)
        price = self._price(role.model, endpoint, served, batched)
        size = sum(len(m["content"].encode()) for m in messages)
        worst = price.usd(size, 0, role.tokens) if price else None  # no token is shorter than a byte
        await self.budget.reserve(key, role.model, worst)
        self._batched += batched
        cost: float | None = 0.0  # of a call that nothing came of
        try:
            data = f'{{"model": {json.dumps(served)}, {request[1:]}'.encode()
            if batched:
                answer = await self._batch(endpoint).answer(key, json.loads(data), {**about, "served": served})
                seconds = 0.0
            else:
                answer, seconds = await endpoint.post(data, tokens=size // 4 + role.tokens)
            reply = stored_form(answer, price, local=role.model in self.folders, seconds=seconds)
            cost = reply["cost_usd"]
            return reply
        finally:
            self._batched -= batched
            self.budget.settle(key, cost)

    def batched(self, role: Role) -> bool:
        """Whether the calls of `role` go through a Batch API."""
        return role.name in self.settings.batch_roles and role.model not in self.folders

    def _price(self, model: str, endpoint: Endpoint, served: str, batched: bool) -> Price | None:
        if model in self.folders:
            return Price(prompt=0, completion=0)
        price = endpoint.limits.prices.get(served)
        return price.times(batch.DISCOUNT) if price and batched else price

    def _batch(self, endpoint: Endpoint) -> batch.Batches:
        async def store(key: str, answer: dict[str, Any], about: dict[str, str]) -> None:
            price = self._price("", endpoint, about.pop("served"), True)
            await self.cache.put(key, stored_form(answer, price, local=False, seconds=0.0), **about)

        if endpoint.name not in self._batches:
            online = lambda: len(self._running) - self._batched  # until their replies are stored  # noqa: E731
            poll = self.settings.batch_poll_s
            self._batches[endpoint.name] = batch.Batches(endpoint, self.cache, store, online, poll)
        return self._batches[endpoint.name]

    def rate(self, seconds: float) -> str:
        """For the progress line: calls a second, how many were stored before, and what the others cost."""
        cost = f", {self.budget.paid:.4f} USD" if self.budget.paid else ""
        return f"{self.calls / max(seconds, 1e-9):.1f} calls/s, {self.hits} of {self.calls} from the cache{cost}"

    def numbers(self) -> dict[str, float | None]:
        """For DVC Studio: calls so far, how many were stored before or set aside, and what the others cost."""
        cost = round(self.budget.paid, 6)
        return {"calls": self.calls, "stored": self.hits, "failed": len(self.failed), "cost_usd": cost}

    def record_failure(self, item: str, role: str, error: CallFailed) -> None:
        """Record an item that could not be had; `finish` writes them down."""
        self.failed.append({"item": item, "role": role, "reason": error.reason, "raw": error.raw})

    def metrics(self) -> dict[str, Any]:
        """Calls, tokens, cost (as paid when the reply came) and outcomes, of all roles and by role.

        The same whether the replies were paid for now or before. A sum is None where one of its parts is unknown.
        """
        everything = [row for rows in self.usage.values() for row in rows]
        roles = {
            name: {**totals(rows), "outcomes": dict(self.outcomes[name]), "served": listed(self.served[name])}
            for name, rows in self.usage.items()
        }
        return {"all": totals(everything), **roles}

    def finish(self, path: Path, items: int, max_failed_share: float) -> None:
        """Write the quarantine file; fail if more than the given share of the items was set aside."""
        write_jsonl(path, sorted(self.failed, key=lambda r: str(r["item"])))
        if len(self.failed) > max_failed_share * items:
            first = self.failed[0]
            raise UserError(
                f"{len(self.failed)} of {items} items were set aside, more than the allowed share of "
                f"{max_failed_share}; see {path}; the first: {first['item']}: {first['reason']}: {first['raw'][:120]}"
            )


def listed(names: Counter[str]) -> str:
    """The one name, or all of them with their numbers."""
    return ", ".join(sorted(names) if len(names) == 1 else (f"{name} ({n})" for name, n in sorted(names.items())))


def totals(rows: list[tuple[float | None, ...]]) -> dict[str, float | None]:
    """Number and sums of COUNTS."""
    sums = {name: [row[i] for row in rows] for i, name in enumerate(COUNTS)}
    return {"calls": len(rows), **{k: None if None in v else round(sum(v), 6) for k, v in sums.items()}}  # type: ignore[arg-type]
