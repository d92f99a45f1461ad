"""Notes piece by piece: which item a model's letters show, whatever letter or item it likes."""

import asyncio
import math
import re

import pytest
from fakes import FakeClient, by_role, section
from fakes import prompts as of_set
from repository import ROOT

from stages.core import prompts
from stages.core.cli import UserError
from stages.dialogue import pieces
from stages.dialogue.grow import whole_tree
from stages.dialogue.settings import Roleplay, UserTalker
from stages.llm.client import Answer
from stages.llm.settings import Inducer, Roles
from stages.personas.persona import Persona

PROMPT = prompts.load(ROOT / "prompts/natural/inducer.txt")
WHO = pieces.marker(Inducer(model="embedded", temp=0.7, top_p=0.9, penalty=0.5, tokens=400, form="letters"))
ITEMS = ["I have two boys.", "I do tax returns.", "I am blunt.", "I have a cat.", "I am 45 years old."]
SAYS = "The lads ate it all, forty forms lie there! Next."
SHOWS = {"The lads ate it all,": 0, "forty forms lie there!": 1, "Next.": 2}
CHAT = [{"role": "user", "content": "Hm."}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": SAYS}]


class Model(FakeClient):
    """Answers with the letter of what a piece shows, or of none; `likes`: how much more it likes a letter, or an item.

    Asked whether a piece shows an item it is as sure, and denies it for the pieces of `doubts`.
    """

    def __init__(self, shows, sure=0.8, likes=(), tells=True, doubts=()):
        super().__init__()
        self.shows, self.sure, self.likes, self.tells, self.doubts = shows, sure, dict(likes), tells, doubts
        self.confirming = []

    async def ask(self, who, chat, seed, parse, schema=None):
        assert who.logprobs and who.tokens == 1 and who.temp == 0 and seed == 0
        last = chat[-1]["content"]
        said = re.search(r'^Piece: "(.*)"$', last, re.M)[1]
        if thing := re.search(r'^Thing: "(.*)"$', last, re.M):
            return self.confirmed(said, thing[1], parse)
        self.asked.append(chat)
        options = re.findall(r"^([A-Z])\. (.*)$", last, re.M)
        right = self.shows.get(said) if self.shows.get(said) in dict(options).values() else "none of these"
        mass = {}
        for letter, text in options:
            p = self.sure if text == right else (1 - self.sure) / (len(options) - 1)
            mass[letter] = p * self.likes.get(letter, 1) * self.likes.get(text, 1)
        top = max(mass, key=mass.get)
        alternatives = [[f" {letter}", math.log(p / sum(mass.values()))] for letter, p in mass.items()]
        reply = {"logprobs": [[top, alternatives]]} if self.tells else {}
        return Answer(parse(top), top, "ok", 0, reply)

    def confirmed(self, piece, thing, parse):
        self.confirming.append((piece, thing))
        yes = self.sure if self.shows.get(piece) == thing and piece not in self.doubts else 0.1
        said = [["Yes", math.log(yes)], [" no", math.log(1 - yes)], ["maybe", None]]
        return Answer(parse("Yes"), "Yes", "ok", 0, {"logprobs": [["Yes", said]]})


def shown(model, items=ITEMS, noted=(), history=CHAT):
    found = asyncio.run(pieces.shown(model, WHO, PROMPT, items, history, noted))
    return {(q["quote"], q["item"]) for q in found}


def of(items, shows=SHOWS, **more):
    return Model({piece: items[i] for piece, i in shows.items()}, **more)


@pytest.mark.parametrize("likes", [{}, {"A": 20}, {"E": 20, "none of these": 5}, {ITEMS[4]: 20}, {ITEMS[3]: 50, "B": 10}])
def test_pieces_show_their_items_whatever_a_model_likes(likes):
    assert shown(of(ITEMS, likes=likes)) == set(SHOWS.items())


def test_what_the_model_does_not_confirm_is_not_shown():
    model = of(ITEMS, doubts=["Next.", "forty forms lie there!"])
    assert shown(model) == {("The lads ate it all,", 0)}
    assert sorted(model.confirming) == sorted((piece, ITEMS[i]) for piece, i in SHOWS.items())


def test_words_in_common_need_the_model_to_confirm_them():
    said = [{"role": "user", "content": "My tax returns have two mistakes. So what?"}]
    model = of(ITEMS, {})
    assert shown(model, history=said) == set()
    assert ("My tax returns have two mistakes.", ITEMS[1]) in model.confirming


def test_a_model_that_is_not_sure_shows_nothing():
    assert shown(of(ITEMS, sure=0.3)) == set()


def test_an_item_in_its_own_words_needs_no_sure_model():
    said = [{"role": "user", "content": "More tax returns, then the lads. What now?"}]
    assert shown(of(ITEMS, {"More tax returns,": 1}, sure=0.3), history=said) == {("More tax returns,", 1)}


def test_items_noted_before_are_left_out_and_the_list_is_whole():
    model = of(ITEMS)
    assert shown(model, noted=[1, 2]) == {("The lads ate it all,", 0)}
    assert all(item in chat[-1]["content"] for chat in model.asked for item in ITEMS)


def test_every_message_is_asked_about_with_what_stood_before_it_in_both_orders_of_the_list():
    model = of(ITEMS)
    shown(model, history=[{"role": "user", "content": "Long ago."}, {"role": "assistant", "content": "Ah."}, *CHAT])
    asked = [chat[-1]["content"] for chat in model.asked]
    assert len(asked) == 2 * (2 + 2 + len(SHOWS) + 1)
    last = [text for text in asked if SAYS in text]
    assert len(last) == 2 * (len(SHOWS) + 1) and all("Reply: Yes?" in text and "Long ago" not in text for text in last)
    for n, item in enumerate(ITEMS):
        assert {re.search(rf"^([A-Z])\. {item}$", text, re.M)[1] for text in last} == {"ABCDE"[n], "EDCBA"[n]}


def test_a_long_persona_is_asked_about_in_parts():
    items = [f"I own thing {n}." for n in range(40)]
    assert shown(of(items, {"Next.": 37, "The lads ate it all,": 3}), items) == {("Next.", 37), ("The lads ate it all,", 3)}


def test_a_server_without_log_probabilities_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"embedded: the server tells no log-probabilities; set roles.inducer_form=list"):
        shown(of(ITEMS, tells=False))


def test_role_play_notes_by_letters_where_a_param_says_so():
    persona = Persona("I fish at sea. I own two boats. My leg hurts.", "I am shy, loud, and kind.")
    model = of(persona.items, {"The boats are out,": 1, "both of them.": 4})

    class Both(FakeClient):
        async def ask(self, role, messages, *more):
            return await (model if role.name == "inducer" else super()).ask(role, messages, *more)

    says = ["Well.", "The boats are out, both of them.", "Hm."]
    client = Both(
        lambda role, chat, seed: by_role(role, chat, seed) if role.name != "user" else says[len(client.chats("user")) - 1]
    )
    p, roles = section(Roleplay, "roleplay", turns=3), section(Roles, "roles", inducer_form="letters")
    t = asyncio.run(whole_tree(p, section(UserTalker, "user"), roles, client, of_set("natural"), persona))
    users = sorted((n for n in t["nodes"] if n["role"] == "user"), key=lambda n: n["turn"])
    assert [n["note"] for n in users] == [[], [1, 4], [1, 4]]
    found = [{"item": 1, "quote": "The boats are out,"}, {"item": 4, "quote": "both of them."}]
    assert [n["quotes"] for n in users] == [[], found, []] and t["ended"] == []
