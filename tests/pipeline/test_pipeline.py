"""Conventions of the pipeline: what a change re-runs, and that dvc.yaml, code and params say the same."""

import ast
import copy
import importlib
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from closure import STAGE, closure, forbidden, imports, package
from conftest import ROOT, a_round, filled
from omegaconf import OmegaConf

from stages.core import params

SPEC = OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml"), resolve=False)["stages"]
CONFIG = OmegaConf.load(ROOT / "params.yaml")
FILES = sorted(p for p in (ROOT / "stages").glob("*.py") if p.name != "__init__.py")


def expand(config=CONFIG) -> dict[str, dict]:
    """Every stage with its foreach items filled in: name -> {deps, outs, params}."""
    found = {}
    for name, spec in SPEC.items():
        section = spec.get("foreach", "")[2:-1]  # ${section} of the params: a stage for each of its keys
        items = OmegaConf.select(config, section) if section else {None: None}
        for key, item in items.items():
            fill = partial(filled, params=config, key=key, item=item)
            do = spec.get("do", spec)
            written = [o for kind in ("outs", "metrics", "plots") for o in do.get(kind, [])]
            found[name if key is None else f"{name}@{key}"] = {
                "cmd": fill(do["cmd"]),
                "deps": {fill(d) for d in do["deps"]},
                "outs": {fill(o if isinstance(o, str) else next(iter(o))) for o in written},
                "params": {fill(p) for p in do.get("params", [])}
                | {f"{section}.{key}.{name}" for name in re.findall(r"\$\{item\.([\w.]+)", do["cmd"])}
                | ({"prompts"} if "${prompts}" in do["cmd"] else set()),
            }
    return found


STAGES = expand()
PARAMS = OmegaConf.to_container(CONFIG, resolve=False)


def wave(param: str | None = None, file: str | None = None, stages: dict[str, dict] = STAGES) -> set[str]:
    """Stages that may run when one parameter or file changes (every output of a stage that runs counted as changed)."""
    dirty = {
        name for name, s in stages.items()
        if (param and any(param == k or param.startswith(k + ".") or k.startswith(param + ".") for k in s["params"]))
        or (file and any(file == d or file.startswith(d + "/") for d in s["deps"]))
    }  # fmt: skip
    while True:
        outs = {o for name in dirty for o in stages[name]["outs"]}
        more = {
            n for n, s in stages.items() if any(o == d or o.startswith(d + "/") for o in outs for d in s["deps"])
        } - dirty
        if not more:
            return dirty
        dirty |= more


ALL = set(STAGES)
EVALS = {"eval"}
ARMS = {"base", "sft", "dpo", "oracle", "base_no_memory", "dpo_no_memory"}
CHOICES = {f"choose@{m}" for m in ARMS}


def arms(*names: str) -> set[str]:
    """Conversations, choices and judgements of some arms, and eval."""
    return {f"{stage}@{name}" for stage in ("converse", "choose", "judge") for name in names} | EVALS


def talks(*names: str) -> set[str]:
    """Conversations and judgements of some arms, and eval."""
    return arms(*names) - CHOICES


JUDGES = {f"judge@{m}" for m in ARMS}
CALIBRATED = {"calibrate"} | EVALS
TRAINED = arms("sft", "dpo", "dpo_no_memory")
TESTS = arms(*ARMS)
TALKS = talks(*ARMS)
UNTRAINED = CHOICES - TRAINED
GROWN = {"roleplay", "extract_pairs", "sft", "dpo"} | TRAINED
AFTER_DPO = {"dpo"} | arms("dpo", "dpo_no_memory")
ROLE_WAVES = dict.fromkeys(("inducer", "preferred", "rejected", "verifier"), GROWN)
SECTION_WAVES = {
    "base_model": ALL - {"seed_personas"},
    "encoder": ALL - {"base_model", "seed_personas", "calibrate"} - UNTRAINED,
    "seed_personas": ALL - {"base_model", "calibrate"} - UNTRAINED,
    "filter_personas": ALL - {"base_model", "seed_personas", "calibrate"} - UNTRAINED,
    "generator": {"filter_personas"} | GROWN | TALKS | CALIBRATED,
    "user": GROWN | TALKS | CALIBRATED,
    "roleplay": GROWN,
    "extract_pairs": GROWN - {"roleplay"},
    "train": {"sft", "dpo"} | TRAINED,
    "sft": {"sft", "dpo"} | TRAINED,
    "dpo": AFTER_DPO,
    "rounds": EVALS,  # there is none, and the result's protocol says so
    "arms": TESTS,
    "converse": TALKS,
    "choose": CHOICES | EVALS,
    "external": set(),  # no benchmark is named
    "calibrate": CALIBRATED,
    "judge": JUDGES | CALIBRATED,
    "eval": EVALS,
    "prompts": ALL - {"base_model", "seed_personas"},
    "llm": set(),
}
PROMPT_WAVES = {
    "profile": SECTION_WAVES["generator"] - {"calibrate"},
    "personality": SECTION_WAVES["generator"] - {"calibrate"},
    "user": GROWN | TALKS,
    "choice": CHOICES | EVALS,
    "inducer": GROWN | TALKS,
    "read_out": TALKS,
    "preferred": GROWN,
    "rejected": GROWN,
    "verifier": GROWN,
    "judge": JUDGES | CALIBRATED,
    "set": GROWN | TALKS | CALIBRATED,
    **dict.fromkeys(("friend", "remind", "critique", "fewshot"), EVALS),  # no arm has them but in presets
    "assistant": (GROWN - {"roleplay"}) | arms("base", "base_no_memory"),
    "oracle": arms("oracle"),
}


