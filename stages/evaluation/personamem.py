"""PersonaMem-v2 (bowen-upenn/PersonaMem-v2 on the Hub, CC BY 4.0; Jiang et al. 2025): who the user is, from a long history.

benchmark/text/benchmark.csv has a question a row: `user_query` (a message), `correct_answer`, `incorrect_answers` (a list),
and the file of the persona's history, of 32k or of 128k tokens: {"chat_history": [message, ...]}.
"""

import ast
import csv
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import read_text
from stages.core.prompts import Message
from stages.evaluation.items import Item, lacks, read_json

TABLE = Path("benchmark", "text", "benchmark.csv")
COLUMNS = {"32k": "chat_history_32k_link", "128k": "chat_history_128k_link", "snippet": "related_conversation_snippet"}


def parsed(text: str) -> Any:
    """A cell that holds a value: the file writes some as JSON and some as Python. Raises ValueError or SyntaxError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def said(messages: list[dict[str, Any]]) -> list[Message]:
    """What user and assistant said. The system message is left out: it states the whole persona, which is to be inferred."""
    return [{"role": m["role"], "content": m["content"]} for m in messages if m["role"] in ("user", "assistant")]


def read(folder: Path, forms: Sequence[str], fillers: Sequence[int]) -> list[Item]:
    """All questions in each of `forms` that is PersonaMem's. `fillers` has no meaning here.

    Args:
        folder: a copy of the data set's repository.
    Raises:
        UserError: what lacks, and where.
    """
    path = folder / TABLE
    csv.field_size_limit(2**30)  # a snippet may be longer than the module's default of 131,072 characters
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    forms = [form for form in COLUMNS if form in forms]
    columns = {"persona_id", "user_query", "correct_answer", "incorrect_answers", *(COLUMNS[form] for form in forms)}
    if not rows or columns - set(rows[0]):
        raise UserError(f"{path}: lacks {', '.join(sorted(columns - set(rows[0]))) if rows else 'rows'}; get it anew")

    @cache
    def history(link: str) -> list[Message]:
        with lacks(f"{folder / link}"):
            return said(read_json(folder / link)["chat_history"])

    items = []
    for number, row in enumerate(rows):
        with lacks(f"{path}: row {number}"):
            options = (row["correct_answer"], *(parsed(row["incorrect_answers"]) if row["incorrect_answers"] else ()))
            question, persona = parsed(row["user_query"])["content"], f"persona: {row['persona_id']}"
            for form in forms:
                cell = row[COLUMNS[form]]
                talk = said(parsed(cell)) if form == "snippet" else history(cell)
                items.append(Item(str(number), form, 0, frozenset({persona}), talk, question, options))
    return items
