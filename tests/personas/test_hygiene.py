"""The rules of hygiene, on texts whose answer is known."""

import pytest

from stages.personas import hygiene


@pytest.mark.parametrize(
    "text",
    ["Write to anna@example.org now.", "See https://x.org", "I am @anna_b", "Call +44 20 7946 0958.", "www.me.example"],
)
def test_contact_details_are_seen(text):
    assert hygiene.contact(text)


@pytest.mark.parametrize("text", ["I own 12 cows and 300 hens.", "I earn 1,200 a month.", "I was born in 1964.", "I @ home"])
def test_numbers_of_daily_life_are_none(text):
    assert not hygiene.contact(text)


def test_traits_and_facts_are_told_apart():
    assert hygiene.trait_like("I am kind.") and hygiene.trait_like("I'm very patient and loyal.")
    assert not hygiene.trait_like("I am a nurse.") and not hygiene.trait_like("I am forty-one and left school at twelve.")
    assert hygiene.fact_like("living in Rome") and hygiene.fact_like("42") and hygiene.fact_like("a good mother")
    assert not hygiene.fact_like("slow to trust") and not hygiene.fact_like("deaf to criticism")


def test_other_languages_are_seen():
    assert hygiene.foreign("Я живу в маленьком доме и пою по вечерам.")
    assert hygiene.foreign("Ich habe drei Hunde und wohne in einem kleinen Haus bei Bremen mit meinem Bruder zusammen.")
    assert not hygiene.foreign("I live in Łódź with my daughter Zoë and two cats, and I drive the number ten tram.")
    assert not hygiene.foreign(
        "I am shy, brave, dry-humoured, frugal, stubborn, gentle, loyal, vain, curious, and proud.", prose=False
    )


@pytest.mark.parametrize(
    "profile, personality, together",
    [
        ("I bake.", "I am shy.", True), ("He bakes.", "He is shy.", True), ("He bakes.", "She is shy.", False),
        ("I bake.", "He is shy.", False), ("She bakes.", "Shy, kind, and dry.", True),
        ("My wife bakes. She sings.", "I am shy.", True),
    ],
)  # fmt: skip
def test_pronouns(profile, personality, together):
    assert hygiene.agree(profile, personality) is together
