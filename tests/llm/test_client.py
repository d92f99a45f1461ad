"""The client: which replies are used, which are drawn again, and jobs side by side."""

import asyncio
import json
from functools import partial

import pytest
from calls import CHAT, PRICE, ROLE, ask, changed, run, settings
from conftest import completion

from stages.core.files import root
from stages.llm.cache import Cache
from stages.llm.client import Client
from stages.llm.endpoint import CallFailed
from stages.llm.servers import Servers


def finished(finish, text="", **message):
    def answer(body):
        made = completion(text, body, finish)
        made["choices"][0]["message"].update(message)
        return 200, made

    return answer


@pytest.mark.parametrize(
    "bad, reason",
    [
        (finished("content_filter"), "filtered"),
        (finished("content_filter", "half a"), "filtered"),
        (finished("stop", refusal="I will not."), "refused"),
        (finished("stop", content=None, refusal="I will not."), "refused"),
        (finished("stop", " \n "), "empty"),
        (finished("stop", content=None), "empty"),
        (finished("length", "half a"), "truncated"),
        *[(finished(word, "half a"), "truncated") for word in ("max_tokens", "MAX_TOKENS", "max_output_tokens")],
        *[(finished(word, "half a"), "filtered") for word in ("SAFETY", "recitation", "FINISH_REASON_SAFETY")],
        *[(finished(word, "half a"), "unfinished") for word in ("error", "ERROR", "abort", "tool_calls", "?", "", None)],
        (finished("error"), "unfinished"),
        (finished("refusal", "half a"), "refused"),
        (finished("stop", content=[{"type": "refusal", "refusal": "I will not."}]), "refused"),
        (finished("stop", content=[]), "empty"),
        (finished("stop", "<think>"), "truncated"),
        (finished("stop", "<think>\nwell, half a"), "truncated"),
        (finished("stop", "<think> well </think>\n"), "empty"),
        (finished("stop", "", reasoning_content="well"), "empty"),
        (finished("length", None, reasoning="well"), "empty"),
    ],
)
def test_each_unusable_reply_has_its_name_and_is_drawn_again(server, bad, reason):
    server.reply = lambda body: bad(body) if len(server.requests) == 1 else "fine"

    async def one(client):
        return await ask(client), client.ledger.metrics()["user"]["outcomes"]

    answer, outcomes = run(server, one)
    assert (answer.value, answer.sample) == ("fine", 1) and outcomes == {reason: 1, "ok": 1}
    first, second = server.requests
    assert first["seed"] != second["seed"] and {**first, "seed": 0} == {**second, "seed": 0}
    server.reply = bad
    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, CHAT, 8, str.strip))
    assert e.value.reason == reason and len(server.requests) == 5


@pytest.mark.parametrize("word", ["stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE"])
def test_good_ends_in_every_spelling(server, word):
    server.reply = finished(word, "whole")
    assert run(server, ask).value == "whole"


@pytest.mark.parametrize(
    "text, value",
    [
        ("<think>\nshall I?\n</think>\n\nHello", "Hello"),
        ("shall I? no\n</think>\nHello", "Hello"),  # the template has begun the thought
        ("<think></think>Hello", "Hello"),
        ("<think>a <think> b</think> c</think> Hello", "Hello"),
        ("<thinking>x</thinking> Hello", "Hello"),
        ("[THINK]x[/THINK]Hello", "Hello"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>Hello", "Hello"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}, {"type": "text", "text": "Hello"}], "Hello"),
        ([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], "Hello"),
        ([{"type": "text", "text": "Hello \ud83d"}, {"type": "text", "text": "\ude00"}], "Hello \U0001f600"),
        ("Hello <3 and <b>", "Hello <3 and <b>"),
    ],
)
@pytest.mark.parametrize("stop", [(), ("\n",)])
def test_thoughts_are_never_said_and_parts_are_joined(server, text, value, stop):
    server.reply = finished("stop", text)
    role = changed(ROLE, stop=stop)
    for _ in range(2):  # from the server, then from the cache
        assert run(server, lambda c: c.ask(role, CHAT, 7, str.strip)).value == value
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "bad", [finished("stop", "<think> well"), finished("stop", "", reasoning_content="well"),
            finished("length", "", reasoning="well"), finished("length", "<think>x</think>")]
)  # fmt: skip
def test_a_reply_that_thoughts_took_says_so(server, bad):
    server.reply = bad
    with pytest.raises(CallFailed, match=r"the model's reasoning took .*llm.endpoints.NAME.thinking_tokens"):
        run(server, ask)


