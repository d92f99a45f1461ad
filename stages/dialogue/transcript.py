"""A conversation so far, and the forms in which models read it: chat messages and lines of text."""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.core.prompts import Message, alternating


@dataclass(frozen=True)
class Exchange:
    """One turn: what the user was told for it (an item to reveal, or an agenda), its message, and the reply to it."""

    told: str
    message: str
    reply: str


def messages(past: Iterable[Exchange], *following: str) -> list[Message]:
    """Chat messages of the exchanges, then of the texts that follow them, user and assistant in turn."""
    return alternating([*(text for e in past for text in (e.message, e.reply)), *following])


def lines(past: Iterable[Exchange], replier: str = "You") -> str:
    """The exchanges as lines of text, each message after a line break; empty without any."""
    return "".join(f"\nUser: {e.message}\n{replier}: {e.reply}" for e in past)


def texts(chat: Iterable[Message], role: str) -> list[str]:
    """Contents of the messages of one role, in order."""
    return [m["content"] for m in chat if m["role"] == role]
