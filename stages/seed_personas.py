"""Seed personas: check, normalise and deduplicate the handwritten profiles and personalities.

Reads JSON Lines (strings, or objects with `text` and an optional `category`) or plain text, one per line. Asks nothing.

Run: python -m stages.seed_personas --profiles data/seeds/profiles.jsonl --personalities data/seeds/personalities.jsonl \
        --seed-profiles data/personas/seed_profiles.jsonl --seed-personalities data/personas/seed_personalities.jsonl
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from stages.common import hygiene, params
from stages.common.errors import UserError, parser, run
from stages.common.records import Record, read_lines, read_text, write_jsonl


@dataclass
class SeedPersonas:
    """Section `seed_personas`: shortest and longest text taken, in characters."""

    min_chars: int
    max_chars: int

    def __post_init__(self) -> None:
        params.require((0 < self.min_chars <= self.max_chars, "min_chars: must be above 0 and at most max_chars"))


@dataclass
class Params:
    """What this stage reads."""

    seed_personas: SeedPersonas


def normalise(text: str) -> str:
    """NFC, one space between words, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read(path: Path, limits: SeedPersonas, least: int = 1) -> list[Record]:
    """Texts of one file as {text, category}, in order, first of equal texts kept.

    Raises:
        UserError: file:line of a line that is no text; a file with fewer than `least`.
    """
    rows: dict[str, Record] = {}
    plain = path.suffix != ".jsonl"
    lines = (
        [(n, line) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
        if plain
        else list(read_lines(path))
    )
    for number, value in lines:
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


def main() -> None:
    p = parser(__doc__, ["profiles", "personalities"], ["seed-profiles", "seed-personalities"])
    a = p.parse_args()
    limits = params.load("seed_personas", Params).seed_personas
    profiles, personalities = read(a.profiles, limits), read(a.personalities, limits)
    write_jsonl(a.seed_profiles, profiles)
    write_jsonl(a.seed_personalities, personalities)


if __name__ == "__main__":
    run(main)
