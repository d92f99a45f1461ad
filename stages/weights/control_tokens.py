"""Control tokens that a text spells out.

Local engines and tokenizers read such names (`<|im_end|>`) as control tokens anywhere in a chat, so that a persona or a
reply could end its own message and open another one. Servers behind an API have to see to that themselves.
"""

import json
import re
from functools import lru_cache
from pathlib import Path


@lru_cache
def _control_tokens(folder: Path) -> re.Pattern[str]:
    file = folder / "tokenizer.json"
    added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens", []) if file.exists() else []
    names = [re.escape(t["content"]) for t in added if t.get("special")]
    return re.compile("|".join(names) or "(?!)")  # (?!) matches nothing


def escaped(messages: list[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    """`messages` with a space inside every control token of the model in `folder` that they spell out: `< |im_end|>`."""
    names = _control_tokens(folder)
    return [{**m, "content": names.sub(lambda found: f"{found[0][0]} {found[0][1:]}", m["content"])} for m in messages]
