"""Reads texts of personas: seeds and imported pools."""

import unicodedata
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.core.files import Record, read_lines, read_text
from stages.personas import hygiene
from stages.personas.settings import SeedPersonas


def normalise(text: str) -> str:
    """NFC, one space between words, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _values(path: Path) -> list[tuple[int, Any]]:
    """(line number, value) of every line that is not empty: JSON in a .jsonl or .json file, else plain text."""
    if path.suffix in (".jsonl", ".json"):
        return list(read_lines(path))
    return [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def read(path: Path, limits: SeedPersonas, least: int = 1) -> list[Record]:
    """Texts of one file as {text, category}, in order, first of equal texts kept.

    Raises:
        UserError: file:line of a line that is no text; a file with fewer than `least`.
    """
    rows: dict[str, Record] = {}
    for number, value in _values(path):
        text = value.get("text") if isinstance(value, dict) else value
        category = value.get("category", "") if isinstance(value, dict) else ""
        if not isinstance(text, str) or not isinstance(category, str):
            raise UserError(f"{path}:{number}: expected a string, or an object with a string `text`: {str(value)[:60]}")
        text = normalise(text)
        if not limits.min_chars <= len(text) <= limits.max_chars:
            raise UserError(
                f"{path}:{number}: {len(text)} characters, allowed are {limits.min_chars} to {limits.max_chars} "
                f"(seed_personas in params.yaml): {text[:60]}"
            )
        if hygiene.contact(text):
            raise UserError(f"{path}:{number}: holds somebody's contact details; take them out: {text[:60]}")
        rows.setdefault(text.casefold(), {"text": text, "category": category})
    if len(rows) < least:
        raise UserError(f"{path}: holds no seed; write at least one, one per line")
    return list(rows.values())
