"""Items of benchmarks of others, as their adapters (prefeval.py, personamem.py) read them from the published files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import read_text
from stages.core.prompts import Message, Prompt

# The words are the benchmark's, not a role's: with others it would be another benchmark.
SYSTEM: list[Message] = [{"role": "system", "content": "You are a helpful assistant."}]
ASK = Prompt(
    Path(__file__), (("ask", "{message}\n\n{replies}\n\nWhich option suits me best? Answer with its letter alone."),)
)
CONTEXTS = ("conversation", "none", "other")  # what an item is read after: its own, no, another item's conversation


@dataclass(frozen=True)
class Item:
    """A question with its options, the first of which is right, after a conversation.

    `id` is the same in all forms; `keys`: what it shares with items that are not independent of it; `history` has the
    fillers at its end.
    """

    id: str
    form: str
    fillers: int
    keys: frozenset[str]
    history: list[Message]
    question: str
    options: tuple[str, ...]


def read_json(path: Path) -> Any:
    """The value that a JSON file holds. Raises UserError."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}:{e.lineno}: not JSON ({e.msg}); get the file anew") from None


@contextmanager
def lacks(where: str) -> Iterator[None]:
    """Turns the errors of a value that is not there, or is of another kind, into a UserError that says where."""
    try:
        yield
    except KeyError as e:
        raise UserError(f"{where}: lacks {e}; the file is not in the published format") from None
    except (AttributeError, TypeError, ValueError, SyntaxError) as e:
        raise UserError(f"{where}: is not in the published format ({e})") from None
