"""Notes by quotation: which items of a persona a conversation shows, each with the user's own words that show it.

The inducer is given the numbered items and the transcript and names items, each with a verbatim quote. A quote that no
message of the user holds voids its item, so a note cannot leak the persona, in whatever language the two speak.
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
    lines = [f"{'User' if m['role'] == 'user' else 'Reply'}: {' '.join(m['content'].split())}" for m in history]
    numbered = "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    asked = prompt.part(part, items=numbered, conversation="\n".join(lines))
    return [*prompt.messages(), {"role": "user", "content": asked}]


def clauses(message: str) -> list[str]:
    """Parts of a message between marks of punctuation, each long enough for a quote; the message where there is none."""
    parts = [part.strip() for part in _CLAUSE.split(message)]
    return [*dict.fromkeys(part for part in parts if stands(part, [message]))] or [message]


def schema(n_items: int, noted: Collection[int], message: str, most: int = MOST) -> dict[str, Any]:
    """JSON schema of an answer about the user's `message` and `n_items` items, numbered from 1, but those `noted` before.

    It admits no quote but clauses of the message: a small model would else quote the item itself. The quote comes first, as
    a model that names an item first finds words for it whatever was said.
    """
    asked = [i + 1 for i in range(n_items) if i not in noted]
    row = {"quote": {"type": "string", "enum": clauses(message)}, "item": {"type": "integer", "enum": asked}}
    return _object({"shown": {"type": "array", "items": _object(row), "maxItems": most}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _rows(text: str) -> list[tuple[Any, Any]]:
    """(item number, quote) of each row of an answer, as it stands there. Raises ValueError for an answer without any."""
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


def parse(text: str, n_items: int, said: list[str]) -> list[Quote]:
    """Items that an answer names, with their quotes: JSON, also in a code fence or cut, or lines `3: "quote"`.

    Args:
        n_items: how many items were numbered, from 1.
        said: the user's messages; a row whose quote stands in none of them is void.
    Returns:
        The first valid row of each item, items counted from 0.
    Raises:
        ValueError: the answer has no rows and no empty list.
    """
    found: dict[int, str] = {}
    for number, quote in _rows(text):
        item = int(number) - 1 if re.fullmatch(r"\d{1,3}", str(number)) else -1
        if 0 <= item < n_items and isinstance(quote, str) and stands(quote, said):
            found.setdefault(item, quote.strip().strip('"“”'))
    return [{"item": item, "quote": quote} for item, quote in found.items()]
