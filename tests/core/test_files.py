"""Files of records."""

import pytest

from stages.core import files
from stages.core.cli import UserError


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"a": 1}\n{"a": \n', ":2: not JSON"),
        ('"one""two"\n', ":1: two JSON values"),
        ('{"a": 1} {"b": 2}\n', ":1: two JSON values"),
    ],
)
def test_broken_line_is_named(tmp_path, text, told):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as e:
        list(files.read_lines(path))
    assert f"{path}{told}" in str(e.value)


def test_lone_surrogates_are_replaced_and_pairs_are_joined(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"t": ["a \\uD83D", {"\\udc1d": "\\ud83d\\udc1d 🐝 \\\\ud83d"}], "n": 1.50, "z": null}\n"\\ud83d"\n')
    row, text = (value for _, value in files.read_lines(path))
    assert row == {"t": ["a \ufffd", {"\ufffd": "🐝 🐝 \\ud83d"}], "n": 1.5, "z": None} and text == "\ufffd"
    files.write_jsonl(path, [row])
    assert files.read_jsonl(path) == [row]


def test_line_separators_inside_strings_do_not_split(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"t": "a\u2028b\u2029c\x85d\x0be"}, {"t": 'emoji 🐝 and {braces} "quotes"'}]
    files.write_jsonl(path, rows)
    assert files.read_jsonl(path) == rows


def test_old_content_stays_when_writing_fails(tmp_path):
    path = tmp_path / "x.jsonl"
    files.write_jsonl(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        files.write_jsonl(path, rows())
    assert files.read_jsonl(path) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_seeds_depend_on_every_part_and_only_on_them():
    seeds = [
        files.seed_of(1, "p", "u", "user"),
        files.seed_of(2, "p", "u", "user"),
        files.seed_of(1, "pu", "", "user"),
    ]
    assert len(set(seeds)) == 3
    assert seeds[0] == files.seed_of(1, "p", "u", "user")
    assert all(0 <= s < 2**31 for s in seeds)
