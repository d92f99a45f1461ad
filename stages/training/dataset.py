"""Training rows as tokens: a model is trained on the very tokens of the conversation.

The prompt is what the model sees when it is asked (with the generation prompt); the reply ends with the token that ends a
turn, and nothing after it is trained. The chat template is the model's own, filled for the prompt and with the reply.
"""

from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import Record, digest, read_lines
from stages.core.prompts import Message
from stages.weights.chat import encode
from stages.weights.control_tokens import escaped

IGNORED = -100  # label of a token without loss, as TRL and transformers have it


def checked(row: Any, keys: tuple[str, ...], where: str) -> Record:
    """The `keys` of a row in TRL's conversational format.

    A row of `messages` in place of prompt and completion trains its last message, which must be the assistant's, given those
    before. Raises UserError, starting with `where`, for any other row.
    """
    talk = keys == ("prompt", "completion") and isinstance(row, dict) and "messages" in row and "completion" not in row
    for key in ("messages",) if talk else keys:
        messages = row.get(key) if isinstance(row, dict) else None
        sound = isinstance(messages, list) and messages and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
        )  # fmt: skip
        if not sound:
            raise UserError(f"{where}: `{key}` must be a list of messages, each with role and content")
    if not talk:
        return {key: row[key] for key in keys}
    *before, last = row["messages"]
    if last["role"] != "assistant" or not before:
        raise UserError(f"{where}: `messages` must end with a reply of the assistant to an earlier message")
    return {"prompt": before, "completion": [last]}


def shorter(prompt: list[Message]) -> list[Message] | None:
    """`prompt` without its oldest user turn and the reply to it; None where only the last message would be left to cut."""
    system = [m for m in prompt[:1] if m["role"] == "system"]
    chat = prompt[len(system) :]
    later = next((i for i, m in enumerate(chat) if i and m["role"] == "user"), None)
    return None if later is None else system + chat[later:]


def tokens(row: Record, keys: tuple[str, ...], tokenizer: Any, max_length: int, rule: str) -> tuple[Record | None, bool]:
    """(`<key>_ids` for every key of a row, None where it does not fit; whether its prompt was cut). Arguments: see `read`.

    Raises:
        Exception: the chat template cannot take the row; templates raise errors of their own.
    """
    chats: dict[str, list[Message]] = {key: escaped(row[key], Path(tokenizer.name_or_path)) for key in keys}
    prompt: list[Message] | None = chats.pop("prompt")
    cut = False
    while prompt:
        found = {key: encode(prompt, reply, tokenizer) for key, reply in chats.items()}
        if max(len(before) + len(after) for before, after in found.values()) <= max_length:
            before = next(iter(found.values()))[0]
            return {"prompt_ids": before, **{f"{key}_ids": after for key, (_, after) in found.items()}}, cut
        prompt, cut = (shorter(prompt) if rule == "cut_oldest" else None), True
    return None, False


def read(path: Path, keys: tuple[str, ...], tokenizer: Any, max_length: int, rule: str) -> tuple[list[Record], Record]:
    """Tokenised rows of a TRL-format file.

    Args:
        keys: `prompt` and the replies of a row: completion, or chosen and rejected.
        max_length: greatest number of tokens of a prompt with its longest reply.
        rule: for longer ones: `drop` the row, or `cut_oldest` exchanges of its prompt (never its end, never the system
            prompt) until it fits, and drop it where it cannot.
    Returns:
        rows, each `<key>_ids` for every key, `conversation`, a name that the rows of one conversation share, or of one
        `crossed_group` where rows have that, and the `kind` of a pair that has one; and counts.
    Raises:
        UserError: file:line of a row that is none or that the chat template cannot take; no row left.
    """
    rows: list[Record] = []
    dropped = cut = 0
    for number, value in read_lines(path):
        row = checked(value, keys, f"{path}:{number}")
        try:
            ids, was_cut = tokens(row, keys, tokenizer, max_length, rule)
        except Exception as e:
            raise UserError(f"{path}:{number}: cannot be put into the model's chat template: {e}") from None
        if ids is None:
            dropped += 1
            continue
        first = next((i for i, m in enumerate(row["prompt"]) if m["role"] == "user"), len(row["prompt"]) - 1)
        kind = {"kind": value["kind"]} if "chosen" in keys and isinstance(value.get("kind"), str) else {}
        together = value.get("crossed_group") or row["prompt"][: first + 1]
        rows.append({**ids, "conversation": digest(together)[:12], **kind})
        cut += was_cut
    if not rows:
        raise UserError(f"{path}: no row to train on ({dropped} are longer than train.max_length = {max_length})")
    return rows, {"rows": len(rows), "too_long_dropped": dropped, "too_long_cut": cut}


def supervised(rows: list[Record], key: str) -> list[Record]:
    """Rows as TRL's SFT reads them, `input_ids` and `labels`: loss on the reply `key` only; `conversation` stays."""
    return [
        {
            "input_ids": row["prompt_ids"] + row[f"{key}_ids"],
            "labels": [IGNORED] * len(row["prompt_ids"]) + row[f"{key}_ids"],
            "conversation": row["conversation"],
        }
        for row in rows
    ]


def mixed(rows: list[Record], extra: dict[Path, list[Record]], mix: dict[str, float], seed: int) -> list[Record]:
    """`rows`, then of each file of other data as many as make up its share of all: mixing keeps general ability.

    `mix: {tulu: 0.2}` in section sft makes rows of tulu.jsonl 20 % of all training rows; the file is in the folder that
    dvc.yaml gives, as DVC cannot read a list of files from params, but a folder is one dependency.

    A row's place in the draw depends on `seed` and the row alone: a greater share, or more lines in a file, keeps the rows
    that were drawn and adds to them.

    Args:
        rows: of the pipeline.
        extra: usable rows by file; the file's stem is its name in `mix`.
    Raises:
        UserError: a file with fewer rows than its share needs, with the share it could fill.
    """
    room = 1 - sum(mix.values())
    total = len(rows) / room
    drawn = list(rows)
    for path, candidates in extra.items():
        share = mix[path.stem]
        need = round(share * total)
        if need > len(candidates):
            most = len(candidates) / (len(rows) + len(candidates)) * (room + share)
            raise UserError(
                f"{path}: sft.mix.{path.stem} = {share} needs {need} rows beside {len(rows)} of the pipeline, the file has "
                f"{len(candidates)} that fit; add rows or lower the share to {int(most * 1e4) / 1e4:g}"
            )
        drawn += sorted(candidates, key=lambda row: digest(seed, row))[:need]
    return drawn
