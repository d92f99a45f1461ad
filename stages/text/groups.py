"""Groups of users with different histories, one last message, and a reply tailored to each user (data/crossed/README.md).

One side of such groups trains (pairs/crossed.py), the other measures (evaluation/crossed.py).
"""

from pathlib import Path

from stages.core.cli import UserError
from stages.core.files import Record, read_objects


def checked(group: Record, where: str) -> Record:
    """The group itself. Raises UserError, starting with `where`, for a group that cannot be crossed."""
    lacking = [key for key in ("group", "message", "kind") if not isinstance(group.get(key), str) or not group[key]]
    users = group.get("users")
    if lacking or not isinstance(users, list) or len(users) < 2:
        raise UserError(
            f"{where}: {f'lacks the text `{lacking[0]}`' if lacking else '`users` must be a list of two or more'}"
        )
    for number, user in enumerate(users, 1):
        name = f"{where}: user {number} of group {group['group']}"
        for key in ("id", "reply"):
            if not isinstance(user, dict) or not isinstance(user.get(key), str) or not user[key].strip():
                raise UserError(f"{name} lacks the text `{key}`")
        if not isinstance(user.get("persona", ""), str):
            raise UserError(f"{name}: `persona` must be a text, or be left out")
        history = user.get("history")
        if not isinstance(history, list) or not all(
            isinstance(m, dict) and m.get("role") in ("user", "assistant") and isinstance(m.get("content"), str)
            for m in history
        ):
            raise UserError(f"{name}: `history` must be a list of messages, each with role (user, assistant) and content")
    if len({user["id"] for user in users}) < len(users):
        raise UserError(f"{where}: two users of group {group['group']} have one id")
    return group


def read(path: Path) -> list[Record]:
    """The groups of a JSONL file. Raises UserError with file:line for a group that cannot be crossed, and for none."""
    groups = [checked(group, f"{path}:{number}") for number, group in read_objects(path)]
    if not groups:
        raise UserError(f"{path}: holds no group")
    if len({group["group"] for group in groups}) < len(groups):
        raise UserError(f"{path}: two groups have one name in `group`")
    return groups
