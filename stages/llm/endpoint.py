"""One OpenAI-compatible server, and what happens when it refuses or falls over.

The only retry loop there is (the SDK's own is off). Policies per class of fault (limiter.py says when a call goes out):
  429                       Retry-After, else full jitter; fewer calls at once
  5xx, timeout, reset       one breaker for all callers, one probe at a time while it is open; a deadline per call
  400, 413, 422             the same request is never sent again: the call failed
  401, 403, 404, quota      stop: one line
"""

import asyncio
import json
import os
import time
import weakref
from pathlib import Path
from typing import Any, TypeGuard

from stages.core.cli import UserError, one_line
from stages.llm.limiter import Limiter
from stages.llm.settings import Limits

ABSENT_S = 20.0  # how long connections to a server may fail that has never answered


class CallFailed(Exception):
    """A call without a usable reply. `reason` is a named outcome, `raw` the server's text."""

    def __init__(self, reason: str, raw: str):
        super().__init__(f"{reason}: {raw[:200]}")
        self.reason, self.raw = reason, raw


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
    """A server and the state that its callers share. `key` overrides the environment (local servers)."""

    def __init__(self, name: str, limits: Limits, key: str | None = None):
        self.name, self.limits, self.limiter = name, limits, Limiter(limits)
        self._key = key if key is not None else key_named(limits.key_env) if limits.key_env else "none"
        if not self._key:
            raise UserError(f"endpoint {name}: set {limits.key_env} to its API key, in the environment or in .env")
        self._client: Any = None
        self._answered = 0.0  # moment of the last answer
        self.sending: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # callers whose request is with the server

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
            gc.freeze()  # what is imported by now stays: scanning it again took a tenth of the time per call
        return self._client

    async def listed(self) -> list[str]:
        """Names of the models that the server lists; none where it has no list, or none for this key."""
        import openai

        try:
            answer = await self.client().get("/models", cast_to=object, options={"timeout": ABSENT_S})
        except (openai.OpenAIError, ValueError):
            return []  # the first call raises what is wrong with the server
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

        client, caller = self.client(), asyncio.current_task()
        assert caller is not None
        begun, tries = 0.0, 0
        while True:
            probe = await self.limiter.enter(tokens)
            begun = begun or time.monotonic()  # waiting for a place is nobody's fault
            sent = time.monotonic()
            self.sending.add(caller)
            try:
                # low-level, and as bytes: typing the request costs 4 ms of CPU with a long history, copying its messages 0.2
                answer = await client.post("/chat/completions", cast_to=object, content=body)
                if not _is_completion(answer):
                    raise CallFailed("malformed", self.redacted(answer, 2000))
                self._answered = time.monotonic()
                self.limiter.answered()
                return answer, self._answered - sent
            except (json.JSONDecodeError, UnicodeDecodeError) as e:  # the SDK hands it on as it is
                raise CallFailed("malformed", self.redacted(e)) from None
            except openai.APIError as e:
                pause = self._pause(e, tries, begun, probe)
            finally:
                self.limiter.leave(probe)
            self.sending.discard(caller)  # not before: an answer that came must still be stored
            tries += 1
            await asyncio.sleep(pause)

    def _pause(self, error: Any, tries: int, begun: float, probe: bool) -> float:
        """Seconds until the same request is sent again.

        Args:
            tries: how often it was sent before.
            begun: moment at which it was sent first.
            probe: whether it probed an open breaker.
        Raises:
            CallFailed, UserError: sending it again is of no use, or the deadline would pass.
        """
        import openai

        message = self.message(error)
        if isinstance(error, openai.RateLimitError):
            if "quota" in f"{getattr(error, 'code', '')} {error}".lower():
                raise UserError(f"endpoint {self.name}: out of quota: {message}") from None
            pause = self.limiter.refused(error.response.headers.get("retry-after", ""), tries)
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            raise UserError(f"endpoint {self.name} answers {error.status_code}: {message}") from None
        elif isinstance(error, openai.APIConnectionError | openai.InternalServerError):  # timeouts are connection errors
            pause = self.limiter.fault(tries)
            if probe:
                pause = 0.0  # the breaker's own clock decides
        elif isinstance(error, openai.APIStatusError):
            self.limiter.rejected()
            reason = "context_overflow" if "context" in str(error).lower() else f"status_{error.status_code}"
            raise CallFailed(reason, message) from None
        else:
            raise error
        # a wrong address is not waited for as a restart is
        absent = not self._answered and type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
        patience = min(ABSENT_S, self.limits.deadline_s) if absent else self.limits.deadline_s
        if time.monotonic() + pause > begun + patience:
            if self._answered < begun and isinstance(error, openai.APIConnectionError | openai.RateLimitError):
                what = "is not there" if isinstance(error, openai.APIConnectionError) else "keeps to its rate limit"
                raise UserError(f"endpoint {self.name} at {self.limits.base_url} {what}: {message}") from None
            raise CallFailed("deadline", message) from None
        return pause

    def message(self, error: Exception) -> str:
        """The server's error message on one line, without the key."""
        body = getattr(error, "body", None)
        text = (body.get("message") if isinstance(body, dict) else None) or body or error.__cause__ or error
        return self.redacted(text)

    def redacted(self, text: object, limit: int = 300) -> str:
        """`text` on one line of at most `limit` characters, without the key (which a cut must not leave a part of)."""
        line = one_line(text, 1_000_000)
        return (line if self._key == "none" else line.replace(self._key, "***"))[:limit]
