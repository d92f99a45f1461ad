"""Personas: their items, the order in which these are revealed, their files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.cli import UserError
from stages.personas import persona
from stages.personas.persona import Persona, facts, strangers, traits


def test_items():
    assert facts("I fish.  My cat is old! Do I nap? I do") == ["I fish.", "My cat is old!", "Do I nap?", "I do"]
    assert traits("I am shy, loud, and kind.") == ["I am shy.", "I am loud.", "I am kind."]
    assert traits("He is bold, rude and tall, or vain.") == ["He is bold.", "He is rude and tall.", "He is vain."]
    assert traits("She laughs a lot. She is calm.") == ["She laughs a lot.", "She is calm."]
    assert Persona("I fish. I nap.", "I am shy, and odd.").items == ["I fish.", "I nap.", "I am shy.", "I am odd."]


@pytest.mark.parametrize(
    "text, found",
    [
        ("我害羞、勇敢、固执。", ["我害羞。", "我勇敢。", "我固执。"]),
        ("我很害羞，但很善良，有时候固执。", ["我很害羞。", "我很善良。", "我有时候固执。"]),
        ("我温和、害羞以及和善。", ["我温和。", "我害羞。", "我和善。"]),
        ("私は恥ずかしがり屋、優しい、頑固です。", ["私は恥ずかしがり屋。", "私は優しい。", "私は頑固です。"]),
        ("أنا خجول، طيب، عنيد.", ["أنا خجول.", "أنا طيب.", "أنا عنيد."]),
        ("Я застенчивый, добрый и упрямый.", ["Я застенчивый.", "Я добрый.", "Я упрямый."]),
        ("मैं शर्मीला, दयालु और जिद्दी हूँ।", ["मैं शर्मीला।", "मैं दयालु।", "मैं जिद्दी हूँ।"]),
        ("Ich bin scheu, laut und nett.", ["Ich bin scheu.", "Ich bin laut.", "Ich bin nett."]),
        ("我喜欢安静，因为我很害羞。", ["我喜欢安静，因为我很害羞。"]),  # two clauses
        ("Я люблю тишину, потому что робкий.", ["Я люблю тишину, потому что робкий."]),
        ("She laughs, sings, and naps.", ["She laughs, sings, and naps."]),
    ],
)
def test_lists_of_traits_in_other_languages(text, found):
    assert traits(text) == found


def test_items_of_a_persona_in_another_script():
    assert len(Persona("我住在上海。我是老师。我有两只猫。我喜欢画画！我的妈妈生病了。", "我害羞、勇敢、固执。").items) == 8


@given(seed=st.integers(0, 9), n=st.integers(1, 9))
def test_the_schedule_is_a_permutation_with_a_trait_at_every_fourth_turn(seed, n):
    drawn = Persona(" ".join(f"I own item{i}." for i in range(n)), "I am shy, loud, and kind.").schedule(seed)
    assert sorted(drawn) == list(range(n + 3))
    assert all((item >= n) == (turn % 4 == 3) for turn, item in enumerate(drawn[: min(n, 12)]))


def test_files(tmp_path):
    path = tmp_path / "train.jsonl"
    people = [Persona("I fish.", "I am shy."), Persona("I bake.", "I am shy.")]
    rows = [json.dumps(p.record()) for p in people]
    path.write_text("\n".join(rows))
    assert persona.read(path) == people and len({p.id for p in people}) == 2
    for bad, fault in (
        ('{"profile": "I fish."}', ":2: a persona needs"),
        ('{"profile": " ", "personality": ""}', ":2: a persona"),
    ):
        path.write_text(f"{rows[0]}\n{bad}\n")
        with pytest.raises(UserError, match=fault):
            persona.read(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no persona"):
        persona.read(path)


def test_an_agenda_takes_the_schedule_in_steps_of_none_to_two():
    for seed in range(20):
        person = Persona(" ".join(f"Fact {i}." for i in range(8)), "I am shy, loud, and kind.")
        steps = [person.agenda(seed, turn) for turn in range(1, 30)]
        assert [i for step in steps for i in step] == person.schedule(seed) and max(map(len, steps)) == 2 and [] in steps


def test_a_stranger_differs_in_both_texts_and_serves_once_where_it_can():
    people = [Persona(f"I live at {n}.", f"I am odd, calm, and {n}.") for n in range(9)]
    found = strangers(people, 1)
    assert {x.id for x in found.values()} == {x.id for x in people} and all(found[x.id] != x for x in people)
    assert found != strangers(people, 2) and strangers(people[::-1], 1) == found
    changed = strangers([*people, Persona("I am new.", "I am new, calm, and kind.")], 1)
    assert sum(changed[x.id] != found[x.id] for x in people) == 1
    alike = [Persona("I fish.", "I am odd, calm, and x."), Persona("I fish.", "I am shy, calm, and x."), people[0]]
    assert {strangers(alike, 1)[x.id].profile for x in alike[:2]} == {people[0].profile} and strangers(alike[:2], 1) == {}
