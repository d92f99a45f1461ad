"""Seed personas: what is accepted, what is named when it is not."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, complains

from stages.core.files import read_jsonl
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


def test_strings_objects_and_plain_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('"  I  fish. "\n{"text": "I bake.", "category": "work"}\n\n"i FISH."\n')
    (tmp_path / "b.txt").write_text("I fish.\n\nI bake.\n")
    a, b = (read(tmp_path / n, LIMITS) for n in ("a.jsonl", "b.txt"))
    assert [r["text"] for r in a] == [r["text"] for r in b] == ["I fish.", "I bake."]
    assert a[1]["category"] == "work"


@pytest.mark.parametrize(
    "text, told",
    [
        ('"I fish."\n{"txt": "no"}\n', "profiles.jsonl:2"),
        ('"I fish."\n"I bake." "I sing."\n', "profiles.jsonl:2: two JSON values"),
        ('"I fish.\n', "profiles.jsonl:1: not JSON"),
        ("", "holds no seed"),
        ("\n  \n", "holds no seed"),
    ],
)
def test_bad_seed_file(project, text, told):
    project.run("seed_personas")
    before = project.rows("data/personas/seed_profiles.jsonl")
    project.set(seed_personas__min_chars=3)
    (project.folder / "data/seeds/profiles.jsonl").write_text(text)
    complains(project.run("seed_personas", check=False), told)
    assert project.rows("data/personas/seed_profiles.jsonl") == before


def test_strange_text_survives(project):
    strange = [
        'I say {x} and "y" \\ </s> <|im_end|>.',
        "I keep 🐝 on my roof.",
        "אני גר בחיפה. أحب القهوة.",
        "I " + "walk " * 2000,
    ]
    project.set(seed_personas__max_chars=20000)
    (project.folder / "data/seeds/profiles.jsonl").write_text("".join(json.dumps(s) + "\n" for s in strange))
    project.run("seed_personas")
    found = [r["text"] for r in read_jsonl(project.folder / "data/personas/seed_profiles.jsonl")]
    assert found == [s.strip() for s in strange]


def test_a_fault_is_one_line_and_exit_code_1_from_the_shell_too(project):
    (project.folder / "data/seeds/profiles.jsonl").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "stages.seed_personas", "--profiles", "data/seeds/profiles.jsonl", "--personalities",
         "data/seeds/personalities.jsonl", "--seed-profiles", "a.jsonl", "--seed-personalities", "b.jsonl"],
        cwd=project.folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    complains(done, "holds no seed")
    assert done.stderr.count("\n") == 1 and not (project.folder / "a.jsonl").exists()
