"""One OpenAI-compatible server: how many calls it gets at once, and what happens when it refuses or falls over.

The only retry loop there is (the SDK's own is off). Policies per class of fault:
  429                       Retry-After, else full jitter; one cut of the concurrency per episode, by the share of calls
                            refused, slow growth back
  5xx, timeout, reset       one breaker for all callers, one probe at a time while it is open; a deadline per call
  400, 413, 422             the same request is never sent again: the item is set aside
  401, 403, 404, quota      stop: one line
"""

import asyncio
import json
import os
import random
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from stages.core.cli import UserError, one_line
from stages.llm.settings import Limits

ABSENT_S = 20.0  # how long connections to a server may fail that has never answered


class CallFailed(Exception):
    """One item cannot be had. `reason` is a named outcome, `raw` what the server said."""

    def __init__(self, reason: str, raw: str):
        super().__init__(f"{reason}: {raw[:200]}")
        self.reason, self.raw = reason, raw


@dataclass
class _Window:
    """At most `limit` units a minute, by the sliding window the servers use themselves."""

    limit: int
    spent: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def delay(self, units: int, now: float) -> float:
        """Seconds until `units` more may be spent; 0 spends them."""
        while self.spent and self.spent[0][0] <= now - 60:
            self.total -= self.spent.popleft()[1]
        if not self.limit or not self.spent or self.total + units <= self.limit:
            self.spent.append((now, units))
            self.total += units
            return 0.0
        return self.spent[0][0] + 60 - now


def key_named(name: str) -> str:
    """The API key that environment variable `name` holds, else line `name` of .env in the repository DVC runs for.

    Nothing else of .env is looked at and nothing of it goes into the environment, which subprocesses inherit and the queue
    of experiments stores.
    """
    from dotenv import dotenv_values

    key = os.environ.get(name, "")
    if not key:
        file = Path(os.environ.get("DVC_ROOT", ".")) / ".env"
        try:
            key = dotenv_values(file, interpolate=False).get(name) or ""
        except (OSError, ValueError):  # not the error's text, which may quote the file
            raise UserError(f"{file}: cannot be read as lines of NAME=value") from None
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{name}: holds a character that no API key has")  # a client would quote it in its error
    return key


def _is_completion(answer: Any) -> TypeGuard[dict[str, Any]]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and bool(choices) and isinstance((choices[0] or {}).get("message"), dict)


