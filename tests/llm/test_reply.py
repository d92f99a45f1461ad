"""What is stored of a server's answer, and the name of its outcome."""

import pytest
from calls import PRICE, ROLE, changed, run
from conftest import completion

from stages.llm.reply import from_answer, outcome


@pytest.mark.parametrize(
    "reply, name",
    [
        ({"text": "x", "finish": "stop"}, "ok"),
        ({"text": " \n", "finish": "stop"}, "empty"),
        ({"text": "x", "finish": "length"}, "truncated"),
        ({"text": "x", "finish": "content_filter"}, "filtered"),
        ({"text": "", "finish": "stop", "refusal": "no"}, "refused"),
    ],
)
def test_outcomes_have_names(reply, name):
    assert outcome(reply) == name


@pytest.mark.parametrize("message", [None, {}, {"role": "assistant"}])
def test_gemini_s_filtered_choice_has_no_message(server, message):
    def reply(body):
        answer = completion("", body, "content_filter: PROHIBITED_CONTENT")
        answer["choices"][0]["message"] = message
        return 200, answer

    server.reply = reply
    asked = lambda c: c.ask(changed(ROLE, accept=("filtered",)), [{"role": "user", "content": "x"}], 7, str.strip)  # noqa: E731
    assert run(server, asked).outcome == run(server, asked, llm={"budget_calls": 0}).outcome == "filtered"


@pytest.mark.parametrize("usage", [None, {}, "lacking"])
def test_tokens_that_were_not_counted_are_unknown(usage):
    answer = {**completion("fine", {"model": "tiny"}), "usage": usage}
    if usage == "lacking":
        del answer["usage"]
    reply = from_answer(answer, PRICE, local=False, seconds=0.1)
    assert [reply[k] for k in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")] == [None] * 4


def test_cached_tokens_that_the_server_does_not_count_are_unknown_and_the_cost_is_not():
    reply = from_answer(completion("fine", {"model": "tiny"}), PRICE, local=False, seconds=0.12345)
    assert reply["cached_tokens"] is None and reply["cost_usd"] == (7 * 1000 + 3 * 2000) / 1e6
    assert reply["seconds"] == 0.123 and reply["served_model"] == "tiny"


@pytest.mark.parametrize(
    "usage",
    ["x", [], {"prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": 3, "completion_tokens_details": []},
     {"prompt_tokens": True, "completion_tokens": 10**40}],
)  # fmt: skip
def test_counts_that_are_none_are_unknown_and_other_shapes_do_no_harm(usage):
    answer = {**completion("fine", {"model": 5}), "usage": usage}
    answer["choices"][0]["logprobs"] = {"content": [{"token": None}]}
    reply = from_answer(answer, PRICE, local=False, seconds=0.1)
    assert [reply[k] for k in ("prompt_tokens", "completion_tokens", "cost_usd", "served_model")] == [None] * 4
    assert "logprobs" not in reply and reply["text"] == "fine"


def test_log_probabilities_are_kept_token_by_token(server):
    def reply(body):
        answer = completion("4", body)
        top = [{"token": "4", "logprob": -0.5}, {"token": "5", "logprob": -1.5}]
        answer["choices"][0]["logprobs"] = {"content": [{"token": "4", "logprob": -0.5, "top_logprobs": top}]}
        return 200, answer

    server.reply = reply
    ask = lambda c: c.ask(changed(ROLE, logprobs=2), [{"role": "user", "content": "x"}], 7, str.strip)  # noqa: E731
    assert run(server, ask).reply["logprobs"] == [["4", [["4", -0.5], ["5", -1.5]]]]
    assert server.requests[0]["top_logprobs"] == 2
