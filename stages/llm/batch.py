"""OpenAI's Batch API, for calls that nothing waits for: half the price, an answer within a day.

Calls are collected until no other call of the stage is under way, then submitted together. What is submitted is written down
in the reply cache first, with a token that the batch carries in its metadata, so a run that was killed at any moment finds
its batches again and submits nothing twice. Every answer of a batch is stored, also those that nobody asks for any more.
What the server did not get to, as in a batch that expired, is submitted again.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from stages.core.cli import UserError
from stages.llm import faults
from stages.llm.cache import Cache
from stages.llm.endpoint import CallFailed, Endpoint, is_completion
from stages.llm.settings import Llm

ATTEMPTS = 3  # how often a call is submitted that the server does not get to
QUEUE_FULL = "token_limit_exceeded"  # code of a batch that was refused for the tokens already queued
_SCHEMA = """CREATE TABLE IF NOT EXISTS batches(
  token TEXT PRIMARY KEY, endpoint TEXT NOT NULL, owner TEXT NOT NULL, id TEXT, about TEXT NOT NULL) WITHOUT ROWID"""
About = dict[str, str]  # of a call: stage, role, model, and the name it is served under
Store = Callable[[str, dict[str, Any], About], Awaitable[None]]


@dataclass
class Call:
    """A call that waits for its answer."""

    body: dict[str, Any]
    about: About
    tokens: int
    """Estimate of what it will use."""
    answer: asyncio.Future[dict[str, Any]]
    submitted: int = 0
    """How often."""


class Batches:
    """The batches of one endpoint.

    Args:
        store: keeps the server's answer to the call with that key. Raises CallFailed for an answer that cannot be kept.
        online: number of calls of the stage under way that are not in a batch.
        settings: section `llm`.
    """

    def __init__(self, endpoint: Endpoint, cache: Cache, store: Store, online: Callable[[], int], settings: Llm):
        self._endpoint, self._cache, self._store, self._online, self._llm = endpoint, cache, store, online, settings
        self._poll_s = settings.batch_poll_s
        self._most_tokens = float(settings.batch_tokens or "inf")
        self._waiting: dict[str, Call] = {}
        self._new: set[str] = set()  # of these, the ones that are in no batch
        self._full = False  # the server's queue; until one of our batches has ended
        self._watcher: asyncio.Task[None] | None = None
        cache.db.execute(_SCHEMA)

    async def answer(self, key: str, body: dict[str, Any], about: About, tokens: int) -> dict[str, Any]:
        """The server's answer to `body`. Raises CallFailed when the batch came back without one.

        `tokens`: estimate of what the call will use.
        """
        self._waiting[key] = Call(body, about, tokens, asyncio.get_running_loop().create_future())
        self._new.add(key)  # until `_watch` finds it in a batch that is submitted
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            return await self._waiting[key].answer
        finally:
            del self._waiting[key]
            self._new.discard(key)

    async def close(self) -> None:
        """Stop watching; what is submitted goes on at the server."""
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    def _submitted(self) -> list[tuple[str, str, dict[str, About]]]:
        """(token, id at the server, key -> about) of every batch of this endpoint that is at the server."""
        rows = self._cache.db.execute(
            "SELECT token, id, about FROM batches WHERE endpoint=? AND id IS NOT NULL", (self._endpoint.name,)
        )
        return [(token, batch, json.loads(about)) for token, batch, about in rows]

    async def _watch(self) -> None:
        try:
            await self._find_lost()
            seen = -1
            while self._waiting:
                submitted = self._submitted()  # read once a round: the list of a large batch takes a while
                self._new -= {key for _, _, about in submitted for key in about}
                quiet, seen = seen == len(self._new) and not self._online(), len(self._new)
                ours = [s for s in submitted if any(key in s[2] for key in self._waiting)]
                if self._new and quiet and not (self._full and ours):
                    await self._submit()
                for token, batch, about in ours:
                    await self._collect(token, batch, about)
                await asyncio.sleep(min(0.5, self._poll_s) if self._new and not self._full else self._poll_s)
        except Exception as e:
            for call in self._waiting.values():
                if not call.answer.done():
                    call.answer.set_exception(e)

    async def _api(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """The result of `call(client)`; a server that is away is tried again, a refusal ends the run with one line."""
        import openai

        pause, passed = self._poll_s, 0.0
        while True:
            try:
                return await call(self._endpoint.client())
            except openai.APIError as e:
                away = isinstance(e, openai.APIConnectionError | openai.InternalServerError | openai.RateLimitError)
                if not away or passed > self._endpoint.limits.deadline_s:
                    raise UserError(f"endpoint {self._endpoint.name}: batch: {self._endpoint.message(e)}") from None
            await asyncio.sleep(pause)
            passed, pause = passed + pause, min(60.0, 2 * pause)

    def _next(self) -> dict[str, bytes]:
        """Calls of the next batch, by key, as lines of its file: as many as the limits allow, at least one."""
        lines: dict[str, bytes] = {}
        size, tokens = 0, 0
        for key in [key for key in self._waiting if key in self._new]:
            call = self._waiting[key]
            row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": call.body}
            line = json.dumps(row).encode() + b"\n"
            size, tokens = size + len(line), tokens + call.tokens
            over = size > self._llm.batch_mb * 1e6 or tokens > self._most_tokens or len(lines) == self._llm.batch_calls
            if lines and over:
                break
            lines[key] = line
        return lines

    async def _submit(self) -> None:
        lines = self._next()
        self._new -= lines.keys()
        token = uuid.uuid4().hex
        about = {key: self._waiting[key].about for key in lines}
        for key in lines:
            self._waiting[key].submitted += 1
        row = (token, self._endpoint.name, self._cache.owner, None, json.dumps(about))
        self._cache.db.execute("INSERT INTO batches VALUES(?,?,?,?,?)", row)
        data = b"".join(lines.values())
        file = await self._api(lambda c: c.files.create(file=("calls.jsonl", data), purpose="batch"))
        batch = await self._api(
            lambda c: c.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"token": token}
            )
        )
        self._cache.db.execute("UPDATE batches SET id=? WHERE token=?", (batch.id, token))
        print(f"batch {batch.id}: {len(lines)} calls submitted to {self._endpoint.name}", file=sys.stderr)

    async def _find_lost(self) -> None:
        """Batches of dead processes that may or may not have reached the server: find them there, or forget them."""
        lost = {
            token
            for token, owner in self._cache.db.execute(
                "SELECT token, owner FROM batches WHERE endpoint=? AND id IS NULL", (self._endpoint.name,)
            ).fetchall()
            if not self._cache.alive(owner)
        }
        if not lost:
            return
        page = await self._api(lambda c: c.batches.list(limit=100))
        async for batch in page:
            token = (batch.metadata or {}).get("token")
            if token in lost:
                lost.discard(token)
                self._cache.db.execute("UPDATE batches SET id=? WHERE token=?", (batch.id, token))
        self._cache.db.executemany("DELETE FROM batches WHERE token=?", [(token,) for token in lost])

    async def _rows(self, file: str) -> list[dict[str, Any]]:
        """Rows of a result file. A line that cannot be read is left out: its call came back without an answer."""
        data = (await self._api(lambda c: c.files.content(file))).content
        rows = []
        for line in data.split(b"\n"):  # splitlines() would break lines at U+2028 and its like, which JSON may hold
            try:
                row = json.loads(line.decode(errors="replace")) if line.strip() else None
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
                rows.append(row)
        return rows

    def _result(self, row: dict[str, Any]) -> dict[str, Any] | Exception | None:
        """What a row of a result file gives its call; None where the server did not get to it."""
        response, error = row.get("response"), row.get("error")
        status = response.get("status_code") if isinstance(response, dict) else None
        body = response.get("body") if isinstance(response, dict) else None
        if status == 200:
            self._endpoint.answered()
            fault = faults.inside(body)
            if fault is None:
                shaped = is_completion(body)
                return body if shaped else CallFailed("malformed", self._endpoint.redacted(json.dumps(body), 2000))
        elif isinstance(error, dict) and error.get("code") in ("batch_expired", "batch_cancelled"):
            return None
        else:
            fault = faults.refusal(status if isinstance(status, int) else 400, body or error)
        call = self._waiting.get(row["custom_id"])
        return self._endpoint.refused(fault, json.dumps(call.body if call else {}).encode())

    async def _collect(self, token: str, batch: str, about: dict[str, About]) -> None:
        """Store what a finished batch answered and hand it to those who wait; what it did not get to is new again."""
        found = await self._api(lambda c: c.batches.retrieve(batch))
        if found.status not in ("completed", "expired", "cancelled", "failed"):
            return
        results: dict[str, dict[str, Any] | Exception] = {}
        unreached: set[str] = set()
        stop: UserError | None = None
        for file in filter(None, (found.output_file_id, found.error_file_id)):
            for row in await self._rows(file):
                key, result = row["custom_id"], self._result(row)
                if key not in about:
                    continue
                if result is None:
                    unreached.add(key)
                elif isinstance(result, UserError):
                    stop = result  # it concerns every call; what came is kept first
                else:
                    results[key] = await self._kept(key, result, about[key])
        self._cache.db.execute("DELETE FROM batches WHERE token=?", (token,))
        self._full = False
        if stop:
            raise stop
        name = f"endpoint {self._endpoint.name}: batch {batch}"
        if found.status == "failed":
            self._refused(name, found.errors.data if found.errors else None, about)
            return
        if found.status == "cancelled" and about.keys() - results.keys():
            raise UserError(f"{name} was cancelled at the server; what it answered is kept, run again for the rest")
        if found.status == "expired":
            unreached |= about.keys() - results.keys()
        for key in about:
            call = self._waiting.get(key)
            if call is None or call.answer.done():
                continue
            result = results.get(key)
            if isinstance(result, dict):
                call.answer.set_result(result)
            elif result is None and key in unreached and call.submitted < ATTEMPTS:
                self._new.add(key)
            else:
                lost = f"batch_{'expired' if key in unreached else found.status}"
                call.answer.set_exception(result or CallFailed(lost, f"batch {batch} came back without an answer"))

    async def _kept(self, key: str, result: dict[str, Any] | Exception, about: About) -> dict[str, Any] | Exception:
        """The result of one call, which is stored if it is an answer; the fault of one that cannot be kept is its own."""
        try:
            if isinstance(result, dict):
                await self._store(key, result, about)
            return result
        except CallFailed as e:
            return e

    def _refused(self, name: str, errors: Any, about: dict[str, About]) -> None:
        """A batch failed as a whole: its calls are submitted again, fewer at once, where the server's queue was full.

        Raises:
            UserError: any other reason.
        """
        first = errors[0] if errors else None
        calls = [self._waiting[key] for key in about if key in self._waiting]
        others = any(key in batch for _, _, batch in self._submitted() for key in self._waiting)
        if getattr(first, "code", None) == QUEUE_FULL and calls and (others or len(calls) > 1):
            self._full = others  # then one of them has to end first
            if not others:
                self._most_tokens = sum(call.tokens for call in calls) / 2
            for call in calls:
                call.submitted -= 1
            self._new |= about.keys() & self._waiting.keys()
            return
        reason = first.message if first else "no reason given"
        limit = "; set llm.batch_tokens below it" if getattr(first, "code", None) == QUEUE_FULL else ""
        raise UserError(f"{name} failed: {self._endpoint.redacted(reason)}{limit}")