class Endpoint:
    """A server and the state its callers share. `key` overrides the environment (local servers)."""

    TRIP = 3  # faults in a row that open the breaker

    def __init__(self, name: str, limits: Limits, key: str | None = None):
        self.name, self.limits = name, limits
        self._key = key if key is not None else key_named(limits.key_env) if limits.key_env else "none"
        if not self._key:
            raise UserError(f"endpoint {name}: set {limits.key_env} to its API key, in the environment or in .env")
        self._client: Any = None
        self._width = float(limits.concurrency)  # calls allowed at once just now
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._faults = 0
        self._answered = 0.0  # moment of the last answer
        self._open_until = 0.0  # breaker: nobody calls before this moment
        self._probing = False
        self._cut_at = 0.0
        self._served = self._refused = 0  # since the last cut: answers and 429s
        self._requests, self._tokens = _Window(limits.requests_per_minute), _Window(limits.tokens_per_minute)
        self.sending: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # callers whose request is with the server
        self._draining = False

    def drain(self) -> None:
        """From now on nothing is sent, not even again."""
        self._draining = True

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

            pool = httpx2.Limits(max_connections=None, max_keepalive_connections=self.limits.concurrency)
            self._client = AsyncOpenAI(
                base_url=self.limits.base_url,
                api_key=self._key,
                max_retries=0,
                timeout=self.limits.timeout_s,
                http_client=DefaultAioHttpClient(limits=pool, timeout=self.limits.timeout_s),
            )
            gc.collect()
            gc.freeze()  # what is imported by now stays: a tenth of the time per call went into looking at it again
        return self._client

    async def listed(self) -> list[str]:
        """Names of the models that the server lists; none where it has no list, or none for this key."""
        import openai

        try:
            answer = await self.client().get("/models", cast_to=object, options={"timeout": ABSENT_S})
        except (openai.OpenAIError, ValueError):
            return []  # what is wrong with the server, the first call tells
        rows = answer.get("data") if isinstance(answer, dict) else None
        return [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    async def post(self, body: bytes, tokens: int = 0) -> tuple[dict[str, Any], float]:
        """The server's answer to a chat completion request, and the seconds it took.

        Args:
            body: the request as JSON.
            tokens: estimate of the tokens it will use, for the tokens-per-minute limit.
        Raises:
            CallFailed: this request will never be answered (400s), or the deadline passed while others were answered.
            UserError: no request will be answered (key, quota, wrong URL, nobody there).
        """
        import openai

        client = self.client()
        caller = asyncio.current_task()
        assert caller is not None
        begun = 0.0
        tries = 0
        while True:
            probe = await self._enter(tokens)
            begun = begun or time.monotonic()  # waiting for a place is nobody's fault
            pause, sent = 0.0, time.monotonic()
            self.sending.add(caller)
            try:
                # low-level, and as bytes: typing the request costs 4 ms of CPU with a long history, copying its messages 0.2
                answer = await client.post("/chat/completions", cast_to=object, content=body)
                if not _is_completion(answer):
                    raise CallFailed("malformed", self.plain(answer, 2000))
                self._healthy()
                return answer, time.monotonic() - sent
            except (json.JSONDecodeError, UnicodeDecodeError) as e:  # the SDK hands it on as it is
                raise CallFailed("malformed", self.plain(e)) from None
            except openai.RateLimitError as e:
                if "quota" in f"{getattr(e, 'code', '')} {e}".lower():
                    raise UserError(f"endpoint {self.name}: out of quota: {self.told(e)}") from None
                last, pause = e, self._throttled(e, tries)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as e:
                raise UserError(f"endpoint {self.name} answers {e.status_code}: {self.told(e)}") from None
            except (openai.APIConnectionError, openai.InternalServerError) as e:  # timeouts are connection errors
                last, pause = e, self._fault(tries)
                if probe:
                    pause = 0.0  # the breaker's own clock decides
            except openai.APIStatusError as e:
                self._faults = 0  # it is there
                reason = "context_overflow" if "context" in str(e).lower() else f"status_{e.status_code}"
                raise CallFailed(reason, self.told(e)) from None
            finally:
                self._leave(probe)
            self.sending.discard(caller)  # not before: an answer that came must still be stored
            tries += 1
            # a wrong address is not waited for as a restart is
            absent = not self._answered and type(last.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            patience = min(ABSENT_S, self.limits.deadline_s) if absent else self.limits.deadline_s
            if time.monotonic() + pause > begun + patience:
                told = self.told(last)
                if self._answered < begun and isinstance(last, openai.APIConnectionError | openai.RateLimitError):
                    what = "is not there" if isinstance(last, openai.APIConnectionError) else "keeps to its rate limit"
                    raise UserError(f"endpoint {self.name} at {self.limits.base_url} {what}: {told}") from None
                raise CallFailed("deadline", told) from None
            await asyncio.sleep(pause)

    def told(self, error: Exception) -> str:
        """What the server said, on one line, without the key."""
        body = getattr(error, "body", None)
        return self.plain((body.get("message") if isinstance(body, dict) else None) or body or error.__cause__ or error)

    def plain(self, text: object, limit: int = 300) -> str:
        """`text` on one line of at most `limit` characters, without the key (which a cut must not leave a part of)."""
        line = one_line(text, 1_000_000)
        return (line if self._key == "none" else line.replace(self._key, "***"))[:limit]

    # --- who may call when -------------------------------------------------------------------------------------------

    async def _enter(self, tokens: int) -> bool:
        """Wait for a place; True if this call is the probe of an open breaker."""
        while True:
            if self._draining:
                raise asyncio.CancelledError
            now = time.monotonic()
            if self._faults >= self.TRIP:
                if not self._probing and now >= self._open_until:
                    self._probing = True
                    self._busy += 1
                    return True
                await asyncio.sleep(max(0.02, min(0.1, self._open_until - now)))
                continue
            if self._busy >= int(self._width):
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._queue.append(future)
                await future
                continue
            delay = self._requests.delay(1, now) or (self._tokens.delay(tokens, now) if tokens else 0.0)
            if delay:
                await asyncio.sleep(delay)
                continue
            self._busy += 1
            return False

    def _leave(self, probe: bool) -> None:
        self._busy -= 1
        if probe:
            self._probing = False
        self._wake()

    def _wake(self) -> None:
        free = int(self._width) - self._busy
        while free > 0 and self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                free -= 1

    def _healthy(self) -> None:
        self._faults, self._answered = 0, time.monotonic()
        self._served += 1
        if self._width < self.limits.concurrency:
            self._width = min(self.limits.concurrency, self._width + 1 / self._width)

    def _fault(self, tries: int) -> float:
        self._faults += 1
        if self._faults >= self.TRIP:
            self._open_until = time.monotonic() + min(2.0, 0.25 * 2 ** (self._faults - self.TRIP))
            return 0.0
        return random.uniform(0, min(2.0, 0.1 * 2**tries))

    def _throttled(self, error: Any, tries: int) -> float:
        now = time.monotonic()
        self._refused += 1
        if now - self._cut_at > 1.0:  # one cut an episode, however many calls it hits: a fifth, if none is served
            share = self._refused / (self._refused + self._served)
            self._cut_at, self._width = now, max(1.0, self._width * (1 - share / 5))
            self._served = self._refused = 0
        header = error.response.headers.get("retry-after", "")
        try:
            return float(header)
        except ValueError:
            return random.uniform(0.05, min(30.0, 0.5 * 2**tries))
