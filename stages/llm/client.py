"""Asking models: a role's reply to a chat, drawn again where it cannot be used, and the jobs that ask side by side.

servers.py says where a model is, request.py what is sent and under which key its reply is stored, backend.py where the reply
comes from, ledger.py counts.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Self, TypeVar

from stages.core.aio import bounded_gather
from stages.core.files import seed_of
from stages.core.progress import Progress
from stages.core.prompts import Message
from stages.llm.backend import Backend
from stages.llm.endpoint import CallFailed
from stages.llm.ledger import Ledger
from stages.llm.replicas import conversation
from stages.llm.reply import Reply, outcome, said, why
from stages.llm.request import Request, request
from stages.llm.settings import Role
from stages.weights import control_tokens

T = TypeVar("T")
Job = Callable[[], Awaitable[T]]


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A usable reply: the parsed value, the raw text, its outcome and how often it was drawn before."""

    value: T
    text: str
    outcome: str
    sample: int
    reply: Reply = field(repr=False)


class Client:
    """All calls of one stage run. Use as an async context manager.

    Args:
        backend: where replies come from; it is closed with the client.
        resamples: how often a reply that is not accepted is drawn anew, each time with another seed.
    """

    def __init__(self, backend: Backend, resamples: int = 2):
        self.backend, self.servers, self.resamples = backend, backend.servers, resamples
        self.ledger = Ledger()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.backend.close(interrupted=kind is not None and issubclass(kind, asyncio.CancelledError))

    def request(self, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None = None) -> Request:
        """The call as it is sent: local engines would obey control tokens that a text spells out."""
        if folder := self.servers.folders.get(role.model):
            messages = control_tokens.escaped(messages, folder)
        return request(self.servers.identity(role.model), role, messages, seed, schema, self.servers.wire(role.model))

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
            schema: JSON schema that the reply must follow.
        Raises:
            CallFailed: no draw gave an accepted outcome.
        """
        try:
            answer = await self._drawn(role, messages, seed, parse, schema)
        except CallFailed as e:
            self.ledger.settle(role, e)
            raise
        self.ledger.settle(role)
        return answer

    async def _drawn(
        self, role: Role, messages: list[Message], seed: int, parse: Callable[[str], T], schema: dict[str, Any] | None
    ) -> Answer[T]:
        """`ask`, not counted."""
        found, text = "", ""
        for sample in range(self.resamples + 1):
            call = self.request(role, messages, seed if sample == 0 else seed_of(seed, sample), schema)
            whole, stored = await self.backend.reply(call)
            reply = said(whole, role.stop)
            found, text = outcome(reply), reply["text"]
            accepted = found in role.accept and (text or not reply["thought"] or "empty" in role.accept)
            value = None
            if found == "ok" or accepted:
                try:
                    value = parse(text)
                except ValueError as e:
                    found, text = "unreadable", f"{e}: {text}"
                    accepted = found in role.accept
            served = self.servers.served_name(role.model, whole.get("served_model"))
            cut = "cut" in reply
            self.ledger.record(role.name, whole, found, stored=stored, served=served, unsent=call.unsent, cut=cut)
            if accepted:
                return Answer(value, text, found, sample, reply)  # type: ignore[arg-type]
            if found != "unreadable":
                text = why(reply) + text
            if not call.sampled and found != "unfinished":  # greedy decoding repeats itself
                break
        raise CallFailed(found, text)

    async def in_order(self, role: Role, jobs: Sequence[Job[T]]) -> list[T]:
        """Results of jobs that ask `role` about chats with one beginning.

        One after the other, so that each finds the beginning in the server's prefix cache; all at once where the role is
        asked through a Batch API, which has none and answers within a day.
        """
        return await bounded_gather(jobs, len(jobs) if self.servers.batched(role) else 1)

    async def in_parallel(
        self, jobs: Sequence[Job[T]], progress: Progress | None = None, roles: Sequence[Role] = ()
    ) -> list[T]:
        """Results of conversations, llm.conversations_in_flight at once, each driven to its end.

        All at once where one of `roles`, whose replies the conversations wait for, is asked through a Batch API.
        """
        batched = any(self.servers.batched(role) for role in roles)
        width = sys.maxsize if batched else self.servers.settings.conversations_in_flight

        async def driven(number: int, job: Job[T]) -> T:
            with conversation(number):
                return await job()

        return await bounded_gather([partial(driven, *one) for one in enumerate(jobs)], width, progress)
