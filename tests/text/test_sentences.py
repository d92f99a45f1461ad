"""Sentences: marks of many scripts, abbreviations, and that the texts of this repository split as they always did."""

import json
import re

import pytest
from conftest import ROOT

from stages.text.sentences import ended, sentences


@pytest.mark.parametrize(
    "text",
    [
        "I work for Dr. Lee.|I fish.", "I live in St. Louis.|My boss is Mr. Smith Jr. and I like him.",
        "I saw Mt. Fuji.|I live near St. Mary's Church.", "I read Gen. Lee's book.|I like J. K. Rowling.",
        "I am a fan of George W. Bush.|He was president.", "I work for J. Smith.|I nap.", "I bake e.g. bread.|I nap.",
        "I bake bread, etc. and sell it.", "I bake bread, etc.|I sell it.", "I left the U.S.|I live in Spain.",
        "I served in the U.S. Navy.|I nap.", "I work from 9 a.m. to 5 p.m.|I nap.", "I have a Ph.D. in chemistry.|I nap.",
        "I was born on Jan. 5.|I own no. 7.|I nap.", "I live at 5 Main St.|I have a cat.",
        "I run Smith & Co. Ltd. from home.",
        # ... and what only looks like one
        "My laptop has no letter R.|I have a dog.", "The answer is no.|I fish.", "I take vitamin C.|Cats love me.",
        "I love the sun.|It is hot.", "So do I.|Cats like me.", "I cook for Art.|He sings.", "i fish.|i nap.",
        "I wait...|I sing.", "Do I nap?!|Yes!|I weigh 70.5 kg.", 'He said "I nap."|I fish.', '"I nap." he says.',
        "J'habite chez M. Dupont.|J'ai deux chats.", "Trabajo para el Sr. López.|¿Tengo gatos?|Sí.",
        "Ich mag z. B. Brot.|Ich wohne bei Fr. Dr. Kaya.", "Sie starb am 3. März 2019.|Ich wohne im 2. Stock.|Sie wohnt da.",
        "Ich wohne in der Goethestr. 12.|Ich male z. B. und lese.", "I am 31.|Single men bore me.", "Am 41.|Live in Leeds.",
        "Je dis « on verra. » et je ris.|Je dors.", "Работаю с 1999 г. на заводе.|Люблю чай и т. д.|Пью.",
    ],
)  # fmt: skip
def test_a_full_stop_of_an_abbreviation_ends_no_sentence(text):
    assert sentences(text.replace("|", " ")) == text.split("|")


@pytest.mark.parametrize(
    "text",
    [
        "我住在上海。|我是老师。|我有两只猫。|我喜欢画画！|我的妈妈生病了。", "我叫李明!|我喜欢猫.|我有1.5米高。",
        "私は東京に住んでいます。|猫が二匹います。|「犬は嫌い。」と母は言う。|釣りが好きですか？！|朝は早い。",
        "母は「早く寝なさい。体に悪い。」と言う。|猫がいる。", "我妈妈常说“早睡早起。”|我每天六点起床。",
        "ကျွန်တော် ရန်ကုန်မှာ နေတယ်။|ကြောင်ရှိတယ်။",
    ],
)  # fmt: skip
def test_scripts_without_blanks_between_sentences(text):
    parts = text.split("|")
    assert sentences("".join(parts)) == sentences(" ".join(parts)) == parts


@pytest.mark.parametrize(
    "text",
    ["मैं दिल्ली में रहता हूँ।|मुझे चाय पसंद है।", "Ես ապրում եմ Երևանում։|Ես ունեմ կատու։", "هل أحب القهوة؟|نعم.",
     "میں لاہور میں رہتا ہوں۔|جی۔",
     "እኔ አዲስ አበባ ነው የምኖረው።|ድመት አለኝ።", "Я живу на ул. Ленина.|У меня две кошки."],
)  # fmt: skip
def test_marks_of_other_scripts(text):
    assert sentences(text.replace("|", " ")) == text.split("|") and all(map(ended, text.split("|")))


@pytest.mark.parametrize("name", ["seeds/profiles", "seeds/personalities"])
def test_the_texts_of_the_repository_split_after_every_mark_and_blank(name):
    """The rule that all stored trees were made with."""
    for line in (ROOT / f"data/{name}.jsonl").read_text().splitlines():
        text = json.loads(line)["text"]
        assert sentences(text) == re.split(r"(?<=[.!?])\s+", text)


@pytest.mark.parametrize("text", ["“" * 5000, "「" * 5000, "a. " * 7000, "。」" * 5000, "", "。", "..."])
def test_any_text_is_split_at_once(text):
    assert "".join(sentences(text)).replace(" ", "") == text.replace(" ", "")
