"""A reply as it is stored, and its named outcome."""

from typing import Any

from stages.llm.settings import Price

Reply = dict[str, Any]
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")


def outcome(reply: Reply) -> str:
    """Named outcome of a reply: ok, truncated, filtered, refused, empty."""
    if reply["finish"] == "content_filter":
        return "filtered"
    if reply.get("refusal"):
        return "refused"
    if not reply["text"].strip():
        return "empty"
    return "truncated" if reply["finish"] == "length" else "ok"


def from_answer(answer: dict[str, Any], price: Price | None, *, local: bool, seconds: float) -> Reply:
    """What is stored of a server's answer. Counts that it lacks, and a cost that cannot be known, are None, not 0."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cost = None
    if price and prompt is not None and completion is not None:
        cost = price.usd(prompt, cached or 0, completion)
    reply = {
        "text": choice["message"].get("content") or "",
        "refusal": choice["message"].get("refusal"),
        "finish": choice.get("finish_reason"),
        **dict(zip(COUNTS, (prompt, cached, completion, cost), strict=True)),
        "seconds": round(seconds, 3),
        "served_model": None if local else answer.get("model"),
    }
    if tokens := (choice.get("logprobs") or {}).get("content"):  # each token of the reply with its alternatives
        reply["logprobs"] = [[t["token"], [[o["token"], o["logprob"]] for o in t.get("top_logprobs") or []]] for t in tokens]
    return reply
