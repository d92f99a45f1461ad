"""Conventions of the pipeline: what a change re-runs, and that dvc.yaml, code and params say the same."""

import ast
import importlib
import subprocess
import sys
from dataclasses import fields
from functools import partial
from typing import get_type_hints

import pytest
from closure import closure
from conftest import ROOT, filled
from omegaconf import OmegaConf

from stages.core import params

SPEC = OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml"), resolve=False)["stages"]
CONFIG = OmegaConf.load(ROOT / "params.yaml")
FILES = sorted(p for p in (ROOT / "stages").glob("*.py") if p.name != "__init__.py")


def expand() -> dict[str, dict]:
    """Every stage with its foreach items filled in: name -> {deps, outs, params}."""
    found = {}
    for name, spec in SPEC.items():
        section = spec.get("foreach", "")[2:-1]  # ${section} of the params: a stage for each of its keys
        items = OmegaConf.select(CONFIG, section) if section else {None: None}
        for key, item in items.items():
            fill = partial(filled, params=CONFIG, key=key, item=item)
            do = spec.get("do", spec)
            written = [o for kind in ("outs", "metrics", "plots") for o in do.get(kind, [])]
            found[name if key is None else f"{name}@{key}"] = {
                "cmd": fill(do["cmd"]),
                "deps": {fill(d) for d in do["deps"]},
                "outs": {fill(o if isinstance(o, str) else next(iter(o))) for o in written},
                "params": set(do.get("params", [])) | ({f"{section}.{key}"} if "${item." in do["cmd"] else set()),
            }
    return found


STAGES = expand()
PARAMS = OmegaConf.to_container(CONFIG, resolve=False)


def wave(param: str | None = None, file: str | None = None) -> set[str]:
    """Stages that may run when one parameter or file changes (every output of a stage that runs counted as changed)."""
    dirty = {
        name for name, s in STAGES.items()
        if (param and any(param == k or param.startswith(k + ".") or k.startswith(param + ".") for k in s["params"]))
        or (file and file in s["deps"])
    }  # fmt: skip
    while True:
        outs = {o for name in dirty for o in STAGES[name]["outs"]}
        more = {name for name, s in STAGES.items() if s["deps"] & outs} - dirty
        if not more:
            return dirty
        dirty |= more


ALL = set(STAGES)
EVALS = {"eval"}
ARMS = {
    "base", "sft", "dpo", "oracle", "remind", "critique", "fewshot", "retrieval", "base_no_memory", "dpo_no_memory"
}  # fmt: skip


def arms(*names: str) -> set[str]:
    """Conversations and judgements of some arms, and eval."""
    return {f"{stage}@{name}" for stage in ("converse", "judge") for name in names} | EVALS


JUDGES = {f"judge@{m}" for m in ARMS}
CALIBRATED = {"calibrate"} | EVALS
TRAINED = arms("sft", "dpo", "dpo_no_memory")
TESTS = arms(*ARMS)
GROWN = {"roleplay", "extract_pairs", "sft", "dpo"} | TRAINED
AFTER_DPO = {"dpo"} | arms("dpo", "dpo_no_memory")
ROLE_WAVES = {
    "generator": {"filter_personas", "roleplay", "extract_pairs", "sft", "dpo"} | TESTS,
    "user": GROWN | TESTS,
    "inducer": GROWN,
    "preferred": GROWN,
    "rejected": GROWN,
    "verifier": GROWN,
    "judge": JUDGES | CALIBRATED,
}
SECTION_WAVES = {
    "base_model": ALL - {"seed_personas"},
    "encoder": ALL - {"base_model", "seed_personas", "calibrate"},
    "seed_personas": ALL - {"base_model", "calibrate"},
    "filter_personas": ALL - {"base_model", "seed_personas", "calibrate"},
    "roleplay": GROWN,
    "extract_pairs": GROWN - {"roleplay"},
    "train": {"sft", "dpo"} | TRAINED,
    "sft": {"sft", "dpo"} | TRAINED,
    "dpo": AFTER_DPO,
    "arms": TESTS,
    "converse": TESTS,
    "calibrate": CALIBRATED,
    "judge": JUDGES | CALIBRATED,
    "eval": EVALS,
    "llm": set(),
}
PROMPT_WAVES = {
    "profile": ROLE_WAVES["generator"],
    "personality": ROLE_WAVES["generator"],
    "user": GROWN | TESTS,
    "inducer": GROWN,
    "preferred": GROWN,
    "rejected": GROWN,
    "verifier": GROWN,
    "judge": JUDGES | CALIBRATED,
    "assistant": (GROWN - {"roleplay"}) | arms("base", "retrieval", "base_no_memory"),
    **{name: arms(name) for name in ("oracle", "remind", "critique", "fewshot")},
}


