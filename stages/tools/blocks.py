"""A report as a list of blocks, and the two forms it is written in: an HTML page (report.html) and Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.core import tables
from stages.core.tables import Rows

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
HEADINGS = {"h2": "## ", "h3": "### ", "fold": "## "}


@dataclass(frozen=True)
class Block:
    """One part of a report."""

    kind: str
    """h2, h3, p; lead (the finding), text (as for a terminal); table (of numbers), words (a table of texts); figure (SVG);
    diff; fold (a heading whose part is closed at first), end (of that part)."""
    text: str = ""
    rows: Rows = field(default_factory=list)
    """Of a table, head first."""


def cell(value: Any) -> str:
    """A value for a table of texts, `-` for none."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def html(title: str, blocks: Sequence[Block]) -> str:
    """The page: no script, no network; every text is escaped."""
    return TEMPLATES.get_template("report.html").render(title=title, blocks=blocks)


def markdown(title: str, blocks: Sequence[Block]) -> Iterator[str]:
    """The same without the figures, whose numbers are in the tables."""
    yield f"# {title}\n"
    for b in blocks:
        if b.rows:
            yield f"\n{tables.markdown(b.rows, len(b.rows[0]) if b.kind == 'words' else 1)}\n"
        elif b.kind in ("diff", "text"):
            yield f"\n~~~~{b.kind}\n{b.text}\n~~~~\n"
        elif b.kind == "lead":
            yield f"\n**{b.text}**\n"
        elif b.kind not in ("figure", "end"):
            yield f"\n{HEADINGS.get(b.kind, '')}{b.text}\n"
