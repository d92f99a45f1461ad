"""Faults of user turns, on turns whose faults are known."""

import pytest

from stages.dialogue.faults import faults

BEES = "I keep bees on the roof, what now?"


@pytest.mark.parametrize(
    "text, earlier, examples, found",
    [
        ("I keep bees. What should I check?", [], [], []),
        ("How can I help you today? I am here.", [], [], ["assistant_talk"]),
        ("I'm sorry, but I can't assist with that.", [], [], ["assistant_talk"]),
        ("Sorry, but I can't help laughing.", [], [], []),
        ("She keeps bees on the roof.", [], [], ["third_person"]),
        ("I love #bees #honey #sun", [], [], ["hashtags"]),
        ("我在屋顶上养蜜蜂，怎么办？", [], [], []),
        ("Turned 50 last week and nobody called.", [], [], []),
        ("What helps bees when they are cold?", [], [], []),
        ("She left me yesterday and I cannot sleep.", [], [], []),
        ("Any tips? He keeps bees on the roof.", [], [], ["third_person"]),
        ("The user asks about my bees.", [], [], ["third_person"]),
        (BEES, [BEES], [], ["copy"]),
        (BEES, [], [BEES], ["example_copy"]),
        ("I promise. I promise. I promise. I promise. I promise.", [], [], ["repetition"]),
        ("Ok", ["Ok"], [], ["empty"]),
        (BEES.replace("I", "He"), [BEES.replace("I", "He")], [], ["third_person", "copy"]),
    ],
)
def test_faults(text, earlier, examples, found):
    assert faults(text, earlier, examples) == found
