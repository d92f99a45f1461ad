"""Training rows from groups of users: pairs alike in style and message, which only the history tells apart.

In a group every user's history ends with the same message. The reply tailored to a user is chosen over each of the replies
tailored to the others, so whatever a reply is worth in itself is chosen as often as it is rejected. In a step of training
that cancels only among all pairs of a group; rows name their `crossed_group`, and batches hold it whole (training/order.py).
"""

from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import Record, digest, jsonl_files
from stages.core.prompts import Message
from stages.pairs.rows import Data, reply
from stages.text import groups

KIND = "crossed"


def read(path: Path) -> list[Record]:
    """Groups of a file, or of a folder of *.jsonl, which may hold none. Raises UserError for what is no group, and for two
    of one name: rows go by it (training/order.py)."""
    found: dict[str, Record] = {}
    for file in jsonl_files(path):
        new = {g["group"]: g for g in groups.read(file)}
        if both := sorted({*new} & {*found}):
            raise UserError(f"{file}: group {both[0]} is in another file, too; give each a name of its own")
        found |= new
    return [*found.values()]


def drawn(found: list[Record], most: int | None, seed: int) -> list[Record]:
    """At most `most` groups, in an order by `seed` and their names alone: a greater number keeps those of a smaller one."""
    return sorted(found, key=lambda g: digest(seed, str(g["group"])))[:most]


def add_rows(data: Data, found: list[Record], system: list[Message], val_share: float) -> dict[str, Any]:
    """Add to `data` an SFT row of every user and a pair for every other user of its group.

    Args:
        found: groups; the first `val_share` of them are held out.
    Returns:
        Counts of groups, held-out groups, SFT rows and pairs.
    Raises:
        UserError: all groups are held out.
    """
    held = max(1, round(val_share * len(found)))
    if held >= len(found):
        raise UserError(f"extract_pairs.groups: {len(found)} groups, and val_share holds out {held}; bring more")
    rows = {"sft": 0, "pairs": 0}
    for number, g in enumerate(found):
        part = "val" if number < held else "train"
        for user in g["users"]:
            prompt = [*system, *user["history"], {"role": "user", "content": g["message"]}]
            own = reply(user["reply"])
            others = [reply(u["reply"]) for u in g["users"] if u["id"] != user["id"]]
            data[f"sft_{part}"].append({"prompt": prompt, "completion": own, "crossed_group": g["group"]})
            row = {"prompt": prompt, "chosen": own, "kind": KIND, "crossed_group": g["group"]}
            data[f"pairs_{part}"] += [{**row, "rejected": other} for other in others]
            rows = {"sft": rows["sft"] + 1, "pairs": rows["pairs"] + len(others)}
    return {"groups": len(found), "held_out": held, **rows}
