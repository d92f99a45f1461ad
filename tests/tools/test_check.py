"""What check and plan say of settings that a model never sees."""

import pytest
from conftest import ROOT, complains

from stages.core.params import load_yaml
from stages.tools import check


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
