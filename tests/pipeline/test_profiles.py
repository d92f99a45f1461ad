"""Role-play with verifier, judge and calibrate against a server of each profile that refuses what the real one refuses.

The rules are those of the servers' documentation as it stood on 2026-11-26, not those of stages/llm/profiles.py:
OpenAI and Azure, guides on reasoning models; platform.claude.com, OpenAI SDK compatibility, and what Opus 4.7 answers;
ai.google.dev, OpenAI compatibility (unknown names are refused); docs.x.ai, reasoning; api-docs.deepseek.com, thinking mode;
docs.mistral.ai, chat completion (further fields are forbidden); console.groq.com, OpenAI compatibility; NVIDIA NIM, API
reference; vLLM, SGLang, llama.cpp, LM Studio: parameters beside OpenAI's.
"""

import json
from dataclasses import dataclass, field

import pytest
from conftest import complains, completion, reply_to
from fakes import encode

from stages import roleplay
from stages.llm.profiles import PROFILES

PERSON = {"profile": "I fish at sea. I own two boats. My leg hurts. I nap.", "personality": "I am shy, loud, and kind."}
CASE = {**PERSON, "id": "c", "turns": [{"turn": 1, "user": "U", "reply": "R"}]}
SAMPLING = {"temperature", "top_p"}
PENALTIES = {"frequency_penalty", "presence_penalty"}
LOGPROBS = {"logprobs", "top_logprobs"}
ALL = {"max_tokens", "max_completion_tokens", "seed", "stop", *SAMPLING, *PENALTIES, *LOGPROBS}
OFF = {"type": "disabled"}


@dataclass
class Real:
    """A server as its documentation has it: which parameters it takes, and what else it minds."""

    profile: str
    model: str
    takes: set[str]
    most: dict[str, float] = field(default_factory=dict)  # greatest values
    wants: dict[str, object] = field(default_factory=dict)  # else it samples by values of its own
    add: dict[str, object] = field(default_factory=dict)  # that the user asks for
    plain: bool = True  # a request without a profile is refused
    says: str = "Unsupported parameter: '{}' is not supported with this model."

    def minds(self, body: dict) -> str:
        """The parameter that it refuses, or empty."""
        for name, value in body.items():
            known = name in {"model", "messages", *self.takes, *self.wants, *self.add}
            if not known or (name in self.most and value > self.most[name]):
                return name
        if self.profile == "claude" and (not "".join(body.get("stop", "x")).strip() or body.keys() >= SAMPLING):
            return "stop" if "stop" in body else "top_p"
        return "" if self.wants.items() <= body.items() else "top_k"


SERVERS = [
    Real("openai", "gpt-6-luna", {"max_completion_tokens", "seed"}),
    Real("openai", "gpt-6.1-terra", {"max_completion_tokens", "seed", *SAMPLING, *LOGPROBS},
         add={"reasoning_effort": "none"}),
    Real("azure", "o3", {"max_completion_tokens", "seed"}),
    Real("claude", "claude-sonnet-4-5", {"max_tokens", "stop", *SAMPLING}, most={"temperature": 1}),  # others are ignored
    Real("claude", "claude-opus-4-8", {"max_tokens", "stop"}, says="`{}` is deprecated for this model."),
    Real("claude", "claude-sonnet-5-5", {"max_tokens", "stop"}, add={"thinking": OFF}),
    Real("gemini", "gemini-2.5-flash", {"max_tokens", "stop", *SAMPLING},
         says='Invalid JSON payload received. Unknown name "{}": Cannot find field.'),
    Real("gemini", "gemini-3.8-flash", {"max_tokens", "stop"}),
    Real("grok", "grok-4.6", ALL - {"stop"} - PENALTIES, most={"top_logprobs": 8},
         says="Argument not supported on this model: {}"),
    Real("deepseek", "deepseek-v4-pro", ALL - SAMPLING - PENALTIES - LOGPROBS),
    Real("mistral", "mistral-large-latest", {"max_tokens", "random_seed", "stop", *SAMPLING, *PENALTIES},
         says="{}: extra fields not permitted: {}"),
    Real("groq", "llama-3.3-70b-versatile", ALL - LOGPROBS),
    Real("openrouter", "openai/gpt-6-luna", {"max_completion_tokens", "seed"}),
    Real("openrouter", "anthropic/claude-sonnet-4.5", {"max_tokens", "temperature"}),
    Real("strict", "meta/llama-3.1-8b-instruct", {"max_tokens", "stop", *SAMPLING, *LOGPROBS}),
    *(Real(name, "qwen3-8b", ALL, most={"top_logprobs": 20}, plain=False, wants={
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "chat_template_kwargs": {"enable_thinking": False}})
      for name in ("vllm", "sglang")),
    Real("llamacpp", "qwen3-8b", ALL, plain=False, wants={
        "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
        "chat_template_kwargs": {"enable_thinking": False}}),
    Real("lmstudio", "qwen3-8b", ALL, plain=False, wants={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}),
    Real("ollama", "qwen3:8b", ALL, plain=False),
]  # fmt: skip


def test_every_profile_has_a_server():
    assert {real.profile for real in SERVERS} == set(PROFILES)


@pytest.mark.slow
@pytest.mark.parametrize("real", SERVERS, ids=lambda real: f"{real.profile} {real.model}")
def test_the_stages_pass_by_the_profile_and_only_by_it(project, server, monkeypatch, real):
    def reply(body):
        if named := real.minds(body):
            return 400, {"error": {"message": real.says.format(named, named), "type": "invalid_request_error"}}
        return 200, completion(reply_to({"messages": body["messages"]}) + "\nand more", body)

    monkeypatch.setattr(roleplay, "Encoder", lambda params: encode)
    for name, rows in {"personas/train": [PERSON], "conversations/base": [CASE]}.items():
        path = project.folder / f"data/{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = project.folder / "data/calibration/items.jsonl"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:5]))
    for section in (project.params.user, project.params.judge):
        section.model = f"scripted:{real.model}"
    for role in ("inducer", "preferred", "rejected", "verifier"):
        project.params.roles[f"{role}_model"] = f"scripted:{real.model}"
    project.set(roleplay__turns=2, llm__endpoints__scripted__add=real.add)
    server.reply = reply
    if real.plain:
        complains(
            project.run("judge", "base", check=False), f"scripted: {real.model} does not take ", "llm.endpoints.scripted"
        )
    project.set(llm__endpoints__scripted__profile=real.profile)
    for stage in (["roleplay"], ["judge", "base"], ["calibrate"]):
        before = len(server.requests)
        project.run(*stage)
        assert len(server.requests) > before and not any(map(real.minds, server.requests[before:]))
    (tree,) = project.rows("data/trees.jsonl")
    users = [node for node in tree["nodes"] if node["role"] == "user"]
    assert len(users) == 2 and all(len(node["verdicts"]) == 2 for node in users) and not tree["ended"]
    assert all(row["score"] for row in project.rows("data/judgements/base.jsonl"))
