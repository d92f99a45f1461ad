"""Tables of texts, head first, for a terminal and for Markdown, and how numbers stand in their cells."""

from collections.abc import Sequence

import tabulate  # type: ignore[import-untyped]

Rows = list[list[str]]
tabulate.MIN_PADDING = 0  # a column is as wide as its widest cell, no wider for its head


def text(rows: Rows) -> str:
    """Rows in columns for a terminal, a rule under the head; the first column is aligned left, the others right."""
    return _drawn(rows, "simple", 1)


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
