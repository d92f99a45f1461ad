"""OpenAI's Batch API, for calls that nothing waits for: half the price, an answer within a day.

Calls are collected until no other call of the stage is under way, then submitted together. What is submitted is written down
in the reply cache first, with a token that the batch carries in its metadata, so a run that was killed at any moment finds
its batches again and submits nothing twice. Every answer of a batch is stored, also those that nobody asks for any more.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from stages.core.cli import UserError
from stages.llm.cache import Cache
from stages.llm.endpoint import CallFailed, Endpoint

MOST = 50_000  # requests in a batch, the API's limit
_SCHEMA = """CREATE TABLE IF NOT EXISTS batches(
  token TEXT PRIMARY KEY, endpoint TEXT NOT NULL, owner TEXT NOT NULL, id TEXT, about TEXT NOT NULL) WITHOUT ROWID"""
About = dict[str, str]  # of a call: stage, role, model, and the name it is served under
Store = Callable[[str, dict[str, Any], About], Awaitable[None]]


class Batches:
    """The batches of one endpoint.

    Args:
        store: keeps the server's answer to the call with that key.
        online: number of calls of the stage under way that are not in a batch.
        poll_s: seconds between two requests for the state of a batch.
    """

    def __init__(self, endpoint: Endpoint, cache: Cache, store: Store, online: Callable[[], int], poll_s: float):
        self._endpoint, self._cache, self._store, self._online, self._poll_s = endpoint, cache, store, online, poll_s
        self._new: dict[str, tuple[dict[str, Any], About]] = {}
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._watcher: asyncio.Task[None] | None = None
        cache.db.execute(_SCHEMA)

    async def answer(self, key: str, body: dict[str, Any], about: About) -> dict[str, Any]:
        """The server's answer to `body`. Raises CallFailed when the batch came back without one."""
        self._waiting[key] = asyncio.get_running_loop().create_future()
        self._new[key] = (body, about)  # until `_watch` finds it in a batch that is submitted
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            return await self._waiting[key]
        finally:
            del self._waiting[key]

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
                for key in self._new.keys() & {key for _, _, about in submitted for key in about}:
                    del self._new[key]
                quiet, seen = seen == len(self._new) and not self._online(), len(self._new)
                if self._new and quiet:
                    await self._submit()
                for token, batch, about in submitted:
                    if any(key in about for key in self._waiting):
                        await self._collect(token, batch, about)
                await asyncio.sleep(min(0.5, self._poll_s) if self._new else self._poll_s)
        except Exception as e:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(e)

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

    async def _submit(self) -> None:
        calls = {key: self._new.pop(key) for key in list(self._new)[:MOST]}
        token = uuid.uuid4().hex
        about = json.dumps({key: about for key, (_, about) in calls.items()})
        row = (token, self._endpoint.name, self._cache.owner, None, about)
        self._cache.db.execute("INSERT INTO batches VALUES(?,?,?,?,?)", row)
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for key, (body, _) in calls.items()
        ]
        data = ("\n".join(lines) + "\n").encode()
        file = await self._api(lambda c: c.files.create(file=("calls.jsonl", data), purpose="batch"))
        batch = await self._api(
            lambda c: c.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"token": token}
            )
        )
        self._cache.db.execute("UPDATE batches SET id=? WHERE token=?", (batch.id, token))
        print(f"batch {batch.id}: {len(calls)} calls submitted to {self._endpoint.name}", file=sys.stderr)

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

    async def _read(self, file: str) -> str:
        return str((await self._api(lambda c: c.files.content(file))).text)

    async def _collect(self, token: str, batch: str, about: dict[str, About]) -> None:
        """Store what a finished batch answered and hand it to those who wait."""
        found = await self._api(lambda c: c.batches.retrieve(batch))
        if found.status not in ("completed", "expired", "cancelled", "failed"):
            return
        answers: dict[str, dict[str, Any] | Exception] = {}
        for file in filter(None, (found.output_file_id, found.error_file_id)):
            for line in (await self._read(file)).splitlines():
                row = json.loads(line)
                response = row.get("response") or {}
                if response.get("status_code") == 200:
                    answers[row["custom_id"]] = response["body"]
                else:
                    message = self._endpoint.redacted(json.dumps(row.get("error") or response.get("body")))
                    answers[row["custom_id"]] = CallFailed(f"status_{response.get('status_code')}", message)
        for key, answer in answers.items():
            if isinstance(answer, dict) and key in about:
                await self._store(key, answer, about[key])
        self._cache.db.execute("DELETE FROM batches WHERE token=?", (token,))
        if found.status == "failed":
            first = found.errors.data[0].message if found.errors and found.errors.data else "no reason given"
            raise UserError(f"endpoint {self._endpoint.name}: batch {batch} failed: {self._endpoint.redacted(first)}")
        for key in about:
            future = self._waiting.get(key)
            if future and not future.done():
                answer = answers.get(key, CallFailed(f"batch_{found.status}", f"batch {batch} came back without an answer"))
                if isinstance(answer, dict):
                    future.set_result(answer)
                else:
                    future.set_exception(answer)
