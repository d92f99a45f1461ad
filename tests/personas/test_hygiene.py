"""The rules of hygiene, on texts whose answer is known."""

import pytest

from stages.personas import hygiene


@pytest.mark.parametrize(
    "text",
    ["Write to anna@example.org now.", "See https://x.org", "I am @anna_b", "Call +44 20 7946 0958.", "www.me.example",
     "Call me at 5550142.", "Tel.: 12 34 567", "My number is 555 0142."],
)  # fmt: skip
def test_contact_details_are_seen(text):
    assert hygiene.contact(text)


@pytest.mark.parametrize(
    "number",
    ["+44 20 7946 0958", "0049 30 1234567", "+49 (0)30 123456", "+12125550142", "+86 138 0013 8000",  # international
     "030 1234567", "030/1234567", "0171 - 234 567", "0301234567", "089 123456",  # Germany
     "01 23 45 67 89", "01.23.45.67.89", "020 7946 0000", "(020) 7946 0958", "07700 900123",  # France, Britain
     "03-1234-5678", "０３−１２３４−５６７８", "010-1234-5678", "138 0013 8000", "13800138000",  # Japan, Korea, China
     "(212) 555-0142", "212-555-0142", "212.555.0142", "2125550142", "1-800-555-0199", "555-0142",  # North America
     "12 34 56 78", "612 345 678", "912 34 56 78", "347 123 4567", "044 668 18 00", "02 123 45 67",  # Europe without a 0
     "98765 43210", "9876543210", "(11) 91234-5678", "8 (912) 345-67-89", "9123 4567", "0412 345 678", "٠٥٠ ١٢٣ ٤٥٦٧"],
)  # fmt: skip
def test_telephone_numbers_of_many_countries_are_seen(number):
    assert hygiene.contact(f"I said {number} to him.") and hygiene.contact(f"{number}.")


@pytest.mark.parametrize("text", ["I own 12 cows and 300 hens.", "I earn 1,200 a month.", "I was born in 1964.", "I @ home"])
def test_numbers_of_daily_life_are_none(text):
    assert not hygiene.contact(text)


@pytest.mark.parametrize(
    "number",
    ["1914-1918", "(1914-1918)", "1939 – 1945", "2019/2020", "1990-91", "2015 2016 2017",  # years
     "12.05.1980", "12/05/1980", "1980-05-12", "12. 5. 1980", "12 05 1980", "19801205", "01.01.2000-31.12.2010",  # dates
     "01.02.-03.04.2005",
     "1 500 000", "1.500.000", "1500000", "12 345 678", "1 500 000 000", "12 000 - 15 000", "1 234 567,89",  # amounts
     "5000-8000", "500-1000", "10-20-30", "09.00-17.00", "0900-1700", "08:30-17:00",  # ranges, times
     "52.520008", "3.14159265", "192.168.0.1", "4 8 15 16 23 42"],
)  # fmt: skip
def test_other_numbers_of_as_many_digits_are_none(number):
    assert (
        not hygiene.contact(f"I said {number} to him.") and not hygiene.contact(f"{number}.") and not hygiene.contact(number)
    )


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
