"""One OpenAI-compatible server, and what happens when it refuses or falls over.

The only retry loop there is (the SDK's own is off). Policies per meaning of a fault (faults.py says which it is, limiter.py
when a call goes out):
  rate limit                Retry-After, and at least a pause that grows; fewer calls at once
  server's, timeout, reset  one breaker for all callers of an address, one probe at a time while it is open, the others
                            go to its replicas; a deadline per call
  of this request           never sent again: the call failed
  of every request          (key, address, no money, a parameter that the model does not take) stop: one line
"""

import asyncio
import json
import os
import time
import weakref
from pathlib import Path
from typing import Any, TypeGuard

from stages.core.cli import UserError, one_line
from stages.llm import faults
from stages.llm.faults import Refusal
from stages.llm.limiter import retry_after
from stages.llm.profiles import advised
from stages.llm.replicas import Conversation, Replica, current
from stages.llm.reply import blocked, clean
from stages.llm.settings import Limits

ABSENT_S = 20.0  # how long connections to a server may fail that has never answered
FORBIDDEN_ROW = 10  # 403s without a reason in a row that are no longer each request's own


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


def is_completion(answer: Any) -> TypeGuard[dict[str, Any]]:
    """Whether an answer has the shape of a chat completion, as far as the choice and its message go."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and (isinstance(first.get("message"), dict) or blocked(first))


class Endpoint:
    """A server, or replicas of it, and the state that its callers share. `key` overrides the environment (local servers)."""

    def __init__(self, name: str, limits: Limits, key: str | None = None):
        self.name, self.limits = name, limits
        self._key = key if key is not None else key_named(limits.key_env) if limits.key_env else "none"
        if not self._key:
            raise UserError(f"endpoint {name}: set {limits.key_env} to its API key, in the environment or in .env")
        self._local = key is not None
        self.replicas = [Replica(url, limits, self._key) for url in limits.urls]
        self._answered = 0.0  # moment of the last answer
        self._forbidden = 0  # 403s without a reason since then
        self.sending: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # callers whose request is with the server

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(replica.close() for replica in self.replicas))

    def drain(self) -> None:
        """From now on nobody may call, not even again."""
        for replica in self.replicas:
            replica.limiter.drain()

    def client(self) -> Any:
        """The openai client of the first address, for what is not one call."""
        return self.replicas[0].client()

    async def listed(self) -> list[list[str]]:
        """Names of the models that each replica lists; those without a list, or with none for this key, are left out."""
        return [names for names in await asyncio.gather(*map(self._listed, self.replicas)) if names]

    async def _listed(self, replica: Replica) -> list[str]:
        import openai

        try:
            answer = await replica.client().get("/models", cast_to=object, options={"timeout": ABSENT_S})
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
        caller = asyncio.current_task()
        assert caller is not None
        begun, tries, of = 0.0, 0, current() or Conversation(body)
        while True:
            replica = of.replica(self.name, self.replicas)
            probe = await replica.limiter.enter(tokens, lambda: any(not other.limiter.down() for other in self.replicas))
            if probe is None:
                continue  # its replica went down, and there is another
            begun = begun or time.monotonic()  # waiting for a place is nobody's fault
            sent = time.monotonic()
            self.sending.add(caller)
            try:
                found = await self._sent(replica, body)
                if isinstance(found, dict):
                    self.answered()
                    replica.limiter.answered()
                    return found, self._answered - sent
                pause = self._pause(replica, found, body, tries, begun, probe)
            finally:
                replica.limiter.leave(probe)
            self.sending.discard(caller)  # not before: an answer that came must still be stored
            tries += 1
            await asyncio.sleep(pause)

    async def _sent(self, replica: Replica, body: bytes) -> dict[str, Any] | Refusal | Exception:
        """What comes of sending a request once: an answer, a refusal, or no answer at all. Raises CallFailed."""
        import openai

        try:
            # low-level, and as bytes: typing the request costs 4 ms of CPU with a long history, copying its messages 0.2
            answer = await replica.client().post("/chat/completions", cast_to=object, content=body)
        except (json.JSONDecodeError, UnicodeDecodeError) as e:  # the SDK hands it on as it is
            raise CallFailed("malformed", self.redacted(e)) from None
        except openai.APIStatusError as e:
            return faults.refusal(e.status_code, e.body or e.response.text, retry_after(e.response.headers))
        except openai.APIConnectionError as e:  # timeouts too
            away: Exception = e
            return away
        if fault := faults.inside(answer):
            return fault
        if is_completion(answer):
            return answer
        raise CallFailed("malformed", self.redacted(answer, 2000))

    def answered(self) -> None:
        """The server answered a request, so the key is right."""
        self._answered, self._forbidden = time.monotonic(), 0

    def refused(self, fault: Refusal, body: bytes) -> CallFailed | UserError | None:
        """What a refusal of the request `body` comes to; None where it is to be sent again."""
        meaning, message = fault.meaning(), self.redacted(fault.message)
        if meaning in (faults.WAIT, faults.RETRY):
            return None
        if meaning == faults.FORBIDDEN:
            self._forbidden += 1
            meaning = f"status_{fault.status}" if self._answered and self._forbidden < FORBIDDEN_ROW else faults.STOP
        if meaning == faults.STOP:
            what = ": out of quota or balance" if fault.status in (402, 429) else f" answers {fault.status}"
            advice = f"; is {self.limits.key_env} right?" if fault.status in (401, 403) and self.limits.key_env else ""
            return UserError(f"endpoint {self.name}{what}: {message}{advice}")
        if meaning == f"status_{fault.status}" and fault.status in (400, 422) and not self._local:
            sent = json.loads(body)
            if name := fault.named(sent):
                return UserError(self._leave_out(name, str(sent.get("model")), message))
        return CallFailed(meaning, message)

    def _leave_out(self, name: str, model: str, message: str) -> str:
        """The fault of a parameter that the server does not take, and the settings that leave it out."""
        here = f"llm.endpoints.{self.name}"
        family = advised(self.limits.aliases.get(model, model))
        profile = (
            f"{here}.profile to {family} (what is known of such models), or " if family and not self.limits.profile else ""
        )
        other = f" or {here}.rename to {{max_tokens: max_completion_tokens}}" if name == "max_tokens" else ""
        return f"endpoint {self.name}: {model} does not take {name}: {message}; set {profile}{here}.omit to [{name}]{other}"

    def _pause(
        self, replica: Replica, found: Refusal | Exception, body: bytes, tries: int, begun: float, probe: bool
    ) -> float:
        """Seconds until the same request is sent again.

        Args:
            replica: which it was sent to.
            found: what came of it: a refusal, or the SDK's error where no answer came.
            tries: how often it was sent before.
            begun: moment at which it was sent first.
            probe: whether it probed an open breaker.
        Raises:
            CallFailed, UserError: sending it again is of no use, or the deadline would pass.
        """
        fault, limited, cause = None, False, ""
        if isinstance(found, Refusal):
            if refused := self.refused(found, body):
                replica.limiter.rejected()
                raise refused
            fault, limited, message = found, found.meaning() == faults.WAIT, self.redacted(found.message)
        else:
            message, cause = self.message(found), type(found.__cause__).__name__
        after = fault.retry_after if fault else None
        if limited:
            pause = replica.limiter.refused(after, tries)
        else:
            pause = replica.limiter.fault(tries, after)
            pause = 0.0 if probe else pause  # the breaker's own clock decides
        # a wrong address is not waited for as a restart is
        absent = not self._answered and cause in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")
        patience = min(ABSENT_S, self.limits.deadline_s) if absent else self.limits.deadline_s
        if time.monotonic() + pause > begun + patience:
            if self._answered < begun and (limited or not fault):
                here = f"llm.endpoints.{self.name}"
                what, advice = ("keeps to its rate limit", "") if limited else (
                    f"takes longer than {self.limits.timeout_s:g} s", f"; raise {here}.timeout_s"
                ) if cause == "ReadTimeout" else ("is not there", f"; start it, or correct {here}.base_url")  # fmt: skip
                raise UserError(f"endpoint {self.name} at {replica.url} {what}: {message}{advice}")
            raise CallFailed("deadline", message)
        return pause

    def message(self, error: Exception) -> str:
        """The server's error message on one line, without the key."""
        body = getattr(error, "body", None)
        text = (body.get("message") if isinstance(body, dict) else None) or body or error.__cause__ or error
        return self.redacted(text)

    def redacted(self, text: object, limit: int = 300) -> str:
        """`text` on one line of at most `limit` characters, without the key (which a cut must not leave a part of)."""
        line = one_line(clean(str(text)), 1_000_000)
        return (line if self._key == "none" else line.replace(self._key, "***"))[:limit]