@pytest.mark.parametrize("section", [s for s in PARAMS if s != "roles"])
def test_what_a_section_re_runs(section):
    assert wave(param=section) == SECTION_WAVES[section]


@pytest.mark.parametrize("key", PARAMS["roles"])
def test_what_a_role_re_runs(key):
    # a judge is warned of when it is the model that made the data, so calibrate reads the makers' names
    told = CALIBRATED if key.endswith("_model") else set()
    assert wave(param=f"roles.{key}") == ROLE_WAVES[key.split("_")[0]] | told


@pytest.mark.parametrize("arm", PARAMS["arms"])
def test_what_an_arm_re_runs(arm):
    assert wave(param=f"arms.{arm}") == arms(arm)


def test_every_arm_is_in_the_table():
    """Another model is a line of `arms`, its name here and its two files in the lists of eval."""
    assert set(PARAMS["arms"]) == ARMS
    assert {p for p in STAGES["eval"]["deps"] if p.startswith(("data/conversations/", "data/judgements/"))} == {
        f"data/{kind}/{arm}.jsonl" for kind in ("conversations", "judgements") for arm in ARMS
    }


@pytest.mark.parametrize("prompt", sorted(p.stem for p in (ROOT / "prompts").iterdir()))
def test_what_a_prompt_re_runs(prompt):
    assert wave(file=f"prompts/{prompt}.txt") == PROMPT_WAVES[prompt]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_stage_file_section_and_code_dependencies_agree(file):
    name = file.stem
    assert name in SPEC and name in PARAMS, "one name in four places"
    code = {str(p) for p in closure(file.relative_to(ROOT))}
    for stage, s in STAGES.items():
        if stage.split("@")[0] == name:
            assert {d for d in s["deps"] if d.endswith(".py")} == code
            assert s["cmd"].startswith(f"python -m stages.{name} ")


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_stage_reads_what_is_declared_and_declares_what_it_reads(file):
    schema = importlib.import_module(f"stages.{file.stem}").Params
    declared = set(params.declared(OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml"), resolve=False))[file.stem])
    hints = get_type_hints(schema)
    read = set()
    for section in (f.name for f in fields(schema) if f.name != "llm"):
        keys = {f"{section}.{f.name}" for f in fields(hints[section])}
        read |= {section} if section in declared else keys
    extra = {"converse", "judge", *(k for k in declared if k.startswith("roles."))} if file.stem == "eval" else set()
    assert read | extra == declared
    assert read


def test_every_path_of_a_command_is_declared():
    looked = 0
    for name, s in STAGES.items():
        for word in s["cmd"].split():
            if word.startswith(("data/", "models/", "results/", "prompts/")):
                looked += 1
                assert word in s["deps"] | s["outs"], (name, word)
    assert looked > 60


def test_stages_name_no_path_and_no_model_in_code():
    looked = 0
    for file in [*FILES, *(ROOT / "stages/common").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                looked += 1
                assert not node.value.startswith(("data/", "models/", "prompts/", "gpt-")), (file, node.value)
    assert looked > 300


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_help_answers_without_heavy_imports(file):
    code = (
        "import sys, runpy\nsys.argv = ['x', '--help']\n"
        "try: runpy.run_module('stages.%s', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'openai', 'dvc', 'datasets', 'trl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    ).replace("%s", file.stem)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m stages.{file.stem}" in done.stdout


def test_lock_holds_names_and_versions_only():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert len(lines) > 100
    for line in lines:
        name, _, version = line.partition("==")
        assert name and version and "/" not in line and "+" not in version, line