@pytest.mark.parametrize("section", [s for s in PARAMS if s != "roles"])
def test_what_a_section_re_runs(section):
    assert wave(param=section) == SECTION_WAVES[section]


@pytest.mark.parametrize("key", PARAMS["roles"])
def test_what_a_role_re_runs(key):
    # a judge that made the data is named, so calibrate reads the makers' names
    named = CALIBRATED if key.endswith("_model") else set()
    assert wave(param=f"roles.{key}") == ROLE_WAVES[key.split("_")[0]] | named


@pytest.mark.parametrize("arm", PARAMS["arms"])
def test_what_an_arm_re_runs(arm):
    assert wave(param=f"arms.{arm}") == arms(arm)


LATER = copy.deepcopy(CONFIG)  # with two more rounds, each with an arm
for number, policy in (("2", "dpo"), ("3", "dpo_2")):
    LATER.rounds[number] = a_round(policy, beta=0.2)
    LATER.arms[f"dpo{number}"] = {**LATER.arms.dpo, "weights": f"dpo_{number}"}
ROUNDS = expand(LATER)
THIRD = {"roleplay_round@3", "extract_pairs_round@3", "dpo_round@3"} | arms("dpo3")
SECOND = {"roleplay_round@2", "extract_pairs_round@2", "dpo_round@2"} | arms("dpo2") | THIRD


@pytest.mark.parametrize(
    "param, stages",
    [("rounds.3.roleplay.seed", THIRD), ("rounds.3.policy", THIRD),
     ("rounds.3.extract_pairs.negatives", THIRD - {"roleplay_round@3"}),
     ("rounds.3.extract_pairs.groups", THIRD - {"roleplay_round@3"}), ("rounds.3.dpo.start", {"dpo_round@3"} | arms("dpo3")),
     ("rounds.2.roleplay.turns", SECOND), ("rounds.2.dpo.beta", {"dpo_round@2"} | arms("dpo2") | THIRD),
     ("dpo.loss_type", AFTER_DPO | SECOND), ("roleplay.turns", GROWN | SECOND)],
)  # fmt: skip
def test_what_a_setting_of_a_round_re_runs(param, stages):
    assert wave(param=param, stages=ROUNDS) == stages


@pytest.mark.slow
def test_dvc_makes_of_dvc_yaml_what_these_tests_do(tmp_path, monkeypatch):
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", ".")
    OmegaConf.save(LATER, "params.yaml")
    with Repo(config={"core": {"no_scm": True}}) as repo:
        made = {s.addressing: s for s in repo.index.stages}
    assert made.keys() == ROUNDS.keys()
    for name, stage in made.items():
        files = {d.def_path for d in stage.deps if not isinstance(d, ParamsDependency)}
        keys = {key for d in stage.deps if isinstance(d, ParamsDependency) for key in d.params}
        assert stage.cmd == ROUNDS[name]["cmd"] and files == ROUNDS[name]["deps"], name
        assert {o.def_path for o in stage.outs} == ROUNDS[name]["outs"] and keys <= ROUNDS[name]["params"], name


@pytest.mark.parametrize("name", ["roleplay", "extract_pairs", "dpo"])
def test_a_later_round_is_the_stage_of_the_first_with_other_arguments(name):
    first, later = SPEC[name], SPEC[f"{name}_round"]["do"]
    more = {"round", *(["policy"] if name == "roleplay" else [])}

    def options(cmd):
        return set(re.findall(r"--([\w-]+)", cmd))

    def kept(spec):
        return [out for kind in ("outs", "metrics") for out in spec[kind]]

    assert options(later["cmd"]) == options(first["cmd"]) | more and later["params"] == [
        f"rounds.${{key}}.{name}",
        *first["params"],
    ]
    code = [[d for d in spec["deps"] if d.startswith("stages/")] for spec in (first, later)]
    assert code[0] == code[1] and len(later["deps"]) == len(first["deps"]) + len(more) - 1
    assert len(kept(first)) == len(kept(later))


