"""Notes by quotation: which items of a persona a conversation shows, each with the user's own words that show it.

The inducer is given the numbered items and the transcript and names items, by their text or number, each with a verbatim
quote. A quote that no message of the user holds voids its item, so a note cannot leak the persona, in whatever language the
two speak.
"""

import json
import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import regex

from stages.core.prompts import Message, Prompt

Quote = dict[str, Any]
"""`item` (index into the persona's items) and `quote`."""

LEAST = 3  # characters of a quote: fewer stand in any message
MOST = 5  # items that one message may show, where the server follows the schema
_CLAUSE = re.compile(r"(?<=[.!?;,:…。！？，；：、؟،؛।])\s*|\n+")
_OBJECT = re.compile(r'\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}')  # the innermost ones, also of an answer that is cut
_LINE = re.compile(r"^[^\w\n]*(\d{1,3})[^\w\n]*?[:.)\-–—][ \t]*(\S.*)$", re.M)
_NUMBERED = re.compile(r"^\s*\d{1,3}\s*[.:)]\s*")
_INVISIBLE = regex.compile(r"\p{Cf}")
_SAME = {ord(c): "'" for c in '"`´‘’‚‛“”„‟«»‹›「」『』＂＇'} | {ord(c): "-" for c in "‐‑‒–—―−－"}


@lru_cache(maxsize=1000)  # a message is compared with many quotes
def normalised(text: str) -> str:
    """Text as quotes are compared: NFKC, without case and invisible signs, white space folded, one sign for all quotation
    marks and one for all dashes."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_SAME)).casefold())
    return " ".join(_INVISIBLE.sub("", folded).split())


def stands(quote: str, said: list[str]) -> bool:
    """Whether one of the texts `said` holds the quote; marks around it do not count."""
    wanted = normalised(quote).strip(" '.,…")
    return len(wanted) >= LEAST and any(wanted in normalised(text) for text in said)


def messages(prompt: Prompt, items: list[str], history: list[Message], part: str = "last") -> list[Message]:
    """Chat that asks which of `items` the last message of `history`, the user's, shows; with part `mentions`, which ones the
    one text of `history`, a reply, brings up.

    The chat of a turn starts as that of the turn before, so a server's prefix cache holds.
    """
    numbered = "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    asked = prompt.part(part, items=numbered, conversation=lines(history))
    return [*prompt.messages(), {"role": "user", "content": asked}]


def lines(history: list[Message]) -> str:
    """The chat as a transcript, a line for each message."""
    who = {"user": "User", "assistant": "Reply"}
    return "\n".join(f"{who[m['role']]}: {' '.join(m['content'].split())}" for m in history)


def clauses(message: str) -> list[str]:
    """Parts of a message between marks of punctuation, each long enough for a quote; the message where there is none."""
    parts = [part.strip() for part in _CLAUSE.split(message)]
    return [*dict.fromkeys(part for part in parts if stands(part, [message]))] or [message]


def schema(items: list[str], noted: Collection[int], message: str, most: int = MOST) -> dict[str, Any]:
    """JSON schema of an answer about the user's `message` and those of `items` that were not `noted` before.

    It admits no quote but clauses of the message: a small model would else quote the item itself. The quote comes first, as
    a model that names an item first finds words for it whatever was said. An item is named by its text: asked for numbers,
    a small model counts up instead of reading.
    """
    asked = [item for i, item in enumerate(items) if i not in noted]
    row = {"quote": {"type": "string", "enum": clauses(message)}, "item": {"type": "string", "enum": asked}}
    return _object({"shown": {"type": "array", "items": _object(row), "maxItems": most}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _rows(text: str) -> list[tuple[Any, Any]]:
    """(name of the item, quote) of each row of an answer, as they stand. Raises ValueError for an answer without any."""
    rows = []
    for found in _OBJECT.findall(text):
        try:
            row = json.loads(found, strict=False)
        except ValueError:
            continue
        if {"item", "quote"} <= row.keys():
            rows.append((row["item"], row["quote"]))
    if rows or re.search(r"\[\s*\]", text):
        return rows
    rows = _LINE.findall(text)
    if not rows:
        raise ValueError("no item with a quote")
    return rows


def _number(named: Any, items: list[str]) -> int | None:
    """Index of the item that a row names by its text, or by its number from 1; None for no such item."""
    name = str(named).strip()
    texts = [normalised(item) for item in items]
    if (found := normalised(_NUMBERED.sub("", name))) in texts:
        return texts.index(found)
    return int(name) - 1 if re.fullmatch(r"\d{1,3}", name) and 0 < int(name) <= len(items) else None


def parse(text: str, items: list[str], said: list[str]) -> list[Quote]:
    """Items that an answer names, with their quotes: JSON, also in a code fence or cut, or lines `3: "quote"`.

    Args:
        items: what the answer was asked about.
        said: the user's messages; a row whose quote stands in none of them is void.
    Returns:
        The first valid row of each item, items counted from 0.
    Raises:
        ValueError: the answer has no rows and no empty list.
    """
    found: dict[int, str] = {}
    for named, quote in _rows(text):
        item = _number(named, items)
        if item is not None and isinstance(quote, str) and stands(quote, said):
            found.setdefault(item, quote.strip().strip('"“”'))
    return [{"item": item, "quote": quote} for item, quote in found.items()]
