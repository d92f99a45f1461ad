"""Parameters: types, ranges, unknown and missing keys, all faults at once."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, a_round, complains
from omegaconf import OmegaConf

from stages import extract_pairs
from stages.core import params
from stages.core.cli import UserError
from stages.tools import check


def test_committed_params_have_no_fault(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check.check() == []
    done = subprocess.run([sys.executable, "-m", "stages.tools.check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "params.yaml: no fault\n", "")


def test_all_faults_in_one_message_with_the_nearest_name(project):
    p = project.params
    p.roleplay.turns = "many"
    p.roleplay.brnching = 2
    del p.roleplay["seed"]
    p.roles.inducer_tmp = 0.3
    p.dpo.beta = -1
    project.write()
    done = project._run(["stages.tools.check"], False)
    complains(
        done, "roleplay.turns", "many", "roleplay.brnching: unknown (did you mean roleplay.branching",
        "roleplay.seed: missing", "roles.inducer_tmp: unknown (did you mean roles.inducer_temp", "dpo.beta: ", "found -1",
    )  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01])
def test_threshold_outside_its_range(project, value):
    project.set(filter_personas__profiles__threshold=value)
    complains(project.run("filter_personas", check=False), "filter_personas.profiles.threshold", f"found {value}")


def test_numbers_as_dvc_writes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = "sft, train, base_model.source, base_model.revision"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{sft: {{cmd: x, params: [{keys}]}}}}")
    text = (ROOT / "params.yaml").read_text().replace("learning_rate: 0.001", "learning_rate: 5e-06")
    (tmp_path / "params.yaml").write_text(text)
    from stages.sft import Params

    assert params.load("sft", Params).sft.learning_rate == 5e-6


def test_undeclared_section_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {sft: {cmd: x, params: [sft]}}")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    from stages.sft import Params

    with pytest.raises(UserError, match="does not declare params train"):
        params.load("sft", Params)


def test_a_round_has_its_changes_over_the_sections(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.set(rounds={"2": a_round(extract_pairs={"filters": {"loops": None}})})
    assert check.check() == []
    first, second = (params.load("extract_pairs", extract_pairs.Params, name).extract_pairs for name in (None, "2"))
    assert first.filters.loops is not None and second == first.model_copy(
        update={"filters": first.filters.model_copy(update={"loops": None})}
    )
    assert params.declared_values("dpo", "2")["dpo"]["start"] == "sft"
    with pytest.raises(UserError, match="rounds has no line '3'"):
        params.load("dpo", extract_pairs.Params, "3")


@pytest.mark.parametrize(
    "name, section, change, told",
    [("2", "policy", "../dpo", "rounds.2.policy: "), ("2", "dpo", {}, "rounds.2.dpo.start: missing"),
     ("2", "dpo", {"start": "sft", "val_file": "x"}, "rounds.2.dpo.val_file: input should be None"),
     ("2", "dpo", {"start": "sft", "beta": -1}, "rounds.2.dpo.beta: input should be greater than 0"),
     ("2", "roleplay", {"trns": 1}, "rounds.2.roleplay.trns: unknown (did you mean roleplay.turns?)"),
     (2, "roleplay", {}, 'rounds.2: name it by letters and digits, in quotes ("2")')],
)  # fmt: skip
def test_a_fault_of_a_round_is_named(project, monkeypatch, name, section, change, told):
    monkeypatch.chdir(project.folder)
    project.params.rounds = {name: {**a_round(), section: change}}
    project.write()
    (fault,) = check.check()
    assert fault.startswith(told)


def test_no_interpolation_in_params():
    text = OmegaConf.to_yaml(OmegaConf.load(ROOT / "params.yaml"))
    assert "${" not in text


def test_roles_at_endpoints_that_are_not_there_are_named_with_the_nearest(project):
    project.set(user__model="scriptd:tiny", judge__model="embedded", llm__endpoints__scripted__base_url="http://x")
    done = project._run(["stages.tools.check"], check=False)
    complains(done, "user.model: endpoint 'scriptd': not among llm.endpoints (did you mean scripted?)")
    assert "judge.model" not in done.stderr
    project.set(judge__models=["nowhere:x", "embedded"], arms__base__model="elsewhere:y")
    done = project._run(["stages.tools.check"], check=False)
    complains(done, "judge.models: endpoint 'nowhere'", "arms.base.model: endpoint 'elsewhere'")
    project.params.llm.endpoints = "http://127.0.0.1"
    project.write()
    complains(project._run(["stages.tools.check"], check=False), "llm.endpoints: ", "found 'http://127.0.0.1'")


def test_yaml_that_cannot_be_read_names_the_line(project):
    text = (project.folder / "params.yaml").read_text()
    for more, told in (("roles: {a: 1\n", "expected ',' or '}'"), ("roles: {}\n", "found duplicate key roles")):
        (project.folder / "params.yaml").write_text(text + more)
        done = project._run(["stages.tools.check"], check=False)
        complains(done, "params.yaml: line ", told)
        assert int(re.search(r"line (\d+)", done.stderr)[1]) > len(text.splitlines())
