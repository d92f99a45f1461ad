"""Seed personas: the stage's command line; what a file may hold is in tests/personas/test_seeds.py."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, complains


def test_seeds_are_checked_normalised_and_written(project):
    (project.folder / "data/seeds/profiles.jsonl").write_text(
        '"  I fish   at sea. "\n{"text": "I bake bread.", "category": "x"}\n'
    )
    project.run("seed_personas")
    assert project.rows("data/personas/seed_profiles.jsonl") == [
        {"text": "I fish at sea.", "category": ""}, {"text": "I bake bread.", "category": "x"}
    ]  # fmt: skip
    given = [json.loads(row) for row in (ROOT / "data/seeds/personalities.jsonl").read_text().splitlines()]
    assert project.rows("data/personas/seed_personalities.jsonl") == given


def test_a_seed_with_a_lone_surrogate_is_a_seed(project):
    (project.folder / "data/seeds/profiles.jsonl").write_text('{"text": "I fish at sea \\ud83d.", "category": "\\udc00"}\n')
    project.run("seed_personas")
    assert project.rows("data/personas/seed_profiles.jsonl") == [{"text": "I fish at sea \ufffd.", "category": "\ufffd"}]


def test_years_dates_and_amounts_are_seeds_and_telephone_numbers_are_none(project):
    path = project.folder / "data/seeds/profiles.jsonl"
    path.write_text('"I study 1914-1918."\n"I was born on 12.05.1980."\n"I owe 1 500 000 rupees."\n')
    project.run("seed_personas")
    assert len(project.rows("data/personas/seed_profiles.jsonl")) == 3
    path.write_text('"I study 1914-1918."\n"Ring me, 030 1234567."\n')
    complains(project.run("seed_personas", check=False), "profiles.jsonl:2: holds somebody's contact details")


def test_a_bad_seed_file_leaves_what_was_there(project):
    project.run("seed_personas")
    before = project.rows("data/personas/seed_profiles.jsonl")
    (project.folder / "data/seeds/profiles.jsonl").write_text('"I fish at sea."\n{"txt": "no"}\n')
    complains(project.run("seed_personas", check=False), "profiles.jsonl:2")
    assert project.rows("data/personas/seed_profiles.jsonl") == before


@pytest.mark.slow
def test_a_fault_is_one_line_and_exit_code_1_from_the_shell_too(project):
    (project.folder / "data/seeds/profiles.jsonl").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "stages.seed_personas", "--profiles", "data/seeds/profiles.jsonl", "--personalities",
         "data/seeds/personalities.jsonl", "--seed-profiles", "a.jsonl", "--seed-personalities", "b.jsonl"],
        cwd=project.folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    complains(done, "holds no seed")
    assert done.stderr.count("\n") == 1 and not (project.folder / "a.jsonl").exists()
