"""Models that refuse parameters of a plain request: asked by their profile, and one line where there is none."""

import json

import pytest
from calls import CHAT, ROLE, changed, run
from conftest import Server, completion

from stages.core.cli import UserError
from stages.llm.endpoint import CallFailed
from stages.llm.profiles import PROFILES, advised
from stages.llm.request import request
from stages.llm.settings import Limits

LINE = changed(ROLE, temp=0.5, top_p=0.9, penalty=0.4, stop=("\n",), logprobs=20, tokens=8)
PENALTIES = ("frequency_penalty", "presence_penalty")
LOGPROBS = ("logprobs", "top_logprobs")


def sent(model, role=LINE, aliases=None, **limits):
    """What a request to the model carries besides its messages."""
    wire = Limits(aliases=aliases or {}, **limits).wire(model)
    call = request("e:" + model, role, CHAT, 7, wire=wire)
    body = json.loads(call.body)
    del body["messages"]
    return body, call


OPENAI = {"max_completion_tokens": 8 + 4096, "seed": 7}
SAMPLED = {"temperature": 0.5, "max_tokens": 8}
PLAIN = {**SAMPLED, "top_p": 0.9, "frequency_penalty": 0.4, "seed": 7, "stop": ["\n"], "logprobs": True, "top_logprobs": 20}


@pytest.mark.parametrize(
    "profile, models, body",
    [
        ("openai", "gpt-5 gpt-5-mini gpt-5.1 gpt-5.4-2026-03-05 gpt-6-sol gpt-10 o1 o3-mini o4-mini-2025-04-16 ft:gpt-5:me",
         OPENAI),
        ("azure", "gpt-5 o3", OPENAI),
        ("openrouter", "openai/gpt-5-mini openai/o3", OPENAI),
        ("openai", "gpt-4o gpt-4.1-mini chatgpt-4o-latest gpt-35-turbo gpt-oss-20b",
         PLAIN),
        ("claude", "claude-opus-4-6 claude-sonnet-4-5-20250929 claude-opus-4-20250514 claude-3-5-sonnet-latest "
         "claude-haiku-4-5 claude-sonnet-4-6", SAMPLED),
        ("openrouter", "anthropic/claude-opus-4.5", SAMPLED),
        ("claude", "claude-opus-4-7 claude-opus-4-7-20260416 claude-opus-4-8", {"max_tokens": 8}),
        ("claude", "claude-sonnet-5 claude-opus-5 claude-opus-5-5 claude-haiku-5-5 claude-mythos-preview",
         {"max_tokens": 8 + 4096}),
        ("openrouter", "anthropic/claude-opus-4.8", {"max_tokens": 8}),
        ("gemini", "gemini-2.0-flash gemma-3-27b-it", {**SAMPLED, "top_p": 0.9, "stop": ["\n"]}),
        ("gemini", "gemini-2.5-flash gemini-3-pro-preview models/gemini-2.5-pro",
         {"temperature": 0.5, "top_p": 0.9, "max_tokens": 8 + 4096}),
        ("gemini", "gemini-3.6-flash gemini-flash-latest", {"max_tokens": 8 + 4096}),
        ("grok", "grok-4 grok-3-mini grok-4-fast-reasoning grok-code-fast-1 grok-4.20-0309",
         {"temperature": 0.5, "top_p": 0.9, "max_tokens": 8 + 4096, "seed": 7, "logprobs": True, "top_logprobs": 8}),
        ("grok", "grok-3 grok-4-fast-non-reasoning",
         {**PLAIN, "top_logprobs": 8}),
        ("deepseek", "deepseek-reasoner deepseek-v4-pro", {"max_tokens": 8 + 4096, "seed": 7}),
        ("deepseek", "deepseek-chat",
         PLAIN),
        ("mistral", "mistral-large-latest",
         {**SAMPLED, "top_p": 0.9, "frequency_penalty": 0.4, "random_seed": 7, "stop": ["\n"]}),
        ("strict", "meta/llama-3.1-8b-instruct",
         {**SAMPLED, "top_p": 0.9, "stop": ["\n"], "logprobs": True, "top_logprobs": 20}),
    ],
)  # fmt: skip
def test_a_profile_sends_what_the_family_takes(profile, models, body):
    for model in models.split():
        assert sent(model, profile=profile)[0] == body, model


NEUTRAL = changed(ROLE, temp=0.0, top_p=1.0, penalty=0.0)


@pytest.mark.parametrize("profile", PROFILES)
def test_with_a_profile_values_that_change_nothing_are_not_sent_unless_the_server_has_others(profile):
    body, call = sent("some-model", NEUTRAL, profile=profile)
    assert "frequency_penalty" not in body and not {"frequency_penalty", "top_p"} & set(call.unsent)
    assert body.get("top_p") == (1.0 if profile in ("vllm", "sglang", "llamacpp", "lmstudio", "ollama") else None)


