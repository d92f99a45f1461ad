"""Probes and read-outs: each is asked on its own after the turns so far, and what was told and brought up is quoted."""

import asyncio
import json

import pytest
from conftest import ROOT
from fakes import FakeClient, by_role, prompt, prompts, section

from stages.core.cli import UserError
from stages.dialogue.assistant import ModelUnderTest
from stages.dialogue.probes import Probes, read
from stages.dialogue.settings import Converse
from stages.personas.persona import Persona
from stages.text.settings import EncoderParams

PERSONA = Persona("I fish at sea. I own two boats. My leg hurts.", "I am shy, loud, and kind.")
TURNS = [
    {"turn": 1, "user": "Yesterday I fish at sea again.", "reply": "Nice."},
    {"turn": 2, "user": "Two boats, one hole.", "reply": "Mend it."},
]
QUOTER = {"model": "x", "temp": 0.0, "top_p": 1.0, "penalty": 0.0, "tokens": 99}
NATURAL = prompts("natural")["inducer"]


def asked(client, turns=TURNS, memory="all", inducer=None, number=5, **changes):
    c = section(Converse, "converse", **changes)
    tested = ModelUnderTest(c, section(EncoderParams, "encoder"), client, "x", prompt("assistant"), "reply", memory)
    probes = [{"id": f"p{n}", "message": f"What is {n} plus {n}?"} for n in range(number)]
    beside = Probes(c, client, tested, probes, prompt("read_out"), inducer or prompt("inducer"))
    return asyncio.run(beside.ask(PERSONA, {"turns": turns}))


def test_each_is_asked_on_its_own_after_the_turns_so_far():
    client = FakeClient()
    rows = asked(client, probes=3, read_out=[1, 9])
    assert [(r["kind"], r["turn"], r.get("number")) for r in rows] == [
        ("read_out", 1, None), ("probe", 2, 1), ("probe", 2, 2), ("probe", 2, 3)
    ]  # fmt: skip
    said = [text for t in TURNS for text in (t["user"], t["reply"])]
    for row, chat in zip(rows, client.chats("model under test"), strict=True):
        assert [m["content"] for m in chat[1:]] == [*said[: 2 * row["turn"]], row["message"]]
    assert [r["told"] for r in rows] == [[0], [0, 1], [0, 1], [0, 1]] and not any("mentions" in r for r in rows)
    assert {r["id"] for r in rows} == {PERSONA.id} and not client.chats("inducer")


def test_probes_are_drawn_once_each_and_more_of_them_keep_the_first():
    names = [[r["asked"] for r in asked(FakeClient(), probes=n)] for n in (2, 5)]
    assert names[1][:2] == names[0] and len({*names[1]}) == 5
    others = {tuple(r["asked"] for r in asked(FakeClient(), probes=2, seed=seed)) for seed in range(9)}
    assert len(others) > 1


def test_nothing_is_asked_where_nothing_was_said_or_wanted():
    client = FakeClient()
    assert asked(client, probes=0) == asked(client, turns=[], probes=3, read_out=[1]) == [] and not client.asked


def test_an_arm_without_memory_is_asked_without_history():
    client = FakeClient()
    asked(client, memory="none", probes=1)
    assert [m["role"] for m in client.chats("model under test")[0]] == ["system", "user"]


def test_quotes_say_what_was_told_and_what_a_reply_brings_up():
    """Turn by turn, as in role-play; words of the probe are no mention."""
    quoted = {
        TURNS[0]["user"]: {1: "Yesterday I fish"}, TURNS[1]["user"]: {2: "Two boats"},
        "You fish. You are loud.": {1: "You fish", 5: "You are loud"},
        "What is on your boats?": {2: "your boats", 3: "What is"},
    }  # fmt: skip

    def reply(role, chat, seed):
        last = chat[-1]["content"]
        if role.name == "model under test":
            return "What is on your boats?" if "plus" in last else "You fish. You are loud."
        rows = next(found for text, found in quoted.items() if last.endswith(text))
        assert ("Not the user but the assistant wrote this" in last) == (last.rpartition("\n")[2].startswith("Reply: "))
        return json.dumps({"shown": [{"item": i, "quote": q} for i, q in rows.items()]})

    rows = asked(FakeClient(reply), inducer=NATURAL, quotes=QUOTER, probes=1, read_out=[1])
    assert [r["told"] for r in rows] == [[0], [0, 1]]
    assert rows[0]["mentions"] == [{"item": 0, "quote": "You fish"}, {"item": 4, "quote": "You are loud"}]
    assert rows[1]["mentions"] == [{"item": 1, "quote": "your boats"}]


def test_a_failed_quotation_leaves_out_its_row_alone():
    client = FakeClient()

    def reply(role, chat, seed):
        if role.name != "inducer":
            return by_role(role, chat, seed)
        answers = ['{"shown": [{"item": 1, "quote": "fish at sea"}]}', "no idea", '{"shown": []}']
        return answers[len(client.chats("inducer")) - 1]

    client.reply = reply
    names = [r["asked"] for r in asked(FakeClient(), probes=2)]
    (row,) = asked(client, inducer=NATURAL, turns=TURNS[:1], quotes=QUOTER, probes=2)
    assert row["asked"] == names[1] and row["told"] == [0] and row["mentions"] == []
    assert client.failed == [(f"{PERSONA.id} turn 1 probe {names[0]}", "converse")]


def test_what_cannot_be_asked_is_said(tmp_path):
    with pytest.raises(UserError, match=r"converse\.probes: 9 are asked for, but there are 5"):
        asked(FakeClient(), probes=9)
    with pytest.raises(UserError, match=r"converse\.quotes: needs an inducer that quotes, which .*inducer\.txt is not"):
        asked(FakeClient(), quotes=QUOTER)
    file = tmp_path / "probes.jsonl"
    for text, fault in (('{"id": "a"}', ":1: a probe needs"), ('{"id": "a", "message": "b"}\n' * 2, ":2: a second probe")):
        file.write_text(text)
        with pytest.raises(UserError, match=fault):
            read(file)
    assert len(read(ROOT / "data/probes/messages.jsonl")) >= 40
