"""Log-probabilities of several replies after several contexts, each context computed once.

The keys and values of a context stay while all replies are computed behind it, and nothing but the replies goes through the
head. Contexts that are equal are computed once, so what a model makes of them is equal to the last bit.
"""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch

from stages.core.cli import UserError, one_line
from stages.core.prompts import Message
from stages.core.statistics import Array
from stages.weights import pretrained
from stages.weights.chat import encode
from stages.weights.control_tokens import escaped


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a local folder in float32, see `pretrained.load`."""
    model, tokenizer = pretrained.load(folder, dtype=torch.float32)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def tokens(tokenizer: Any, context: list[Message], replies: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """(ids of the context with the generation prompt, ids of each reply with the token that ends its turn).

    Raises:
        UserError: the chat template cannot take them.
    """
    chats = [escaped([{"role": "assistant", "content": reply}], Path(tokenizer.name_or_path)) for reply in replies]
    try:
        found = [encode(escaped(context, Path(tokenizer.name_or_path)), chat, tokenizer) for chat in chats]
    except Exception as e:  # templates raise errors of their own
        raise UserError(f"{tokenizer.name_or_path}: the chat template cannot take the conversation: {one_line(e)}") from None
    return found[0][0], [reply for _, reply in found]


def states(model: Any, context: list[int], rows: Sequence[list[int]]) -> Any:
    """Hidden states from which the tokens of each row behind `context` are predicted, [rows, longest row, hidden size]."""
    body = model.base_model
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[r[-1]] * (width - len(r))] for r in rows], device=model.device)  # nothing sees the padding
    first = body(input_ids=torch.tensor([context], device=model.device), use_cache=True)
    last = first.last_hidden_state[:, -1:].expand(len(rows), -1, -1)
    if width == 1:
        return last
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(rows))
    return torch.cat([last, body(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state], 1)


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def sums(model: Any, context: list[int], replies: Sequence[list[int]]) -> list[float]:
    """log p of each reply after `context`, in nats: the sum over its tokens."""
    lengths = [len(r) for r in replies]
    kept = torch.arange(max(lengths), device=model.device)[None] < torch.tensor(lengths, device=model.device)[:, None]
    logits = model.get_output_embeddings()(states(model, context, replies)[kept]).float()
    said = torch.tensor([token for r in replies for token in r], device=model.device)
    found = logits.gather(1, said[:, None])[:, 0] - logits.logsumexp(1)
    return [float(part.double().sum()) for part in found.split(lengths)]


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def letters(model: Any, tokenizer: Any, turns: Sequence[tuple[list[int], list[Message]]]) -> Array:
    """log p of each option by its letter, among the letters of all, in nats: the mean over `turns`.

    Args:
        turns: (the options in the order of their letters, the chat that asks for a letter). What the chats begin with is
            computed once.
    Raises:
        UserError: see `tokens`; two letters begin with one token; a value is not finite.
    """
    asked = [tokens(tokenizer, chat, ascii_uppercase[: len(order)]) for order, chat in turns]
    replies = asked[0][1]
    opening = common(replies)  # a space of its own, in some tokenizers
    if len({reply[opening] for reply in replies}) < len(replies):
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer does not write each letter as a token of its own")
    rows = [before + replies[0][:opening] for before, _ in asked]
    shared = min(common(rows), min(map(len, rows)) - 1)
    context, rows = rows[0][:shared], [row[shared:] for row in rows]
    choices = torch.tensor([reply[opening] for reply in replies], device=model.device)
    # each row gets a token more, which is not read: the state before it predicts the letter
    found = states(model, context, [[*row, row[-1]] for row in rows])
    last = torch.stack([found[n, len(row)] for n, row in enumerate(rows)])
    logs = model.get_output_embeddings()(last)[:, choices].float().log_softmax(1).double().cpu().numpy()
    by_option = [log[np.argsort(order)] for log, (order, _) in zip(logs, turns, strict=True)]
    return finite(np.mean(by_option, axis=0), tokenizer)


def common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with."""
    return next((n for n, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), min(map(len, rows)))


def finite(values: Array, tokenizer: Any) -> Array:
    """`values`. Raises UserError where one is not finite."""
    if not np.isfinite(values).all():
        raise UserError(f"{tokenizer.name_or_path}: a log-probability is not finite; the model has diverged")
    return values


def matrix(model: Any, tokenizer: Any, contexts: Sequence[list[Message]], replies: Sequence[str]) -> Array:
    """log p(reply j | context i), [contexts, replies], in nats, the token that ends the turn included.

    Raises:
        UserError: see `tokens`; a value that is not finite.
    """
    known: dict[tuple[int, ...], list[float]] = {}
    rows = []
    for context in contexts:
        before, after = tokens(tokenizer, context, replies)
        if tuple(before) not in known:
            known[tuple(before)] = sums(model, before, after)
        rows.append(known[tuple(before)])
    return finite(np.array(rows), tokenizer)
