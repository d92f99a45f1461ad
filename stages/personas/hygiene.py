"""What a persona text must not be: somebody's contact details, a mixture of profile and personality, another language."""

import re

from stages.text.ngrams import FUNCTION_WORDS, foreign_letters, words

_CONTACT = re.compile(
    r"[\w.+-]+@[\w-]+\.\w+|https?://|www\.\w|(?<!\w)@\w{3,}|(?<!\d)(?:\+?\d[\s()./-]{0,2}){7,15}(?!\d)"
)  # an e-mail address, a URL, a handle, a telephone number
_TRAIT = re.compile(
    r"^(?:I am|I'm|(?:he|she) is|they are)(?: (?:very|so|quite|really|always|a bit))? [a-z-]+(?: and [a-z-]+)?[.!]?$", re.I
)
_FACT = re.compile(
    r"\b\d+\b|\b(?:years? old|live|lives|living|work|works|own|owns|born|married|husband|wife|son|daughter|children|mother|"
    r"father|brother|sister|job|house|car|city|town|village)\b",
    re.I,
)
_SUBJECT = re.compile(r"(?:^|[.!?]\s+)(I|I'm|My|He|His|She|Her|They|Their)\b")
_PERSONS = {"I": "i i'm my", "he": "he his", "she": "she her", "they": "they their"}
_PERSON = {word: person for person, forms in _PERSONS.items() for word in forms.split()}


def contact(text: str) -> bool:
    """Whether a text holds an e-mail address, a URL, a handle or a telephone number."""
    return bool(_CONTACT.search(text))


def trait_like(fact: str) -> bool:
    """Whether an item of a profile is a trait ("I am kind.")."""
    return bool(_TRAIT.match(fact.strip()))


def fact_like(trait: str) -> bool:
    """Whether an item of a personality is a fact of life ("I am living in Rome.")."""
    return bool(_FACT.search(trait))


def foreign(text: str, prose: bool = True) -> bool:
    """Whether a text is not English: other letters, or, of `prose`, too few of English's function words."""
    if foreign_letters(text):
        return True
    found = words(text)
    return prose and len(found) >= 12 and sum(w in FUNCTION_WORDS for w in found) < 0.12 * len(found)


def person(text: str) -> str:
    """Whom a text speaks of, by its first subject pronoun: I, he, she, they, or "" for none."""
    found = _SUBJECT.search(text)
    return _PERSON[found[1].lower()] if found else ""


def agree(profile: str, personality: str) -> bool:
    """Whether the two can be of one person: the same pronoun, or one of them has none."""
    return len({person(profile), person(personality)} - {""}) <= 1
