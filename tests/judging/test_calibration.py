"""The calibration items, their faults, and the second asking with reversed examples."""

import json
from collections import Counter

import pytest
from conftest import ROOT

from stages.core import prompts
from stages.core.cli import UserError
from stages.core.prompts import Prompt
from stages.judging.calibration import KINDS, read, reversed_examples

PATH = ROOT / "data/calibration/items.jsonl"
ITEMS = read(PATH)


def test_sixty_items_of_twelve_people():
    assert len(ITEMS) == 60 and Counter(i["kind"] for i in ITEMS) == dict.fromkeys(KINDS, 12)
    assert len({i["profile"] for i in ITEMS}) == len({i["personality"] for i in ITEMS}) == 12
    assert len({i["reply"] for i in ITEMS}) == 60
    for context in {i["context"] for i in ITEMS}:
        same = [i for i in ITEMS if i["context"] == context]
        assert len({json.dumps([i["profile"], i["conversation"], i["message"]]) for i in same}) == 1
        assert 1 <= len(same[0]["conversation"]) <= 3


def test_the_second_asking_reverses_the_examples():
    prompt = prompts.load(ROOT / "prompts/small/judge.txt")
    chat, again = prompt.parts, reversed_examples(prompt).parts
    assert again[0] == chat[0] and again[-1] == chat[-1] and again[1:3] == chat[-3:-1] and sorted(again) == sorted(chat)
    one = Prompt(ROOT, (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "{reply}")))
    assert reversed_examples(one) == one


@pytest.mark.parametrize(
    "change, says",
    [
        ({"kind": "nice"}, "kind 'nice' is none of"),
        ({"reply": None}, "items.jsonl:3: a calibration item needs reply"),
        ({"conversation": [{"user": "x"}]}, "items.jsonl:3: a calibration item needs conversation"),
        ({"context": "c99"}, "context c01 has 0 items of kind wrong_person"),
        ({"id": "c01-tailored"}, "id c01-tailored is there more than once"),
    ],
)
def test_faults_of_the_items_are_named(tmp_path, change, says):
    path = tmp_path / "items.jsonl"
    lines = PATH.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=says):
        read(path)
    path.write_text("")
    with pytest.raises(UserError, match="holds no calibration item"):
        read(path)
