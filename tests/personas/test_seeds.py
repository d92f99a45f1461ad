"""Texts of personas in files: what is accepted, what is named when it is not, and those of the repository."""

import re

import pytest
from conftest import ROOT

from stages.core.cli import UserError
from stages.personas.persona import facts, traits
from stages.personas.seeds import read
from stages.personas.settings import SeedPersonas

LIMITS = SeedPersonas(min_chars=3, max_chars=20000)


def test_committed_seeds():
    profiles = read(ROOT / "data/seeds/profiles.jsonl", LIMITS)
    personalities = read(ROOT / "data/seeds/personalities.jsonl", LIMITS)
    assert len(profiles) >= 20 and len(personalities) >= 20
    assert all(8 <= len(facts(p["text"])) <= 10 for p in profiles)
    assert all(8 <= len(traits(p["text"])) <= 10 for p in personalities)


@pytest.mark.parametrize("folder", ["seeds", "import"])
def test_the_data_cards_count_right(folder):
    counts = re.findall(r"^\| (\w+\.jsonl).*? \| (\d+)", (ROOT / f"data/{folder}/README.md").read_text(), re.M)
    assert counts
    for name, count in counts:
        assert len(read(ROOT / f"data/{folder}/{name}", LIMITS, least=0)) == int(count)


def test_strings_objects_and_plain_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('"  I  fish. "\n{"text": "I bake.", "category": "work"}\n\n"i FISH."\n')
    (tmp_path / "b.txt").write_text("I fish.\n\nI bake.\n")
    a, b = (read(tmp_path / n, LIMITS) for n in ("a.jsonl", "b.txt"))
    assert [r["text"] for r in a] == [r["text"] for r in b] == ["I fish.", "I bake."]
    assert a[1]["category"] == "work"
    assert read((tmp_path / "a.jsonl").rename(tmp_path / "a.json"), LIMITS) == a, "not the source text of JSON as a persona"


def test_strange_text_survives(tmp_path):
    strange = ['I say {x} and "y" \\ </s> <|im_end|>.', "I keep 🐝 on my roof.", "אני גר בחיפה. أحب القهوة.", "walk " * 2000]
    (tmp_path / "a.txt").write_text("\n".join(strange))
    assert [r["text"] for r in read(tmp_path / "a.txt", LIMITS)] == [s.strip() for s in strange]


@pytest.mark.parametrize(
    "text, fault",
    [
        ('"I fish."\n{"txt": "no"}\n', r"p\.jsonl:2: expected a string"),
        ('"I fish."\n"I bake." "I sing."\n', r"p\.jsonl:2: two JSON values"),
        ('"I fish.\n', r"p\.jsonl:1: not JSON"),
        ('"No"\n', r"p\.jsonl:1: 2 characters, allowed are 3 to 20000"),
        ('"Write to anna@example.org"\n', r"p\.jsonl:1: holds somebody's contact details"),
        ("", "holds no seed"),
        ("\n  \n", "holds no seed"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, fault):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=fault):
        read(path, LIMITS)
