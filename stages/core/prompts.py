"""Prompts: plain text files whose lines `[name]` open a part. Parts called system, user and assistant are messages.

`{word}` is a variable. Values are filled in once and not parsed again, so braces, quotes or `[user]` inside a persona or a
reply stay as they are.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Literal

from stages.core.cli import UserError
from stages.core.files import read_text
from stages.core.params import Section, checked, load_yaml

Message = dict[str, str]
_HEAD = re.compile(r"^\[([a-z_]+)\][ \t]*$", re.M)
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
CHAT = ("system", "user", "assistant")


def alternating(texts: Iterable[str]) -> list[Message]:
    """Texts as chat messages of user and assistant in turn, the user first."""
    return [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), texts, strict=False)]


class Talk(Section):
    """The file set.yaml of a prompt set: how its roles talk."""

    user: Literal["scheduled", "natural"] = "natural"
    """scheduled: the user is told which item to say; natural: it has its whole persona in view and talks as it likes."""
    inducer: Literal["overlap", "quotes"] = "quotes"
    """overlap: an item is noted by the words that it shares with what was said; quotes: by the user's words that show it."""
    one_line: list[Literal[
        "user", "inducer", "preferred", "rejected", "misinformed", "verifier", "judge", "model under test"
    ]] = []  # fmt: skip
    """Roles whose reply ends at its first line break."""


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt file: its parts in order, each (name, text), and how its set talks."""

    path: Path
    parts: tuple[tuple[str, str], ...]
    talk: Talk = field(default_factory=Talk)

    def stop(self, role: str) -> tuple[str, ...]:
        """What ends a reply of a role."""
        return ("\n",) if role in self.talk.one_line else ()

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

    def messages(self, prefix: str = "", /, **values: str) -> list[Message]:
        """The system, user and assistant parts, those whose name has `prefix` before that, as chat messages, filled.

        Raises:
            UserError: `values` are not exactly the variables of these parts.
        """
        names = {prefix + name: name for name in CHAT}
        chat = [(names[n], t) for n, t in self.parts if n in names]
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
    """Parse a prompt file; an empty one has no parts, so no messages.

    How its set talks is in the set.yaml beside it or one folder above; without one it is natural.

    Raises:
        UserError: the file is missing or starts without a `[name]` line; a fault of set.yaml.
    """
    text = read_text(path)
    heads = list(_HEAD.finditer(text))
    if text[: heads[0].start() if heads else None].strip():
        raise UserError(f"{path}: must start with a line like [system] that names the part below it")
    ends = [h.start() for h in heads[1:]] + [len(text)]
    parts = tuple((h[1], text[h.end() : end].strip()) for h, end in zip(heads, ends, strict=False))
    return Prompt(path, parts, next((_talk(f) for p in path.parents[:2] if (f := p / "set.yaml").exists()), Talk()))


def _talk(path: Path) -> Talk:
    talk, faults = checked(Talk, load_yaml(str(path)) or {})
    if talk is None:
        raise UserError(f"{path}: {'; '.join(faults)}")
    return talk
