"""What check and plan say of settings that a model never sees."""

import pytest
from conftest import ROOT, a_round, complains

from stages.core.params import load_yaml
from stages.tools import check

QUOTER = {"model": "embedded", "temp": 0.0, "top_p": 1.0, "penalty": 0.0, "tokens": 600}
ARM = {"model": "local", "weights": "base", "prompt": "assistant", "strategy": "reply", "memory": "all"}


@pytest.fixture
def checked(project):
    """Runs the tool with roles.inducer at a model of an endpoint: its lines."""

    def lines(model, role="inducer", **endpoint):
        name, _, _ = model.partition(":")
        project.set(**{f"llm__endpoints__{name}": {"base_url": "http://127.0.0.1:1/v1", **endpoint}})
        project.set(roles__inducer_model=model) if role == "inducer" else project.set(judge__model=model)
        return project._run(["stages.tools.check"], True).stdout.splitlines()

    return lines


def test_a_setting_that_the_profile_drops_is_said(checked):
    lines = checked("openai:gpt-5-mini", profile="openai")
    assert lines == ["params.yaml: no fault", "roles.inducer_temp: 0.0 is not sent to openai:gpt-5-mini"]
    assert "judge.logprobs: True is not sent to openai:gpt-5-mini" in checked("openai:gpt-5-mini", "judge", profile="openai")
    lines = checked("google:gemini-2.0-flash", profile="gemini")
    assert "roles.inducer_model: no seed is sent to google:gemini-2.0-flash: a draw cannot be repeated" in lines


def test_a_family_that_refuses_plain_requests_is_said_with_its_profile(checked):
    said = "roles.inducer_model: openai:o3 refuses parameters that are sent; set llm.endpoints.openai.profile to openai"
    assert said in checked("openai:o3")
    assert len(checked("openai:gpt-4.1")) == 1


def test_a_server_that_cannot_be_told_by_requests_is_said(checked):
    assert any("Modelfile" in line for line in checked("local:llama3", profile="ollama"))


def test_params_of_the_repository_have_nothing_to_say():
    assert check.unsent(load_yaml(str(ROOT / "params.yaml"))) == []


@pytest.mark.parametrize(
    "endpoint, fault",
    [({"profile": "opnai"}, "unknown profile 'opnai' (did you mean openai?)"), ({"omitt": []}, "omit"),
     ({"models": {"x": {"thinking_tokens": -1}}}, "llm.endpoints.scripted.models.x.thinking_tokens")],
)  # fmt: skip
def test_a_fault_of_a_profile_is_a_line(project, endpoint, fault):
    project.set(**{f"llm__endpoints__scripted__{k}": v for k, v in endpoint.items()})
    complains(project._run(["stages.tools.check"], False), fault)


