"""What a persona text must not be: somebody's contact details, a mixture of profile and personality, another language."""

import re
import unicodedata

from stages.text.ngrams import FUNCTION_WORDS, foreign_letters, words

_CONTACT = re.compile(r"[\w.+-]{1,64}+@[\w-]+\.\w+|https?://|www\.\w|(?<!\w)@\w{3,}")  # an e-mail address, a URL, a handle
_DATE = re.compile(
    r"(?<![\d./-])(?:(?:0?[1-9]|[12]\d|3[01])([./-])\s?(?:0?[1-9]|[12]\d|3[01])\1\s?(?:[12]\d{3}|\d\d)|"
    r"[12]\d{3}([./-])(?:0?[1-9]|1[0-2])\2(?:0?[1-9]|[12]\d|3[01])|"
    r"(?:0?[1-9]|[12]\d|3[01])\s(?:0?[1-9]|1[0-2])\s(?:19|20)\d\d)(?![./-]?\d)"
)
_DAYS = re.compile(r"(?<![\d./-])\d{1,2}\.\d{1,2}\.?\s?[-–]\s?(?=\d{1,2}\.\d{1,2}\.\d{4})")  # "01.02.-03.04.2005"
_RUN = re.compile(r"(?<![\d.,:])(?P<plus>\+|00(?=[1-9\s]))?(?P<digits>\(?\d+(?:[\s()./‐‑–−-]{1,3}\d+)*+)(?![\d:])")
_CALL = re.compile(
    r"\b(?:call|phone|text|ring|reach|dial|tel|fax|mobile|cell|whats ?app|signal|telegram|number)\b"
    r"\W*(?:(?:me|us|is|at|on|under)\W+)*$",
    re.I,
)  # what stands before a telephone number and nothing else
# lengths of the groups of digits of national numbers without a leading 0; amounts, years, times and dates have others
_SHAPES = {
    (3, 3, 4), (1, 3, 3, 4), (3, 7), (3, 4), (3, 3, 3), (2, 2, 2, 2), (4, 4), (5, 5), (3, 4, 4), (2, 5, 4), (2, 4, 4),
    (1, 4, 4), (3, 2, 2, 2), (3, 2, 3), (2, 3, 2, 2), (3, 3, 2, 2), (1, 3, 3, 2, 2), (2, 3, 4), (4, 3, 3),
}  # fmt: skip
_COMPACT_DATE = (
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])(?:19|20)\d\d"
)
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
    plain = re.sub(r"\d", lambda m: str(int(m[0])), unicodedata.normalize("NFKC", text))  # digits of any script
    return bool(_CONTACT.search(plain)) or telephone(plain)


def telephone(text: str) -> bool:
    """Whether a text holds digits in the shape of a telephone number."""
    text = _DATE.sub("a date", _DAYS.sub("a day to ", text))
    return any(_dialled(run, text[: run.start()]) for run in _RUN.finditer(text))


def _dialled(run: re.Match[str], before: str) -> bool:
    """Whether groups of digits are a telephone number, by their prefix, their lengths or the words before."""
    groups = re.findall(r"\d+", run["digits"])
    marks = set(re.findall(r"[^\d\s()]|(?<=\d)\s(?=\d)", run["digits"]))
    total, lengths = sum(map(len, groups)), tuple(map(len, groups))
    if run["plus"] or re.match(r"\(\d{1,5}\)", run["digits"]):  # an international prefix, an area code
        return 7 <= total <= 15
    if not 7 <= total <= 13 or len(marks) > 2:
        return False
    years = all(1000 <= int(g) < 2200 for g in groups)
    rounded = len("".join(groups).rstrip("0")) <= 5 if len(groups) == 1 else all(g.endswith("0") for g in groups)
    if years or rounded or groups[-1] == "000" or (len(groups) > 1 and lengths[0] < 3 and set(lengths[1:]) == {3}):
        return False  # years, rounded numbers, an amount in groups of thousands
    if _CALL.search(before[-60:]):
        return True
    if len(groups) == 1:
        return total >= 8 and not re.fullmatch(_COMPACT_DATE, groups[0])
    if groups[0].startswith("0"):
        grouped = max(lengths) >= 3 and lengths != (4, 4) and (total >= 9 or lengths[0] >= 3)  # 0900-1700 are times
        return lengths[0] > 1 and (grouped or lengths == (2,) * 5)
    return lengths in _SHAPES and "/" not in marks and (lengths != (3, 4) or marks == {"-"})


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
