"""The pool: generated lists, the loop of generation and filtering, and its stops."""

import asyncio
import itertools
from collections import Counter

import numpy as np
import pytest
from fakes import FakeClient, encode, prompt, section

from stages.llm.settings import Speaker, role
from stages.personas.persona import facts, traits
from stages.personas.pool import TextPool, chat, compose, grow, parse
from stages.personas.settings import FilterPersonas, Pool

POOL = Pool(target=4, threshold=0.8, min_items=3, items=8, item_chars=40)
SEEDS = [{"text": f"I own seed{n}. I keep s{n}. I ride b{n}.", "category": "work"} for n in range(3)]
ONE_LINE = role(section(Speaker, "generator"), "generator", stop=("\n",), accept=("ok", "truncated"))


def test_items_that_cannot_stand_are_dropped_and_counted():
    dropped = Counter()
    items = ["I fish.", "I FISH!", "I bake bread", "x" * 41, "...", "My cat is old."]
    assert compose("profiles", items, POOL, dropped) == ("I fish. I bake bread. My cat is old.", "")
    assert dropped == {"repeated": 1, "too_long": 1, "empty": 1}
    assert compose("profiles", items[:2], POOL, Counter())[1] == "too_few_items"
    assert compose("profiles", [], POOL, Counter())[1] == "unparsable"
    kinds = (("profiles", "I am kind.", "trait_in_profile"), ("personalities", "living in Rome", "fact_in_personality"))
    for kind, item, reason in kinds:
        found = Counter()
        compose(kind, [item], POOL, found)
        assert found == {reason: 1}
    traits_of = ["I am shy.", "bold", "and kind."]
    assert compose("personalities", traits_of, POOL, Counter())[0] == "I am shy, bold, and and kind."


def test_texts_of_another_script_are_composed_of_their_own_sentences():
    facts_of = facts("我住在上海。我是老师。我喜欢画画！")
    assert compose("profiles", facts_of, POOL, Counter())[0] == "我住在上海。 我是老师。 我喜欢画画！"
    traits_of = traits("我害羞、勇敢、固执。")
    text = compose("personalities", traits_of, POOL, Counter())[0]
    assert traits(text) == traits_of


@pytest.mark.parametrize(
    "text", ["Je suis timide, curieux et têtu.", "She is shy, dry, and kind.", "Jag är blyg. Jag är envis. Jag är snäll.",
             "I am shy. I talk too much. I am kind.", "Soy terco, leal y celoso."]
)  # fmt: skip
def test_traits_that_do_not_all_begin_with_i_am_stay_sentences(text):
    assert traits(compose("personalities", traits(text), POOL, Counter())[0]) == traits(text)


def test_traits_after_im_are_one_list():
    assert compose("personalities", traits("I’m shy, dry, and kind."), POOL, Counter())[0] == "I am shy, dry, and kind."


def test_a_reply_is_a_text_a_line_and_a_cut_one_loses_its_last_item():
    assert parse("profiles", "1. I fish. I nap.\n\n- I bake. I si", cut=True) == [["I fish.", "I nap."], ["I bake."]]
    assert parse("personalities", "I am shy, and bold.", cut=False) == [["I am shy.", "I am bold."]]


def growing(reply, target=8, imported=(), name="profiles", encode=encode, **changes):
    """A pool grown with a scripted generator, and the client that was asked."""
    values = {"examples": 2, "per_call": 1, "calls": 2, "min_acceptance": 0.1, "patience": 2, "max_rounds": 9, **changes}
    p = section(FilterPersonas, "filter_personas", **values)
    client, own = FakeClient(reply), [{"text": t, "category": ""} for t in imported]
    settings = Pool(target=target, threshold=0.8, min_items=3, items=5, item_chars=40)
    pool = TextPool(name, settings, prompt("profile"), list(SEEDS), own)
    asyncio.run(grow(pool, p, client, ONE_LINE, encode))
    return pool, client


def new(role, messages, seed):
    """Another person for every call."""
    return f"I own a x{seed:x}. I keep y{seed:x} hens. I fear z{seed:x}."


