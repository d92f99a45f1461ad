"""Tables: said by their columns, drawn for a terminal and for Markdown, and how numbers stand in their cells."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tabulate  # type: ignore[import-untyped]

Rows = list[list[str]]  # texts, head first
Column = tuple[str, str, Callable[[Any], str]]  # heading, dotted key of a value, how the value is shown
tabulate.MIN_PADDING = 0  # a column is as wide as its widest cell, no wider for its head


def rows(columns: Sequence[Column], items: Iterable[Any]) -> Rows:
    """The head and one row an item. An empty cell stands for a value that the item lacks, `-` for one that is None."""
    return [[head for head, _, _ in columns], *([_cell(item, key, show) for _, key, show in columns] for item in items)]


def _cell(item: Any, key: str, show: Callable[[Any], str]) -> str:
    for part in key.split("."):
        if item is None or (isinstance(item, dict) and part not in item):
            return ""
        item = item[int(part)] if isinstance(item, list) else item[part]
    return show(item)


def text(rows: Rows, left: int = 1) -> str:
    """Rows in columns for a terminal, a rule under the head; the first `left` columns are aligned left, the others right."""
    return _drawn(rows, "simple", left)


def markdown(rows: Rows, left: int = 1) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    return _drawn([[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows], "pipe", left)


def _drawn(rows: Rows, form: str, left: int) -> str:
    sides = ["left" if n < left else "right" for n in range(len(rows[0]))]
    # numbers are formatted already; read as numbers they would lose their signs and zeros
    return str(tabulate.tabulate(rows[1:], rows[0], tablefmt=form, colalign=sides, disable_numparse=True))


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number, `-` for none."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(ci: Sequence[float | None] | None, digits: int = 2, sign: bool = False) -> str:
    """`low to high`, `-` for none."""
    return " to ".join(number(v, digits, sign) for v in ci) if ci and ci[0] is not None else "-"


def p_value(p: float | None) -> str:
    """Three digits, `<0.001` below them."""
    return "<0.001" if p is not None and p < 0.001 else number(p, 3)
