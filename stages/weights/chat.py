"""Chat templates: the tokens of a prompt and its reply, and what a template must be able to do for the stages.

A template that refuses (or swallows) a system prompt gets one that folds it into the first user turn. The folded template is
saved with the model, so that every engine and the training fill the same one.
"""

from typing import Any

from stages.core.cli import UserError, one_line
from stages.core.prompts import Message

FOLD = (
    "{%- if messages[0]['role'] == 'system' and messages|length > 1 -%}{%- set messages = [{'role': messages[1]['role'], "
    "'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}] + messages[2:] -%}{%- endif %}"
)
SYSTEM = "Say it briefly, in capitals."
CHAT = [
    {"role": "user", "content": "Where is my umbrella?"},
    {"role": "assistant", "content": "BY THE DOOR."},
    {"role": "user", "content": "And my brown hat?"},
]
REPLY = [{"role": "assistant", "content": "ON THE SHELF."}]


def rendered(messages: list[Message], tokenizer: Any, *, asked: bool) -> str:
    """The chat as text, without thoughts where the template can; `asked`: up to where the model is to reply."""
    filled = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked, enable_thinking=False)
    return str(filled)


def encode(prompt: list[Message], reply: list[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of the reply up to the token that ends it).

    Raises:
        ValueError: the template does not begin prompt and reply as it begins the prompt alone, or ends no turn with a
        special token.
    """
    asked, whole = rendered(prompt, tokenizer, asked=True), rendered(prompt + reply, tokenizer, asked=False)
    if not whole.startswith(asked):
        raise ValueError("the chat template renders the prompt otherwise when a reply follows")
    plain = {"add_special_tokens": False}  # the template writes them all
    before, both = (tokenizer(text, **plain).input_ids for text in (asked, whole))
    # where a token would span the border, the reply is tokenised by itself, as it is when the model writes it
    after = both[len(before) :] if both[: len(before)] == before else tokenizer(whole[len(asked) :], **plain).input_ids
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    ends = [i for i, token in enumerate(after) if token in special]
    if not ends:
        raise ValueError("the chat template ends the reply without a special token, so no model could learn to stop")
    return before, after[: ends[-1] + 1]


def fault(messages: list[Message], tokenizer: Any) -> str:
    """Why the template cannot have `messages`: its own error, or the message that it leaves out; empty where it can."""
    try:
        text = rendered(messages, tokenizer, asked=True)
    except Exception as e:  # templates raise errors of their own
        return one_line(e)
    return next((f"it leaves out the {m['role']}'s {m['content']!r}" for m in messages if m["content"] not in text), "")


def fit(tokenizer: Any, source: str) -> None:
    """Try the chats of the later stages on the template of `tokenizer`, folding the system prompt where that is needed.

    Raises:
        UserError: no template; two exchanges, a system prompt or a training row that it cannot have even so.
    """
    at = f"base_model.source: the chat template of {source}"
    if not tokenizer.chat_template:
        raise UserError(f"base_model.source: {source} has no chat template; take an instruction-tuned model")
    if why := fault(CHAT, tokenizer):
        raise UserError(f"{at} cannot have two exchanges: {why}; take another model")
    system = [{"role": "system", "content": SYSTEM}]
    if fault(system + CHAT, tokenizer):
        tokenizer.chat_template = FOLD + tokenizer.get_chat_template()
    if why := fault(system + CHAT, tokenizer):
        raise UserError(f"{at} has no place for a system prompt, and folded into the user's turn: {why}; take another model")
    try:
        encode(system + CHAT, REPLY, tokenizer)
    except ValueError as e:
        raise UserError(f"{at} cannot be trained on: {one_line(e)}; take another model") from None