def test_without_a_profile_the_request_is_as_the_protocol_has_it():
    assert sent("gpt-5", LINE)[0] == {
        "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.4, "max_tokens": 8, "seed": 7, "stop": ["\n"],
        "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    assert request("e:gpt-5", LINE, CHAT, 7).key == sent("gpt-5", LINE, base_url="http://x", concurrency=3)[1].key


@pytest.mark.parametrize(
    "profile, off",
    [
        ("vllm", {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        ("sglang", {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        ("llamacpp", {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}),
        ("lmstudio", {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}),
    ],
)
def test_sampling_that_a_local_server_adds_is_switched_off_and_thoughts_where_its_template_can(profile, off):
    body, _ = sent("qwen3", profile=profile)
    assert off.items() <= body.items() and body["top_p"] == 0.9 and body["seed"] == 7 and body["stop"] == ["\n"]
    assert body.get("chat_template_kwargs") == (None if profile == "lmstudio" else {"enable_thinking": False})
    thinking, _ = sent("qwen3", profile=profile, thinking_tokens=100)
    assert "chat_template_kwargs" not in thinking and "stop" not in thinking and thinking["max_tokens"] == 108


def test_reasoning_that_is_switched_off_brings_the_sampling_back():
    body, _ = sent("gpt-5.2", profile="openai", add={"reasoning_effort": "none"})
    assert body["temperature"] == 0.5 and body["top_p"] == 0.9 and body["logprobs"] and body["reasoning_effort"] == "none"
    assert body["max_completion_tokens"] == 8 and not {"stop", *PENALTIES} & set(body)
    off = {"thinking": {"type": "disabled"}}
    assert sent("deepseek-v4-pro", profile="deepseek", add=off)[0]["temperature"] == 0.5
    assert sent("claude-opus-5", profile="claude", add=off)[0] == {"max_tokens": 8, **off}


def test_a_stop_text_that_is_seen_is_sent_to_claude_and_a_temperature_above_one_is_not():
    body, call = sent("claude-opus-4-5", changed(LINE, stop=("\n", "User:"), temp=1.5), profile="claude")
    assert body["stop"] == ["User:"] and body["temperature"] == 1 and call.unsent["temperature"] == "is sent as 1"
    assert call.unsent["top_p"] == "is not sent"


def test_a_deployment_is_known_by_its_alias():
    assert sent("judge-prod", profile="azure", aliases={"judge-prod": "gpt-5-mini-2025-08-07"})[0] == OPENAI
    assert sent("judge-prod", profile="azure", aliases={"judge-prod": "gpt-4o"})[0]["max_completion_tokens"] == 8


def test_an_endpoint_and_a_model_there_have_their_own_words():
    own = {"omit": ["seed"], "rename": {"max_tokens": "max_new_tokens"}, "cap": {"top_logprobs": 5}, "add": {"safe": True}}
    body, call = sent("x", **own)
    assert body == {"temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.4, "max_new_tokens": 8, "stop": ["\n"],
                    "logprobs": True, "top_logprobs": 5, "safe": True}  # fmt: skip
    assert call.unsent == {"seed": "is not sent", "top_logprobs": "is sent as 5"}
    models = {"x": {"keep": ["seed"], "add": {"safe": False, "temperature": 1.0}, "cap": {"top_logprobs": 3}}}
    body, _ = sent("x", **own, models=models)
    assert (body["seed"], body["safe"], body["temperature"], body["top_logprobs"]) == (7, False, 1.0, 3)
    assert sent("y", **own, models=models)[0]["safe"] is True
    assert sent("gpt-5", profile="openai", keep=["temperature"])[0]["temperature"] == 0.5
    assert "max_completion_tokens" not in sent("gpt-5", profile="openai", omit=["max_completion_tokens"])[0]
    assert sent("gpt-5", profile="openai", models={"gpt-5": {"profile": "strict"}})[0]["max_tokens"] == 8
    assert not set(LOGPROBS) & set(sent("x", omit=["logprobs"])[0])


def test_what_is_sent_is_the_key_and_draws_without_a_seed_have_keys_of_their_own():
    plain = request("e:x", LINE, CHAT, 7)
    keys = {sent("x", **limits)[1].key for limits in (
        {}, {"profile": "strict"}, {"omit": ["stop"]}, {"cap": {"temperature": 0.1}}, {"add": {"top_k": 5}},
        {"thinking_tokens": 9}, {"rename": {"seed": "random_seed"}})}  # fmt: skip
    assert len(keys) == 7 and plain.key in keys
    wire = Limits(profile="gemini").wire("gemini-2.0-flash")
    first, second = (request("e:x", LINE, CHAT, seed, wire=wire) for seed in (1, 2))
    assert first.body == second.body and first.key != second.key


def test_an_unknown_profile_is_a_fault_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown profile 'open_ai' \(did you mean openai\?\); there are openai, "):
        Limits(profile="open_ai")


@pytest.mark.parametrize(
    "model, profile",
    [("gpt-5-mini", "openai"), ("o3", "openai"), ("Claude-Opus-4-7", "claude"), ("x-ai/grok-4", "grok"),
     ("gpt-4o", ""), ("llama-3.1-8b", ""), ("qwen2.5-7b", "")],
)  # fmt: skip
def test_the_profile_that_a_name_asks_for(model, profile):
    assert advised(model) == profile


class Picky:
    """A server that refuses every parameter but those it knows, as `says` words it, and answers as far as it is let."""

    def __init__(self, server: Server, takes, says="Unsupported parameter: '{}' is not supported with this model."):
        self.takes, self.says = {"model", "messages", *takes}, says
        server.reply = self

    def __call__(self, body):
        for name, value in body.items():
            if name not in self.takes or (name == "temperature" and value != 1):
                error = {"message": self.says.format(name), "type": "invalid_request_error", "code": "unsupported_parameter"}
                return 400, {"error": error}
        return 200, completion("fine\nand more", body)


def ask(client):
    return client.ask(LINE, CHAT, 7, str.strip)


def test_a_model_that_refuses_everything_answers_by_its_profile_and_the_reply_is_cut_here(server):
    Picky(server, ["max_completion_tokens", "seed"])
    answer = run(server, ask, profile="openai", aliases={"tiny": "gpt-5-mini-2025-08-07"})
    assert answer.text == "fine" and len(server.requests) == 1


@pytest.mark.parametrize(
    "says, named",
    [
        ("Unsupported parameter: '{}' is not supported with this model. Use 'max_completion_tokens' instead.", "max_tokens"),
        ('Invalid JSON payload received. Unknown name "{}": Cannot find field.', "frequency_penalty"),
        ("`{}` and `top_p` cannot both be specified for this model. Please use only one.", "temperature"),
        ("`{}` is deprecated for this model.", "top_p"),
        ("{}_sequences: each stop sequence must contain non-whitespace", "stop"),
        ("Argument not supported on this model: {}", "stop"),
        ("Unrecognized request argument supplied: {}", "seed"),
        ("Model grok-4 does not support parameter {}.", "stop"),
        ("{} is not supported", "logprobs"),
        ("Invalid value for '{}': must be less than or equal to 5.", "top_logprobs"),
        ("invalid {}: only 1 is allowed for this model", "temperature"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_is_refused_stops_the_run_with_the_setting_that_leaves_it_out(server, says, named, status):
    server.reply = lambda body: (status, {"error": {"message": says.format(named)}})
    with pytest.raises(UserError) as e:
        run(server, ask)
    assert f"tiny does not take {named}: " in str(e.value) and "\n" not in str(e.value)
    assert f"llm.endpoints.scripted.omit to [{named}]" in str(e.value) and len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "not supported here", "param": "seed", "code": "unsupported_parameter"}},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.', "status": "INVALID_ARGUMENT"}}],
        {"error": {"message": "Provider returned error", "metadata": {"raw": '{"message": "unknown field `seed`"}'}}},
        {"message": "`seed`: extra fields not permitted"},
    ],
)
def test_the_parameter_is_found_in_every_shape_of_an_error(server, answer):
    server.reply = lambda body: (400, answer)
    with pytest.raises(UserError, match=r"tiny does not take seed: .*omit to \[seed\]"):
        run(server, ask)


@pytest.mark.parametrize(
    "says, named",
    [
        ("chat_template is not supported for Mistral tokenizers.", "chat_template_kwargs"),  # vLLM
        ("This model does not support response format `json_schema`.", "response_format"),  # Groq
    ],
)
def test_a_parameter_that_is_refused_by_another_name_is_named(server, says, named):
    server.reply = lambda body: (400, {"error": {"message": says}})
    with pytest.raises(UserError, match=rf"omit to \[{named}\]"):
        run(server, lambda c: c.ask(ROLE, CHAT, 7, str.strip, {"type": "object"}), profile="vllm")


def test_deepseek_gets_no_schema_and_what_serves_its_models_does():
    for profile, asked in (("deepseek", False), ("openrouter", True), ("vllm", True)):
        body = request("e", LINE, CHAT, 7, {"type": "object"}, Limits(profile=profile).wire("deepseek-v4-pro")).body
        assert ("response_format" in body) == asked


def test_the_line_names_the_profile_where_the_family_is_known(server):
    Picky(server, [])
    with pytest.raises(UserError) as e:
        run(server, lambda c: c.ask(changed(LINE, model="scripted:gpt-5-mini"), CHAT, 7, str.strip))
    assert "set llm.endpoints.scripted.profile to openai" in str(e.value)


@pytest.mark.parametrize("text", ["sunflower seeds", "do not stop", "the temperatures", "bad schema"])
def test_a_common_word_is_no_parameter(server, text):
    server.reply = lambda body: (400, {"error": {"message": text}})
    with pytest.raises(CallFailed, match="status_400"):
        run(server, ask)


def test_what_a_model_never_sees_is_in_the_metrics(server):
    async def work(client):
        await ask(client)
        return client.ledger.metrics()["user"].get("not_sent")

    assert run(server, work, profile="strict") == "frequency_penalty, seed" and run(server, work) is None


def test_a_role_at_temperature_0_is_drawn_again_where_none_is_sent(server):
    server.reply = lambda body: "" if len(server.requests) < 3 else "fine"
    answer = run(server, lambda c: c.ask(changed(LINE, temp=0.0), CHAT, 7, str.strip), omit=["temperature", "seed"])
    assert (answer.text, answer.sample) == ("fine", 2)
