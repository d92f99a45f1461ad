"""A reply as it is stored, what of it is said, and its named outcome."""

import json
import re
from typing import Any

from stages.llm.settings import Price

Reply = dict[str, Any]
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")

# Ends of a reply as servers name them, in lower case. Any other word, and none, leaves open whether the reply is whole.
GOOD = {
    "stop", "stop_sequence", "stop_string", "stop_token", "end_turn", "end", "eos", "eos_token", "eot", "complete",
    "completed", "done", "finished",
}  # fmt: skip
CUT = {
    "length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "max_length", "token_limit",
    "model_length", "context_length", "context_length_exceeded", "model_context_window_exceeded",
}  # fmt: skip
FILTERED = {
    "content_filter", "content_filtered", "safety", "image_safety", "recitation", "prohibited_content", "blocklist", "spii",
    "guardrail_intervened", "moderation", "sensitive", "flagged", "language",
}  # fmt: skip

# A thought as chat models mark it, (beginning, end): DeepSeek-R1, Qwen3, GLM; Magistral; Kimi-VL; Seed-OSS; Cohere
_MARKS = (
    (r"<(?:think|thinking|thought|thoughts|reasoning)>", r"</(?:think|thinking|thought|thoughts|reasoning)>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<seed:think>", r"</seed:think>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (r"<\|channel\|>(?:analysis|thought)", r"<\|channel\|>final(?:<\|message\|>)?"),  # gpt-oss
)
_THOUGHTS = [(re.compile(begin), re.compile(end), re.compile(f"{begin}.*?{end}", re.S)) for begin, end in _MARKS]
_MARK = re.compile(r"[<\[◁]")  # in each of them; a text without costs no further search
_REASONING = ("reasoning_content", "reasoning", "thinking", "thoughts")  # beside `content`


class Unreadable(ValueError):
    """What a server gave is no text."""


def clean(text: str) -> str:
    """`text` with U+FFFD for each half of a character (a lone surrogate), which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _parts(content: Any) -> tuple[str, str, str]:
    """(text, thoughts, refusal) of the content of a message: a text, or a list of parts. Raises Unreadable."""
    if content is None:
        return "", "", ""
    if isinstance(content, str):
        return clean(content), "", ""
    if not isinstance(content, list):
        raise Unreadable(f"content is a {type(content).__name__}, not a text")
    found = {"text": "", "thinking": "", "refusal": ""}
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        name = {"output_text": "text", "reasoning": "thinking", "redacted_thinking": "thinking"}.get(str(kind), str(kind))
        value = part.get(name, part.get("text", part.get("data"))) if isinstance(part, dict) else part
        if name == "thinking":
            found[name] += clean(value) if isinstance(value, str) else " "  # Mistral has parts in it
        elif name in found and isinstance(value, str):
            found[name] += value
        else:
            raise Unreadable(f"content has a part that is no text: {json.dumps(part, default=str)[:100]}")
    return clean(found["text"]), found["thinking"], clean(found["refusal"])  # halves of a character may be joined now


def _count(value: Any) -> int | None:
    """A number of tokens; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _named(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) and value else None


def _logprobs(tokens: Any) -> list[list[Any]]:
    """Each token of the reply with its alternatives; none where they have another form."""
    if not isinstance(tokens, list):
        return []
    try:
        return [
            [clean(t["token"]), [[clean(o["token"]), o["logprob"]] for o in t.get("top_logprobs") or []]] for t in tokens
        ]
    except (AttributeError, KeyError, TypeError):
        return []


def from_answer(answer: dict[str, Any], price: Price | None, *, local: bool, seconds: float) -> Reply:
    """What is stored of a server's answer. Counts that it lacks, and a cost that cannot be known, are None, not 0.

    Raises:
        Unreadable: the reply is no text.
    """
    choice, usage = answer["choices"][0], _mapping(answer.get("usage"))
    message = choice.get("message") or {}
    text, thoughts, refusal = _parts(message.get("content"))
    thoughts += next((value for name in _REASONING if isinstance(value := message.get(name), str) and value), "")
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    thinking = _count(_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    prompt, completion, whole = (_count(usage.get(n)) for n in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if prompt is not None and completion is not None and whole is not None:
        completion = max(
            completion, whole - prompt
        )  # some servers (xAI, Gemini) count thoughts, which cost, in the total alone
    cost = None
    if price and prompt is not None and completion is not None:
        cost = price.usd(prompt, cached or 0, completion)
    reply: Reply = {
        "text": text,
        "refusal": _named(message.get("refusal")) or refusal or None,
        "finish": _named(choice.get("finish_reason")),
        **dict(zip(COUNTS, (prompt, cached, completion, cost), strict=True)),
        "seconds": round(seconds, 3),
        "served_model": None if local else _named(answer.get("model")),
    }
    if thoughts:
        reply["thought_chars"] = len(thoughts)  # never the thoughts: they are not said
    if thinking:
        reply["thinking_tokens"] = thinking
    if tokens := _logprobs(_mapping(choice.get("logprobs")).get("content")):
        reply["logprobs"] = tokens
    return reply


def _spoken(text: str) -> tuple[str, bool, bool]:
    """(text without thoughts, whether there was one, whether it was not ended)."""
    if not _MARK.search(text):
        return text, False, False
    whole, open_ = text, False
    for begin, end, closed in _THOUGHTS:
        text = closed.sub("", text)
        if ends := [*end.finditer(text)]:  # the template began the thought
            text = text[ends[-1].end() :]
        if begins := begin.search(text):
            text, open_ = text[: begins.start()], True
    return (text, text != whole, open_) if text != whole else (whole, False, False)


def said(reply: Reply, stop: tuple[str, ...] = ()) -> Reply:
    """What a stored reply says: without its thoughts, and up to the first of the texts `stop`, should it go on after one.

    `thought` is what is known of a thought: "", "closed", "open" (the reply ends within it) or "beside" (it came apart).
    `cut` is there where the reply did go on.
    """
    try:
        whole = _parts(reply["text"])[0]  # replies stored before 2026-12 may be lists of parts
    except Unreadable:
        return {**reply, "text": "", "finish": "unreadable", "thought": ""}
    text, thought, open_ = _spoken(whole)
    made = {**reply, "text": text, "thought": "open" if open_ else "closed" if thought else ""}
    if reply.get("thought_chars") and not thought:
        made["thought"] = "beside"
    if thought:
        made["text"] = text = text.strip()
    if made["thought"] and "logprobs" in reply:  # vLLM and SGLang (#25055) tell those of a thought beside the reply, too
        made["logprobs"] = _after_thought(reply["logprobs"], text.strip())
    first = text.lstrip()
    ends = [at for s in stop if (at := first.find(s)) >= 0]
    if ends:
        made["text"], made["cut"] = first[: min(ends)], True
        if _end(reply) in CUT and not open_:
            made["finish"] = "stop"  # what is cut off came after the end of the reply
    return made


def _after_thought(tokens: list[list[Any]], text: str) -> list[list[Any]]:
    """The tokens after the last end of a thought, or, where none is marked, from the last place of `text` on."""
    whole = "".join(token for token, _ in tokens)
    start = max((m.end() for _, end, _ in _THOUGHTS for m in end.finditer(whole)), default=max(0, whole.rfind(text)))
    kept, at = [], 0
    for token in tokens:
        at += len(token[0])
        if at > start:
            kept.append(token)
    return kept


def _end(reply: Reply) -> str:
    """The word for the end of a reply, by one spelling; Gemini's `content_filter: RECITATION` is content_filter."""
    return str(reply["finish"] or "").partition(":")[0].strip().lower().replace("-", "_").removeprefix("finish_reason_")


def blocked(choice: dict[str, Any]) -> bool:
    """Whether a choice is without a message because it was filtered, as Gemini has it."""
    return not choice.get("message") and _end({"finish": choice.get("finish_reason")}) in FILTERED


def outcome(reply: Reply) -> str:
    """Named outcome of a reply: ok, truncated, filtered, refused, empty, or unfinished: its end is none of the known."""
    end = _end(reply)
    if end in FILTERED:
        return "filtered"
    if reply.get("refusal") or end == "refusal":
        return "refused"
    if reply.get("thought") == "open":
        return "truncated"
    if end not in GOOD and end not in CUT:
        return "unfinished"
    if not reply["text"].strip():
        return "empty"
    return "truncated" if end in CUT else "ok"


def why(reply: Reply) -> str:
    """What is to be said of a reply that is not used (`said`) besides its outcome and text; empty: nothing."""
    found = outcome(reply)
    if found == "unfinished":
        return f"finish_reason {reply['finish']!r}: "
    if reply["thought"] == "open" or (reply["thought"] and found in ("empty", "truncated")):
        return "the model's reasoning took the tokens of its reply (llm.endpoints.NAME.thinking_tokens gives it more): "
    return ""
