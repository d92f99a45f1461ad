"""Notes by quotation: what is asked, and which rows of an answer count."""

import json

import pytest
from repository import ROOT

from stages.core import prompts
from stages.core.files import read_jsonl
from stages.dialogue import quotes, tree
from stages.dialogue.measures import agreement
from stages.dialogue.transcript import texts

SAID = ["Can’t — the kids wake at six…", "我还没看过海", "ركبتي تؤلمني على الدرج"]
ITEMS = ["I have children.", "我想去看一次海。", "ركبتاي تؤلمانني."]
CHAT = [
    {"role": "user", "content": "Six\nagain."},
    {"role": "assistant", "content": "Early."},
    {"role": "user", "content": "Yes."},
]


@pytest.mark.parametrize(
    "quote, found",
    [
        ("the kids wake at six", True), ("THE KIDS  wake\nat six...", True), ("can't - the kids", True), ("“Can't–”", False),
        ("还没看过海", True), ("تؤلمني على", True), ("the kids sleep", False), ("no", False), ("…", False), ("", False),
    ],
)  # fmt: skip
def test_a_quote_stands_in_one_message(quote, found):
    assert quotes.stands(quote, SAID) is found


def test_a_quote_does_not_span_messages():
    assert not quotes.stands("wake at six 我还没看过海", SAID)


@pytest.mark.parametrize(
    "answer",
    [
        '{"shown": [{"item": 1, "quote": "the kids wake"}, {"item": 2, "quote": "没看过海"}]}',
        'Here:\n```json\n[{"quote": "the kids wake", "item": "1"},\n {"quote": "没看过海", "item": 2}]\n```',
        '{"shown": [{"item": 1, "quote": "the kids wake"}, {"item": 2, "quote": "没看过海"}, {"item": 3, "quo',
        '[{"quote": "the kids wake", "item": "i have children."}, {"quote": "没看过海", "item": "2. 我想去看一次海。"},'
        ' {"quote": "at six", "item": "I have a dog."}]',
        '1: "the kids wake"\n2: "没看过海"',
        "- 1. “the kids wake”\n- 2. 「没看过海」",
        '{"shown": [{"item": 1, "quote": "the kids wake"}, {"item": 2, "quote": "没看过海"}, {"item": 1, "quote": "at six"},'
        ' {"item": 3, "quote": "made up"}, {"item": 9, "quote": "the kids"}, {"item": 3, "quote": null},'
        ' {"item": 0, "quote": "at six"}]}',
    ],
)
def test_rows_of_an_answer(answer):
    assert [(q["item"], quotes.normalised(q["quote"]).strip("'")) for q in quotes.parse(answer, ITEMS, SAID)] == [
        (0, "the kids wake"), (1, "没看过海")
    ]  # fmt: skip


def test_nothing_shown_is_an_answer_and_chatter_is_none():
    assert quotes.parse('{"shown": []}', ITEMS, SAID) == quotes.parse("[ ]", ITEMS, SAID) == []
    for unreadable in ("", "The user has children.", '{"shown": "all"}'):
        with pytest.raises(ValueError):
            quotes.parse(unreadable, ITEMS, SAID)


def test_the_chat_of_a_turn_and_the_schema_of_its_answer():
    chat = quotes.messages(prompts.load(ROOT / "prompts/natural/inducer.txt"), ITEMS, CHAT)
    assert "User: Six again.\nReply: Early.\nUser: Yes." in chat[-1]["content"]
    assert f"1. {ITEMS[0]}\n2. {ITEMS[1]}\n3. {ITEMS[2]}" in chat[-1]["content"]
    rows = quotes.schema(ITEMS, {1}, "Can't, the kids wake at six. Ok.")["properties"]["shown"]["items"]
    assert rows["properties"]["item"]["enum"] == [ITEMS[0], ITEMS[2]] and rows["additionalProperties"] is False
    assert rows["properties"]["quote"]["enum"] == ["Can't,", "the kids wake at six."]


@pytest.mark.parametrize(
    "message, found",
    [
        ("喂！我还没看过海，电视头看过", ["我还没看过海，", "电视头看过"]),
        ("ركبتي تؤلمني، لماذا؟", ["ركبتي تؤلمني،", "لماذا؟"]),
        ("ok", ["ok"]),
    ],
)
def test_clauses_are_what_may_be_quoted(message, found):
    assert quotes.clauses(message) == found


def test_a_perfect_model_agrees_with_the_given_notes():
    """It answers from the trees' own quotes, in eleven languages; every fourth tree, all languages but English."""
    trees = [t for n, t in enumerate(read_jsonl(ROOT / "data/natural/trees.jsonl")) if n % 4 == 0 or t["language"] != "en"]
    for t in trees:
        nodes = tree.index(t)
        for node in (n for n in t["nodes"] if n["role"] == "user"):
            answer = json.dumps({"shown": [{"quote": q["quote"], "item": t["items"][q["item"]]} for q in node["quotes"]]})
            node["quotes"] = quotes.parse(answer, t["items"], texts(tree.history(nodes, node["id"]), "user"))
    found = agreement(trees)
    assert found["all"]["given"] > 1000
    assert {found[kind][share] for kind in found for share in ("precision", "recall")} == {1.0}
