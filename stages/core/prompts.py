"""Prompts: plain text files whose lines `[name]` open a part. Parts called system, user and assistant are messages.

`{word}` is a variable. Values are filled in once and not parsed again, so braces, quotes or `[user]` inside a persona or a
reply stay as they are.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from stages.core.cli import UserError
from stages.core.files import read_text

Message = dict[str, str]
_HEAD = re.compile(r"^\[([a-z_]+)\][ \t]*$", re.M)
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
CHAT = ("system", "user", "assistant")


def alternating(texts: Iterable[str]) -> list[Message]:
    """Texts as chat messages of user and assistant in turn, the user first."""
    return [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), texts, strict=False)]


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt file: its parts in order, each (name, text)."""

    path: Path
    parts: tuple[tuple[str, str], ...]

    @property
    def variables(self) -> set[str]:
        """Names of all variables in all parts."""
        return {v for _, text in self.parts for v in _VARIABLE.findall(text)}

    def part(self, name: str, **values: str) -> str:
        """Text of the last part called `name`, filled. Raises UserError for an unknown part or unfilled variable."""
        for part, text in reversed(self.parts):
            if part == name:
                return self._fill(text, values)
        raise UserError(f"{self.path}: has no part [{name}]")

    def messages(self, **values: str) -> list[Message]:
        """The system, user and assistant parts as chat messages, filled.

        Raises:
            UserError: `values` are not exactly the variables of these parts.
        """
        chat = [(n, t) for n, t in self.parts if n in CHAT]
        used = {v for _, t in chat for v in _VARIABLE.findall(t)}
        if used != set(values):
            unknown = [f"unknown variable {{{v}}}, known are {sorted(values)}" for v in sorted(used - set(values))]
            missing = [f"variable {{{v}}} is missing" for v in sorted(set(values) - used)]
            raise UserError(f"{self.path}: {'; '.join([*unknown, *missing])}")
        return [{"role": n, "content": self._fill(t, values)} for n, t in chat]

    def _fill(self, text: str, values: dict[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            try:
                return values[match[1]]
            except KeyError:
                raise UserError(f"{self.path}: unknown variable {{{match[1]}}}, known are {sorted(values)}") from None

        return _VARIABLE.sub(value, text)


def load(path: Path) -> Prompt:
    """Parse a prompt file. Raises UserError when it is missing or starts without a `[name]` line."""
    text = read_text(path)
    heads = list(_HEAD.finditer(text))
    if not heads or text[: heads[0].start()].strip():
        raise UserError(f"{path}: must start with a line like [system] that names the part below it")
    ends = [h.start() for h in heads[1:]] + [len(text)]
    return Prompt(path, tuple((h[1], text[h.end() : end].strip()) for h, end in zip(heads, ends, strict=True)))