def test_the_pool_grows_to_its_target_and_a_larger_one_asks_only_what_is_new():
    pool, client = growing(new, target=6)
    assert [t["category"] for t in pool.texts] == ["work"] * 3 + ["generated"] * 3 and pool.stopped == "target"
    assert len(client.asked) == 4 and pool.generated == 3  # a text of the last round was not looked at
    assert [r["acceptance"] for r in pool.rounds] == [1.0, 1.0] and [r["pool"] for r in pool.rounds] == [5, 6]
    larger, again = growing(new, target=9)
    assert larger.texts[:5] == pool.texts[:5] and len(larger.texts) == 9
    assert client.calls() < again.calls()


def test_examples_of_the_pool_and_the_instructions_reach_every_call():
    pool, client = growing(new, target=6)
    texts = {t["text"] for t in pool.texts}
    for chat_of in client.chats("generator"):
        assert [m["role"] for m in chat_of] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert {m["content"] for m in chat_of if m["role"] == "assistant"} <= texts
    assert len({str(c) for c in client.chats("generator")}) > 1  # the examples are drawn


def test_many_texts_of_one_call_are_asked_for_as_many_and_all_kept():
    lines = [f"I mend boat{n}. I bake bread{n}. I nap{n} a lot." for n in range(3)]
    pool, client = growing(lambda *_: "\n".join([*lines, "I am one too many."]), target=6, calls=1, per_call=3)
    (asked,) = client.chats("generator")
    assert asked[-1]["content"].startswith("Invent 3 more") and "5 facts" in asked[-1]["content"]
    assert [t["text"] for t in pool.texts[3:]] == lines
    assert chat(pool, ["x"], 1)[-2:] == [
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": prompt("profile").part("ask")},
    ]


def test_saturation_and_the_round_limit_are_recorded():
    pool, _ = growing(lambda *_: "I fish. I bake. I sing.")
    assert pool.stopped == "saturated" and len(pool.texts) == 4 and pool.rejected == {"duplicate": 5}
    assert [r["acceptance"] for r in pool.rounds] == [0.5, 0.0, 0.0]
    pool, _ = growing(lambda *_: "I fish. I bake. I sing.", patience=9, max_rounds=2)
    assert pool.stopped == "max_rounds" and len(pool.rounds) == 2


def test_what_cannot_be_read_or_kept_is_counted_by_reason():
    replies = itertools.cycle(["", "I fish.", "I am at a@b.org. I nap. I row.", "Я живу тут. Я пою тут. Я сплю тут."])
    pool, _ = growing(lambda *_: next(replies))
    assert set(pool.rejected) == {"empty", "too_few_items", "contact_details", "language"}
    assert sum(pool.rejected.values()) == pool.generated == 4 and len(pool.texts) == 3
    assert "language" not in growing(lambda *_: next(replies), language="any")[0].rejected


def test_imports_are_kept_as_they_are_and_what_is_odd_is_named():
    bees, again, russian = "He keeps bees. He rows. He naps.", "He keeps bees! He rows. He naps.", "Я живу тут. Я пою."
    alike = lambda texts: encode([t.replace("!", ".") for t in texts])  # noqa: E731
    pool, client = growing(new, 4, [bees, again, russian, SEEDS[0]["text"].upper()], encode=alike)
    assert [t["text"] for t in pool.texts[3:]] == [bees, again, russian] and not client.asked
    assert {t["category"] for t in pool.texts[3:]} == {"imported"} and pool.rejected == {"duplicate": 1}
    assert pool.noted == {"similar": [again], "language": [russian], "too_few_items": [russian]}
    pool, _ = growing(lambda *_: again, 8, [bees, again], encode=alike, drop_similar_imports=True)
    assert [t["text"] for t in pool.texts[3:]] == [bees] and pool.noted == {"similar": [again]}
    assert pool.rejected["duplicate"] == 1 + pool.generated, "what is generated passes all that is imported"


@pytest.mark.parametrize("kind, split", [("profiles", facts), ("personalities", traits)])
def test_what_is_composed_splits_into_the_same_items(kind, split):
    items = split("I fish at sea. I own a boat. I nap a lot." if kind == "profiles" else "I am shy, dry, and kind.")
    assert split(compose(kind, items, POOL, Counter())[0]) == items


def test_kept_texts_are_apart():
    pool, _ = growing(new)
    vectors = encode([t["text"] for t in pool.texts])
    assert np.max(vectors @ vectors.T - 2 * np.eye(len(vectors))) <= 0.8
