"""Tables for a terminal and for Markdown, and the numbers in them."""

from stages.core import tables

ROWS = [["model", "change"], ["a|b", "+0.10"], ["c\nd", "-"]]


def test_a_table_is_said_by_its_columns():
    columns = [("model", "name", str), ("last", "al.-1", tables.number), ("gain", "gain.ci", tables.interval)]
    items = [{"name": "a.b", "al": [1, None], "gain": {"ci": [1, 2]}}, {"name": "base", "al": [1.5], "gain": None}]
    assert tables.rows(columns, items) == [["model", "last", "gain"], ["a.b", "-", "1.00 to 2.00"], ["base", "1.50", ""]]
    assert tables.rows(columns, [{"name": "x"}]) == [["model", "last", "gain"], ["x", "", ""]]


def test_a_terminal_table_is_as_wide_as_its_cells_and_keeps_them():
    assert tables.text([ROWS[0], ["base", "+0.10"]]).split("\n") == ["model  change", "-----  ------", "base    +0.10"]
    assert tables.text([ROWS[0]]).split("\n") == ["model  change", "-----  ------"]


def test_a_markdown_table_has_one_line_a_row():
    lines = tables.markdown(ROWS).split("\n")
    assert lines[0] == "| model | change |" and lines[1] == "|:------|-------:|"
    assert lines[2] == "| a\\|b  |  +0.10 |" and lines[3] == "| c d   |      - |" and len(lines) == 4
    assert tables.markdown(ROWS, left=2).split("\n")[2] == "| a\\|b  | +0.10  |"


def test_numbers_intervals_and_p_values():
    assert [tables.number(v, 2, True) for v in (1.239, None)] == ["+1.24", "-"]
    assert [tables.interval(ci) for ci in ([1, 2.5], [None, None], None)] == ["1.00 to 2.50", "-", "-"]
    assert [tables.p_value(p) for p in (0.5, 0.0001, None)] == ["0.500", "<0.001", "-"]