@pytest.mark.parametrize("accept", [("ok", "truncated"), ("ok", "truncated", "empty")])
def test_a_thought_without_a_reply_is_not_used_as_a_cut_reply_unless_empty_ones_are(server, accept):
    server.reply = finished("length", "<think> well")
    asked = lambda c: c.ask(changed(ROLE, accept=accept), CHAT, 7, str.strip)  # noqa: E731
    if "empty" in accept:
        assert (run(server, asked).value, run(server, asked).outcome) == ("", "truncated")
    else:
        with pytest.raises(CallFailed, match="truncated"):
            run(server, asked)


def test_a_line_is_cut_here_where_the_server_goes_on(server):
    line = changed(ROLE, stop=("\n",))
    server.reply = finished("length", "\n Hello \nand so on")
    answer = run(server, lambda c: c.ask(line, CHAT, 7, str.strip))
    assert (answer.value, answer.outcome) == ("Hello", "ok")
    assert (
        run(server, lambda c: c.ask(changed(ROLE, accept=("truncated",)), CHAT, 7, str.strip)).value == "Hello \nand so on"
    )


def test_tokens_for_thinking_are_asked_for_counted_and_priced(server):
    def reply(body):
        answer = completion("<think> well </think>Hello", body)
        answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 53,
                           "completion_tokens_details": {"reasoning_tokens": 40}}  # fmt: skip
        return 200, answer

    server.reply = reply

    async def work(client):
        await client.ask(changed(ROLE, stop=("\n",)), CHAT, 7, str.strip)
        return client.ledger.metrics()["user"]

    found = run(server, work, thinking_tokens=100, prices={"tiny": PRICE})
    assert server.requests[0]["max_tokens"] == 120 and "stop" not in server.requests[0]  # which would end the thought
    assert (found["completion_tokens"], found["thinking_tokens"]) == (43, 40)
    assert found["cost_usd"] == pytest.approx((10 * 1000 + 43 * 2000) / 1e6)


def test_log_probabilities_of_a_thought_are_none_of_the_reply_s(server):
    def reply(body):
        answer = completion("<think>3</think>\n4", body)
        tokens = ["<think>", "3", "</", "think>", "\n", "4"]
        answer["choices"][0]["logprobs"] = {
            "content": [{"token": t, "top_logprobs": [{"token": t, "logprob": 0}]} for t in tokens]
        }
        return 200, answer

    server.reply = reply
    answer = run(server, lambda c: c.ask(changed(ROLE, logprobs=1), CHAT, 7, str.strip))
    assert [token for token, _ in answer.reply["logprobs"]] == ["\n", "4"]


@pytest.mark.parametrize("told", [["3", " or 4", "\n", "4", "<|im_end|>"], ["3", "</think>", "4"], ["4"]])
def test_log_probabilities_of_a_thought_beside_the_reply_are_none_of_the_reply_s(server, told):
    def reply(body):
        answer = completion("4", body)
        answer["choices"][0]["message"]["reasoning_content"] = "3 or 4"
        answer["choices"][0]["logprobs"] = {"content": [{"token": t, "top_logprobs": []} for t in told]}
        return 200, answer

    server.reply = reply
    answer = run(server, lambda c: c.ask(changed(ROLE, logprobs=1), CHAT, 7, str.strip))
    assert answer.reply["logprobs"][0][0] == "4"


