"""Presets: what they say is what DVC's own parser makes of it, and a fault in one never starts a run of the default."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, complains
from dvc.exceptions import InvalidArgumentError
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides
from hypothesis import given
from hypothesis import strategies as st
from pages import blocks

from stages.core.cli import UserError
from stages.tools import preset

PRESETS = sorted(p.stem for p in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def here(project, monkeypatch):
    """The scripted project with the repository's params and presets."""
    monkeypatch.chdir(project.folder)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    return project


def applied(words: list[str]) -> dict:
    """params.yaml as `dvc exp run` with these words would leave it."""
    assert words[::2] == ["-S"] * (len(words) // 2)
    shutil.copy("params.yaml", "given.yaml")
    for overrides in to_path_overrides(words[1::2]).values():
        apply_overrides("given.yaml", overrides)
    return preset.params.load_yaml("given.yaml")


def write(text: str, name: str = "mine") -> str:
    Path(f"presets/{name}.yaml").write_text(text)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_dvc_makes_of_the_words_what_the_preset_says(here, name):
    _, whole = preset.load(name)
    made = applied(preset.words(name))
    assert made == whole and made != preset.params.load_yaml("params.yaml")


@pytest.mark.slow
def test_a_shell_takes_the_words_apart_where_they_end(here):
    code = f"cd {here.folder} && printf '%s\\n' $({sys.executable} -m stages.tools.preset paper)"
    done = subprocess.run(
        ["sh", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == preset.words("paper")


def test_lists_nulls_numbers_and_new_endpoints(here):
    name = write(
        "llm:\n  batch_roles: [judge]\n  budget_calls: 7\n  endpoints:\n    vllm:\n      base_url: http://127.0.0.1:8000/v1\n"
        "      prices: {Qwen/Qwen2.5-7B: {prompt: 0.1, completion: 0.2}}\n"
        "extract_pairs.balance_length: null\nsft.learning_rate: 5e-6\nuser.model: 'vllm:Qwen/Qwen2.5-7B'\n"
        "base_model.revision: '1234'\n"
    )
    made = applied(preset.words(name))
    assert made == preset.load(name)[1]
    assert made["llm"]["batch_roles"] == ["judge"] and made["llm"]["budget_calls"] == 7
    assert made["llm"]["endpoints"]["vllm"]["prices"] == {"Qwen/Qwen2.5-7B": {"prompt": 0.1, "completion": 0.2}}
    assert "openai" in made["llm"]["endpoints"]
    assert made["extract_pairs"]["balance_length"] is None and made["extract_pairs"]["filters"]["recited"] == 3
    assert made["sft"]["learning_rate"] == 5e-6 and made["base_model"]["revision"] == "1234"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="*?$", exclude_categories=["C", "Z"])),
        lambda inner: st.lists(inner, max_size=3),
    )
)  # fmt: skip
def test_any_value_comes_back(value):
    (override,) = to_hydra_overrides([f"key={preset.spelled(value)}"])
    found = override.value()
    assert found == value and json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("roles.inducr_temp: x", "roles.inducr_temp: unknown (did you mean roles.inducer_temp?)"),
        ("roleplay: {turns: many}", "roleplay.turns: "),
        ("roleplay: 3", "roleplay: input should be a valid dictionary"),
        ("dpo.beta: -1", "dpo.beta: input should be greater than 0, found -1"),
        ("sft.num_train_epochs.x: 1", "sft.num_train_epochs: "),
        ("[1]", "expected a mapping"),
        ("arms: [base, dpo]", "Cannot merge DictConfig with ListConfig"),
        ("a: [", "cannot be read"),
        ("base_model.source: my models/base", "base_model.source: 'my models/base' holds a blank"),
    ],
)
def test_a_fault_is_one_line_and_dvc_refuses_to_run(here, text, told):
    done = here._run(["stages.tools.preset", write(text)], check=False)
    complains(done, "presets/mine.yaml", told)
    with pytest.raises(InvalidArgumentError):
        applied(shlex.split(done.stdout))


def test_an_unknown_preset_is_one_line(here):
    complains(here._run(["stages.tools.preset", "papr"], check=False), "papr", f"presets are: {', '.join(PRESETS)}")


@pytest.mark.slow
def test_a_round_is_named_by_a_text_in_the_words_too(here):
    made = applied(preset.words(write(blocks("rounds", "yaml")[0])))
    assert made == preset.load("mine")[1]
    assert [(name, line["dpo"]["start"]) for name, line in made["rounds"].items()] == [("2", "sft"), ("3", "dpo_2")]


def test_a_key_beside_a_value_is_refused():
    with pytest.raises(UserError, match="given beside a value"):
        preset.nested({"sft": 1, "sft.num_train_epochs": 2})


def test_the_paper_preset_has_the_papers_numbers(here):
    p = preset.load("paper")[1]
    f = p["filter_personas"]
    assert f["train"] + f["eval_profiles"] * f["eval_personalities"] == 3310
    assert (f["profiles"]["target"], f["personalities"]["target"]) == (331, 71)
    assert (f["profiles"]["threshold"], f["examples"], f["per_call"]) == (0.6, 5, 20)
    assert (f["eval_profiles"], f["eval_personalities"]) == (20, 5)
    assert p["roleplay"]["turns"] == p["converse"]["turns"] == 10
    for kind in ("sft", "dpo"):
        assert (p[kind]["learning_rate"], p[kind]["num_train_epochs"]) == (1e-5, 1)
        assert p[kind]["per_device_train_batch_size"] * p[kind]["gradient_accumulation_steps"] == 48
    assert p["dpo"]["beta"] == 0.9 and p["generator"]["temp"] == 0.8
    roles = {**p["roles"], **{f"{name}_{k}": v for name in ("generator", "user", "judge") for k, v in p[name].items()}}
    assert all(v.startswith("openai:gpt-6") for k, v in roles.items() if k.endswith("_model"))
    assert all(v >= 10 for k, v in roles.items() if k.endswith("_history"))
    assert "8B" in p["base_model"]["source"] and len(p["base_model"]["revision"]) == 40


@pytest.mark.slow
def test_the_plan_of_a_preset_asks_nobody_and_changes_nothing(here, server):
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(words, check=True)
    here.with_code()
    here.write()  # every role on the scripted server
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and ".cache" not in p.parts}
    name = write(
        "filter_personas.train: 3\nroleplay.turns: 5\nllm.endpoints.scripted.prices.tiny: {prompt: 1.0, completion: 2.0}\n"
    )
    before[Path(f"presets/{name}.yaml")] = Path(f"presets/{name}.yaml").read_bytes()
    done = here._run(["stages.tools.plan", "--preset", name], check=True)
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("roleplay") and " user " in line)
    assert row[2:4] == ["0", "15"] and float(row[6]) > 0  # unknown without the price in the preset
    assert not server.requests
    assert {p: p.read_bytes() for p in before} == before
