"""Requests: the key is all that changes an answer and nothing else. The keys themselves: tests/pipeline/test_frozen.py."""

import json

import pytest
from calls import CHAT, ROLE, changed, run

from stages.core.files import digest
from stages.llm.request import keyed, request
from stages.llm.settings import Sampling

OTHERS = {"temp": 0.6, "top_p": 0.5, "penalty": 0.1, "tokens": 9}


def test_every_sampling_setting_is_in_the_request():
    assert set(OTHERS) == set(Sampling.model_fields)
    keys = {request("m", changed(ROLE, **{name: value}), CHAT, 7).key for name, value in OTHERS.items()}
    assert len(keys | {request("m", ROLE, CHAT, 7).key}) == len(OTHERS) + 1


def test_key_is_all_that_changes_an_answer_and_nothing_else(server):
    roles = [ROLE, *(changed(ROLE, **{k: v}) for k, v in OTHERS.items()),
             changed(ROLE, stop=("x",)), changed(ROLE, model="scripted:other"), changed(ROLE, logprobs=3)]  # fmt: skip

    async def all_of_them(client):
        for role in roles:
            await client.ask(role, CHAT, 7, str.strip)
        await client.ask(ROLE, CHAT, 8, str.strip)
        await client.ask(ROLE, [*CHAT, *CHAT], 7, str.strip)
        await client.ask(ROLE, CHAT, 7, str.strip, schema={"type": "object"})

    run(server, all_of_them)
    assert len(server.requests) == len(roles) + 3
    run(server, all_of_them, concurrency=2, timeout_s=9.0, requests_per_minute=5)
    assert len(server.requests) == len(roles) + 3


def test_name_and_accepted_outcomes_of_a_role_are_not_part_of_the_key():
    assert request("m", changed(ROLE, name="other", accept=("empty",)), CHAT, 7).key == request("m", ROLE, CHAT, 7).key


@pytest.mark.parametrize("unset", ["stop", "logprobs", "response_format"])
def test_what_is_not_set_is_not_sent(unset):
    assert unset not in json.loads(request("m", ROLE, CHAT, 7).body)


def test_the_key_is_the_digest_of_model_and_body():
    body = {"messages": [{"role": "user", "content": 'é "quoted" \u2028'}], "seed": 3, "b": [1.5, None]}
    key, text = keyed('sha256:"é', body)
    assert key == digest('sha256:"é', body) and json.loads(text) == body


def test_what_is_sent_is_the_body_with_the_name_at_the_server():
    call = request("scripted:tiny", ROLE, CHAT, 7)
    assert json.loads(call.to('ti"ny')) == {"model": 'ti"ny', **json.loads(call.body)} and call.size == 5