def test_half_a_character_is_replaced_wherever_it_comes_in_and_nobody_waits_for_ever(server):
    def reply(body):
        answer = completion("good" if body["seed"] else "half \ud83d", body)
        answer["choices"][0]["logprobs"] = {"content": [{"token": "\udc00", "top_logprobs": []}]}
        return 200, {**answer, "model": "tiny"}

    server.reply = reply

    async def many(client):
        asked = (client.ask(ROLE, CHAT, seed, str.strip) for seed in range(5))
        return [a.value for a in await asyncio.wait_for(asyncio.gather(*asked), 30)]

    for _ in range(2):
        assert run(server, many) == ["half \ufffd", *["good"] * 4]
    assert len(server.requests) == 5
    chat = [{"role": "user", "content": "half \ud83d"}]
    assert run(server, lambda c: c.ask(ROLE, chat, 7, str.strip)).value == "good"
    assert server.requests[-1]["messages"][0]["content"] == "half \ufffd"


def test_a_reply_that_was_stored_as_parts_is_used(server):
    run(server, ask)
    with Cache(root()) as cache:
        parts = json.dumps([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])
        cache.db.execute("UPDATE replies SET reply=json_set(reply, '$.text', json(?))", (parts,))
    assert run(server, ask).value == "in parts" and len(server.requests) == 1


def test_every_draw_has_its_own_seed_and_the_last_one_counts(server):
    server.reply = lambda body: "" if len(server.requests) < 3 else "good"
    answer = run(server, ask)
    assert answer.value == "good" and answer.sample == 2
    assert len({b["seed"] for b in server.requests}) == 3
    server.reply = lambda body: "unfit"

    def parse(text):
        raise ValueError("neither 1 nor 2")

    with pytest.raises(CallFailed) as e:
        run(server, lambda c: c.ask(ROLE, [*CHAT, *CHAT], 7, parse))
    assert (e.value.reason, e.value.raw) == ("unreadable", "neither 1 nor 2: unfit") and len(server.requests) == 6


def test_greedy_decoding_is_not_drawn_again_and_accepted_outcomes_are_used(server):
    server.reply = lambda body: ""
    greedy = changed(ROLE, temp=0.0)
    with pytest.raises(CallFailed):
        run(server, lambda c: c.ask(greedy, CHAT, 7, str.strip))
    assert len(server.requests) == 1
    answer = run(server, lambda c: c.ask(changed(greedy, accept=("ok", "empty")), CHAT, 7, str.strip))
    assert (answer.value, answer.outcome) == ("", "empty") and len(server.requests) == 1  # from the cache


def test_a_reply_that_its_server_broke_off_is_asked_for_again_also_by_a_greedy_role(server):
    server.reply = lambda body: (
        200,
        completion("half", body, "insufficient_system_resource" if body["seed"] == 7 else "stop"),
    )
    answer = run(server, lambda c: c.ask(changed(ROLE, temp=0.0), CHAT, 7, str.strip))
    assert (answer.outcome, answer.sample) == ("ok", 1)


class Nobody:
    """A backend without replies."""

    def __init__(self, **llm):
        self.servers = Servers(settings(llm=llm), {})


@pytest.mark.parametrize("batched, in_order, in_parallel", [([], 1, 4), (["user"], 10, 10)])
def test_jobs_of_a_batched_role_run_all_at_once_and_others_in_their_width(batched, in_order, in_parallel):
    running = 0

    async def job(n, peaks):
        nonlocal running
        running += 1
        peaks.append(running)
        await asyncio.sleep(0.001)
        running -= 1
        return n

    async def work():
        client = Client(Nobody(batch_roles=batched))
        for width, jobs_of in (
            (in_order, lambda jobs: client.in_order(ROLE, jobs)),
            (in_parallel, lambda jobs: client.in_parallel(jobs, roles=[ROLE])),
            (4, client.in_parallel),  # whose conversations wait for no batch
        ):
            peaks = []
            assert await jobs_of([partial(job, n, peaks) for n in range(10)]) == list(range(10))
            assert max(peaks) == width

    asyncio.run(work())
