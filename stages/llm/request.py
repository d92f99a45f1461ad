"""A request: the key its reply is stored under, and the JSON that is sent. A pure function of what a call consists of."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from stages.core.prompts import Message
from stages.llm.settings import Role


@dataclass(frozen=True)
class Request:
    """One call to a model."""

    key: str
    """SHA-256 of the model's identity and the body: where a model is served and what it costs are not part of it."""
    body: str
    """JSON object, without the model's name at its server."""
    role: Role
    messages: list[Message]

    def to(self, served: str) -> bytes:
        """The body for the server that has the model under the name `served`."""
        return f'{{"model": {json.dumps(served)}, {self.body[1:]}'.encode()

    @property
    def size(self) -> int:
        """Bytes of the messages' texts, an upper bound of their tokens: no token is shorter than a byte."""
        return sum(len(m["content"].encode()) for m in self.messages)


def keyed(identity: str, body: dict[str, Any]) -> tuple[str, str]:
    """`files.digest(identity, body)` and the body's JSON, which is written once for both: histories are long."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"[{json.dumps(identity, ensure_ascii=False)}, {text}]".encode()).hexdigest(), text


def request(identity: str, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None = None) -> Request:
    """The call of `role` with `messages`.

    Args:
        identity: of the role's model (`Servers.identity`).
        seed: of the sampling.
        schema: JSON schema that the reply must follow.
    """
    body: dict[str, Any] = {
        "messages": messages,
        "temperature": role.temp,
        "top_p": role.top_p,
        "frequency_penalty": role.penalty,
        "max_tokens": role.tokens,
        "seed": seed,
    }
    # what is not set is not in the body, so that a new setting leaves the keys of stored replies as they are
    if role.stop:
        body["stop"] = list(role.stop)
    if role.logprobs:
        body["logprobs"], body["top_logprobs"] = True, role.logprobs
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    return Request(*keyed(identity, body), role, messages)