def test_a_settings_key_of_one_section_re_runs_what_reads_it():
    assert wave(param="generator.temp") == SECTION_WAVES["generator"] - {"calibrate"}
    assert wave(param="user.temp") == (GROWN | TALKS)


@pytest.mark.parametrize("prompt", sorted(p.name for p in (ROOT / "prompts/small").rglob("*.*")))
def test_what_a_prompt_re_runs(prompt):
    (file,) = (ROOT / "prompts/small").rglob(prompt)
    assert wave(file=str(file.relative_to(ROOT))) == PROMPT_WAVES[file.stem]


def test_a_prompt_of_another_set_re_runs_nothing():
    names = [p.relative_to(ROOT / "prompts/small") for p in (ROOT / "prompts/small").rglob("*.*")]
    assert len(names) > 10 and not any(wave(file=f"prompts/natural/{name}") for name in names)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_stage_file_section_and_code_dependencies_agree(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = file.stem
    assert name in SPEC and name in PARAMS, "one name in four places"
    packages = {f"stages/{package(p)}" for p in closure(file.relative_to(ROOT))} - {f"stages/{STAGE}"}
    do = SPEC[name].get("do", SPEC[name])
    assert {d for d in do["deps"] if d.startswith("stages/")} == packages | {f"stages/{name}.py"}
    assert filled(re.sub(r"\$\{(key|item)[^}]*\}", "", do["cmd"]), CONFIG).startswith(f"python -m stages.{name} ")


def test_who_imports_whom(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = sorted(Path("stages").rglob("*.py"))
    assert len(files) > 60
    assert [line for file in files for line in forbidden(file)] == []


def test_no_module_imports_in_a_circle(monkeypatch):
    monkeypatch.chdir(ROOT)
    left = {file: {found for _, found in imports(file)} - {file} for file in Path("stages").rglob("*.py")}
    while free := [file for file, needs in left.items() if not needs & left.keys()]:
        for file in free:
            del left[file]
    assert left == {}


def test_a_line_that_breaks_the_rule_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("judge.py", "core/files.py", "llm/client.py", "tools/plan.py"):
        file = Path("stages", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    broken = {
        "core/files.py": "def f():\n    from stages.llm import client\n",
        "llm/client.py": "import stages.judge\n",
        "judge.py": "from stages.tools.plan import plan\n",
    }
    for name, line in broken.items():
        Path("stages", name).write_text(line)
    assert [len(forbidden(Path("stages", name))) for name in broken] == [1, 1, 1]
    Path("stages/core/files.py").write_text("import importlib\nimportlib.import_module('stages.judge')\n")
    assert forbidden(Path("stages/core/files.py")) == ["stages/core/files.py:2: import by string"]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_stage_reads_what_is_declared_and_declares_what_it_reads(file):
    schema = importlib.import_module(f"stages.{file.stem}").Params
    declared = set(params.declared(OmegaConf.to_container(OmegaConf.load(ROOT / "dvc.yaml"), resolve=False))[file.stem])
    read = set()
    for section, field in schema.model_fields.items():
        if section != "llm":
            keys = {section} if section in declared else {f"{section}.{name}" for name in field.annotation.model_fields}
            read |= keys
    if file.stem == "eval":  # it names all values in the result's protocol
        assert declared == set(PARAMS) - {"llm", "external"} and read <= declared
    else:
        assert read == declared
    assert read


def test_every_path_of_a_command_is_declared():
    looked = 0
    for name, s in ROUNDS.items():
        for word in s["cmd"].split():
            if word.startswith(("data/", "models/", "results/", "prompts/")):
                looked += 1
                assert word in s["deps"] | s["outs"], (name, word)
    assert looked > 60


def test_stages_name_no_path_and_no_model_in_code():
    looked = 0
    for file in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                looked += 1
                assert not node.value.startswith(("data/", "models/", "prompts/", "gpt-")), (file, node.value)
    assert looked > 300


def test_help_answers_without_heavy_imports():
    """One process for all stages, which are alike: what one of them imports too much is named with it."""
    code = (
        "import sys, runpy\n"
        "for stage in sys.argv[1:]:\n"
        "    sys.argv = ['x', '--help']\n"
        "    try: runpy.run_module('stages.' + stage, run_name='__main__')\n"
        "    except SystemExit as e: assert not e.code, stage\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'openai', 'dvc', 'datasets', 'trl'} & set(sys.modules)\n"
        "    assert not heavy, (stage, heavy)"
    )
    stages = [file.stem for file in FILES]
    done = subprocess.run([sys.executable, "-c", code, *stages], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(stages) > 8 and all(f"python -m stages.{stage}" in done.stdout for stage in stages)


def test_lock_holds_names_and_versions_only():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert len(lines) > 100
    for line in lines:
        name, _, version = line.partition("==")
        assert name and version and "/" not in line and "+" not in version, line