@pytest.mark.parametrize(
    "key, value, told",
    [("judge__model", "embeded", "judge.model: 'embeded' is neither embedded nor <endpoint>:<model> (did you mean emb"),
     ("roles__inducer_model", "tiny", "roles.inducer_model: 'tiny' is neither embedded nor <endpoint>:<model>"),
     ("judge__models", ["embedded", "me/tiny"], "judge.models: 'me/tiny' is neither embedded nor"),
     ("arms__base__model", "lokal", "arms.base.model: 'lokal' is neither local, <endpoint>:<model> nor a Hub id (did you"),
     ("dpo__loss_type", ["robust", "sigmoidd"], "dpo.loss_type: 'sigmoidd' is no loss of TRL (did you mean sigmoid?)"),
     ("filter_personas__import_profiles", "data/mine", "filter_personas.import_profiles: no such file or folder data/mine"),
     ("extract_pairs__more_trees", "/nowhere", "extract_pairs.more_trees: no such file or folder /nowhere"),
     ("sft__train_file", "data/sft/mine.jsonl", "sft.train_file: no such file or folder data/sft/mine.jsonl"),
     ("dpo__start", "stf", "dpo.start: no such file or folder models/stf"),
     ("arms__sft__weights", "stf", "arms.sft.weights: no such file or folder models/stf"),
     ("arms__sft__prompt", "mine", "arms.sft.prompt: no such file or folder prompts/small/mine.txt"),
     ("rounds", {"2": a_round(extract_pairs={"groups": "gone"})}, "rounds.2.extract_pairs.groups: no such file"),
     ("external__folders", {"prefeval": "gone"}, "external.folders.prefeval: no such file or folder gone"),
     ("prompts", "mine", "prompts: no folder prompts/mine"),
     ("roles__inducer_form", "letters", "roles.inducer_form: letters needs an inducer that quotes, which prompts/small/"),
     ("converse__quotes", QUOTER, "converse.quotes: needs an inducer that quotes, which prompts/small/"),
     ("rounds", "2", "rounds: input should be a valid dictionary, found '2'"),
     ("arms", {"base": ARM, "dpo": ARM, "me/tiny": ARM}, "arms.me/tiny: name it by letters, digits, dots, - and _"),
     ("extract_pairs__groups", "data/crossed", "extract_pairs.groups: data/crossed holds data/crossed/groups.jsonl, by"),
     ("rounds", {"2": a_round(extract_pairs={"groups": "data/crossed/groups.jsonl"})}, "rounds.2.extract_pairs.groups: "),
     ("extract_pairs__negatives", ["uninformed", "misinformed"], "extract_pairs.negatives: roleplay.replies makes"),
     ("rounds", {"2": a_round(roleplay={"replies": ["informed", "misinformed"]})}, "rounds.2.extract_pairs.negatives"),
     ("choose__arms", ["base", "dop"], "choose.arms: there is no arm dop (did you mean dpo?)"),
     ("base_model__source", "./mine", "base_model.source: no such file or folder mine")],
)  # fmt: skip
def test_what_would_stop_a_stage_later_is_a_fault(project, monkeypatch, key, value, told):
    monkeypatch.chdir(project.folder)
    project.set(**{key: value})
    (fault,) = check.check()
    assert fault.startswith(told)


@pytest.mark.parametrize(
    "file, text, told",
    [("judge.txt", "[user]\n{persona} {replyy}\n", "prompts/small/judge.txt: no role fills {replyy} (did you mean reply?)"),
     ("responders/preferred.txt", "[last]\n{mesage}\n", "prompts/small/responders/preferred.txt: no role fills {mesage}"),
     ("oracle.txt", "[system]\n{person}\n", "prompts/small/oracle.txt: no role fills {person} (did you mean persona?)"),
     ("read_out.txt", "[ask]\n{what}\n", "prompts/small/read_out.txt: no role fills {what}"),
     ("user.txt", "You are\n[user]\n", "prompts/small/user.txt: must start with a line like [system]"),
     ("set.yaml", "user: shy\n", "prompts/small/set.yaml: user: "), ("friend.txt", "[system]\n{any}\n", None)],
)  # fmt: skip
def test_a_prompt_that_would_stop_its_stage_is_a_fault(project, monkeypatch, file, text, told):
    monkeypatch.chdir(project.folder)
    (project.folder / "prompts/small" / file).write_text(text)
    found = check.check()
    assert len(found) == (told is not None) and all(fault.startswith(told) for fault in found)


@pytest.mark.parametrize("name", ["small", "natural"])
def test_every_variable_of_the_committed_sets_is_filled(project, monkeypatch, name):
    monkeypatch.chdir(project.folder)
    project.set(prompts=name)
    assert check.check() == []


def test_what_is_made_or_pulled_or_on_the_hub_is_no_fault(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    (project.folder / "data/mine.dvc").touch()
    project.set(
        rounds={"2": a_round(extract_pairs={"more_trees": "data/trees.jsonl"})},
        arms__dpo={**project.params.arms.dpo, "weights": "dpo_2"}, arms__sft__model="me/tiny@main",
        sft__train_file="data/mine/rows.jsonl", base_model__source="me/tiny", user__model="embedded",
    )  # fmt: skip
    assert check.check() == []
