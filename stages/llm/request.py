"""A request: the key its reply is stored under, and the JSON that is sent. A pure function of what a call consists of."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from stages.core.prompts import Message
from stages.llm.profiles import Wire
from stages.llm.reply import clean
from stages.llm.settings import Role

NEUTRAL = {"frequency_penalty": 0, "top_p": 1}  # values that change nothing
PLAIN = Wire()


@dataclass(frozen=True)
class Request:
    """One call to a model."""

    key: str
    """SHA-256 of the model's identity and the body: where a model is served and what it costs are not part of it."""
    body: str
    """JSON object, without the model's name at its server."""
    role: Role
    messages: list[Message]
    unsent: dict[str, str]
    """Parameters of the role that the model does not see as they are, and what became of them."""
    tokens: int
    """The longest answer: thoughts and reply."""

    @property
    def sampled(self) -> bool:
        """Whether another seed may give another reply."""
        return self.role.temp > 0 or "temperature" in self.unsent

    def to(self, served: str) -> bytes:
        """The body for the server that has the model under the name `served`."""
        return f'{{"model": {json.dumps(served)}, {self.body[1:]}'.encode()

    @property
    def size(self) -> int:
        """Bytes of the messages' texts, an upper bound of their tokens: no token is shorter than a byte."""
        return len("".join(m["content"] for m in self.messages).encode())


def keyed(identity: str, body: dict[str, Any]) -> tuple[str, str]:
    """`files.digest(identity, body)` and the body's JSON, written once for both: histories are long."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"[{json.dumps(identity, ensure_ascii=False)}, {text}]".encode()).hexdigest(), text


def spelled(body: dict[str, Any], wire: Wire) -> tuple[dict[str, Any], dict[str, str]]:
    """The body as it is sent, and what became of the parameters that the model does not see as they are."""
    if wire == PLAIN:
        return body, {}
    sent, unsent = dict(body), dict[str, str]()

    def drop(*names: str) -> None:
        for name in names:
            value = sent.pop(name, None)
            if value is not None and value != NEUTRAL.get(name) and name != "stop":  # replies are cut here, too
                unsent[name] = "is not sent"

    if wire.thinking:
        sent["max_tokens"] += wire.thinking
        sent.pop("stop", None)  # it would end the thought
    for name, most in wire.cap.items():
        if isinstance(sent.get(name), int | float) and sent[name] > most:
            sent[name], unsent[name] = most, f"is sent as {most}"
    if not wire.neutral:
        sent = {name: value for name, value in sent.items() if NEUTRAL.get(name) != value}
    if not wire.blank_stop and "stop" in sent:
        sent["stop"] = [text for text in sent["stop"] if text.strip()]
        sent = {name: value for name, value in sent.items() if value != []}
    if not wire.both and "temperature" not in wire.omit and "top_p" in sent:
        drop("top_p")
    drop(*wire.omit)
    if "logprobs" not in sent:
        drop("top_logprobs")
    sent = {**{name: value for name, value in wire.defaults.items() if name not in wire.omit}, **sent}
    sent = {wire.rename.get(name, name): value for name, value in sent.items()}
    sent = {name: value for name, value in sent.items() if name not in wire.omit}  # also by the name at the server
    return {**sent, **wire.add}, unsent


def request(
    identity: str, role: Role, messages: list[Message], seed: int, schema: dict[str, Any] | None = None, wire: Wire = PLAIN
) -> Request:
    """The call of `role` with `messages`.

    Args:
        identity: of the role's model (`Servers.identity`).
        seed: of the sampling.
        schema: JSON schema that the reply must follow.
        wire: what requests to the model carry.
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
    sent, unsent = spelled(body, wire)
    try:
        key, text = keyed(identity, sent)
    except UnicodeEncodeError:  # half a character, which no server reads
        messages = [{**m, "content": clean(m["content"])} for m in messages]
        return request(identity, role, messages, seed, schema, wire)
    if "seed" in unsent:  # each draw has a key of its own all the same
        key, _ = keyed(identity, {**sent, "seed": seed})
    return Request(key, text, role, messages, unsent, role.tokens + wire.thinking)
