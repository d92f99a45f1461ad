"""What a server's refusal means: its status, its code and its words, which servers use in different ways."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WAIT, RETRY, STOP, FORBIDDEN = "wait", "retry", "stop", "forbidden"

_NO_MONEY = {
    "insufficient_quota", "exceeded_current_quota_error", "billing_hard_limit_reached", "billing_not_active",
    "insufficient_balance", "insufficient_funds", "insufficient_credits",
}  # fmt: skip
_BALANCE = re.compile(
    r"insufficient (?:account )?(?:balance|credit|fund)|balance is (?:too low|insufficient|not enough)", re.I
)
_PER_TIME = re.compile(r"per[ _-]?(?:minute|second|hour|day)|\b[rt]p[md]\b|retry (?:in|after)", re.I)
_FLAGGED = re.compile(
    r"flagged|moderat|content[ _-]?(?:policy|filter|management)|safety|harmful|inappropriate|data_inspection|responsibleai",
    re.I,
)
_KEY = re.compile(
    r"api[ _-]?key|credential|authenticat|unauthorized|not authorized|permission|access|region|country|territory|"
    r"organization|project|billing|subscri|suspended|disabled|\bplan\b|not allowed to",
    re.I,
)
_OVERFLOW = re.compile(
    r"context[ _-]?(?:length|window|size)|(?:prompt|input) is too long|must be at least 1, got -|token count .* exceeds|"
    r"maximum number of tokens",
    re.I,
)
_TEMPLATE = re.compile(r"chat[ _-]?template|jinja|system role|roles must alternate", re.I)
_NO_MODEL = re.compile(r"model[ _-]?not[ _-]?(?:exist|found)|invalid model|unknown model|model .{0,80}does not exist", re.I)
_BAD_KEY = re.compile(r"api[ _-]?key (?:not|is not|is in)valid|api[ _-]?key not valid|invalid[ _-]api[ _-]key", re.I)
_TRANSIENT = {408, 409, 423, 425, 499}
_EVERY_CALL = {401, 402, 404, 405, 406, 410, 415, 426, 501}  # wrong key, address or method; no money
_BY_WORD = (  # for answers whose error has a word in place of a status
    ("rate_limit", 429), ("insufficient_quota", 429), ("quota", 429), ("resource_exhausted", 429), ("overload", 503),
    ("unavailable", 503), ("server_error", 500), ("internal", 500), ("timeout", 504), ("upstream", 502),
    ("context_length", 400), ("invalid", 400), ("unexpected endpoint", 404),
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A server's error, by whatever shape it came in."""

    status: int
    words: str
    """Its code and type, in lower case."""
    message: str
    """Its text; may be of any length and quote anything."""
    parameter: str = ""
    """The parameter that it names as its field."""
    retry_after: float | None = None
    """Seconds that it asks to wait."""

    def meaning(self) -> str:
        """WAIT (a rate limit), RETRY (the server's fault), STOP (it concerns every call), FORBIDDEN (403 without a reason).

        Any other: the outcome of this one call, which is not sent again.
        """
        text = f"{self.words} {self.message}"
        if self.status in (420, 429):
            spent = not _NO_MONEY.isdisjoint(self.words.split()) or _BALANCE.search(text)
            return STOP if spent and self.retry_after is None and not _PER_TIME.search(self.message) else WAIT
        if self.status in _TRANSIENT:
            return RETRY
        if self.status in _EVERY_CALL or self.status < 400 or (self.status < 500 and _BALANCE.search(text)):
            return STOP
        if self.status >= 500:
            if _OVERFLOW.search(text):
                return "context_overflow"
            return STOP if _TEMPLATE.search(text) else RETRY
        return self._of_request(text)

    def _of_request(self, text: str) -> str:
        """The meaning of a 4xx that speaks of the request."""
        if _OVERFLOW.search(text) or (self.status != 403 and re.search(r"context(?! dead| cancel)", text, re.I)):
            return "context_overflow"
        if self.status == 451 or _FLAGGED.search(text):
            return "filtered"
        if _NO_MODEL.search(text) or _BAD_KEY.search(text):
            return STOP
        if self.status == 403:
            return STOP if _KEY.search(text) else FORBIDDEN
        return f"status_{self.status}"

    def named(self, sent: Iterable[str]) -> str:
        """The parameter among `sent` that the server refuses; empty where it names none."""
        names = [name for name in sent if name not in ("messages", "model")]
        field = self.parameter.split(".")[0].split("[")[0]
        if field in names:
            return field
        found = {name: at.start() for name in names if (at := _mention(name).search(self.message))}
        return min(found, key=lambda name: found[name]) if found else ""


_SPELLED = {  # parameters that servers refuse by other words: Groq; vLLM with a Mistral tokenizer
    "response_format": r"response[ _]formats?",
    "chat_template_kwargs": r"chat_template(?:_kwargs)?",
}


def _mention(name: str) -> re.Pattern[str]:
    """Matches where a message names a parameter. A common word counts only as a name: quoted, before a colon, ..."""
    head, *tail = name.split("_")
    spelled = f"(?:{_SPELLED.get(name, name)}|{head + ''.join(map(str.capitalize, tail))})"
    word = rf"(?<![A-Za-z0-9_]){spelled}(?![A-Za-z0-9_])"
    if tail or name in ("temperature", "logprobs"):
        return re.compile(word)
    word = word.replace(name, "stop(?:_sequences)?") if name == "stop" else word
    before = r"(?:parameters?|arguments?|fields?|property|option|support|supports|supported|supporting)(?: the)?"
    return re.compile(
        rf"""["'`]{word}["'`]|{word}\s*:|:\s*{word}\W*$|{before}\W+{word}|{word} (?:is|are) (?:not|un|deprec|forbid)""", re.M
    )


def refusal(status: int, body: Any, retry_after: float | None = None) -> Refusal:
    """The error in the body of an answer: OpenAI's shape, FastAPI's `detail`, a router's with its provider's, or a text."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict) and "error" in body:
        body = body["error"]
    if not isinstance(body, dict):
        return Refusal(status, "", str(body or ""), retry_after=retry_after)
    detail = body.get("detail")
    place = detail[0].get("loc") if isinstance(detail, list) and detail and isinstance(detail[0], dict) else None
    parameter = str(place[-1]) if isinstance(place, list) and place else str(body.get("param") or "")
    metadata = body.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    texts = [str(t) for t in (body.get("message"), detail, raw) if t]
    words = " ".join(str(body[k]) for k in ("code", "type", "status") if body.get(k)).lower()
    return Refusal(status, words, ": ".join(texts) or str(body), parameter, retry_after)


def inside(answer: Any) -> Refusal | None:
    """The error that an answer with status 200 holds in place of a reply, by its own code; None where there is none."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    held = first.get("error") if isinstance(first, dict) else answer.get("error") if isinstance(answer, dict) else None
    if not held:
        return None
    found = refusal(0, held)
    code = held.get("code") if isinstance(held, dict) else None
    status = int(str(code)) if str(code).isdigit() and 400 <= int(str(code)) < 600 else 0
    status = status or next((s for word, s in _BY_WORD if word in f"{found.words} {found.message}".lower()), 0)
    return refusal(status, held) if status else None
