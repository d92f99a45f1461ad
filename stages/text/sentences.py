"""Sentences of a text, whatever its script.

Unicode knows the marks that end sentences in every script (Sentence_Terminal, UAX #29); the package `regex` knows Unicode.
Two sentence splitters were tried and are not used. sentencex needs to know the language and joins "no letter R. I have" and
"the answer is no. I fish". pysbd splits well, but has had no release since 2021, and its issues 79 and 92 report texts on
which it hangs.
"""

import regex

from stages.text.ngrams import FUNCTION_WORDS

_LETTER = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_BREAK = regex.compile(
    rf"""
    (?<=\p{{STerm}})\s+  # a mark and a blank
    | (?<=\p{{STerm}}\p{{SB=Close}}+)\s+(?=[\p{{Lu}}\p{{Lo}}\p{{Pi}}\p{{Ps}}])  # ... between them a closing quotation mark
    | (?<=[\p{{STerm}}--[.!?․．]])(?=[^\s\p{{P}}]|[\p{{Pi}}\p{{Ps}}])  # a mark of a script that needs no blank
    | (?<=[\p{{STerm}}--[.!?․．]][\p{{Pf}}\p{{Pe}}]+)(?=[^\s\p{{P}}\p{{Hiragana}}]|[\p{{Pi}}\p{{Ps}}])
    | (?<={_LETTER}[.!?．]+)(?={_LETTER})
    | (?<=.)(?:「[^「」]*」|『[^『』]*』|“[^“”]*”|«[^«»]*»|（[^（）]*）)(*SKIP)(*FAIL)  # a quotation is not split
    """,
    regex.X | regex.V1,
)
_END = regex.compile(r"\p{STerm}\p{SB=Close}*$")
_NAMES = """
Dr dr Mr mr Mrs mrs Ms ms Mx Messrs Prof prof St Mt Ft Rev Hon Gen Col Capt Lt Sgt Maj Cpl Sen Rep Gov Pres M Mme Mlle Sr Sra
Srta Dra Hr Fr Frl Sto Sta Ste EE e.g i.e vs z.B d.h bzw ул им
"""
_NUMBERS = "no nos nr approx ca c p pp vol art apt jan feb mar apr jun jul aug sep sept oct nov dec тел д"
_WORDS = "etc jr inc ltd co corp bros ave rd blvd dept est usw a.m p.m am pm"
_MONTHS = "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember"
_NAMED = frozenset(_NAMES.split())  # a name or an example follows
_NUMBERED = frozenset(_NUMBERS.split())  # a number follows
_INSIDE = frozenset(_WORDS.split())  # these may end a sentence too
_DOTTED = regex.compile(r"(?:\p{L}{1,3}\.)+\p{L}{1,3}")
_LETTER_DOT = regex.compile(r"\p{L}\.")
_INITIAL = regex.compile(r"(?!I)\p{Lu}\.")


def sentences(text: str) -> list[str]:
    """The sentences, with one space between words."""
    text, start, found = " ".join(text.split()), 0, []
    for end in _BREAK.finditer(text):
        if not _abbreviated(text[start : end.start()], text[end.end() :]):
            found.append(text[start : end.start()])
            start = end.end()
    found.append(text[start:])
    return [s for s in map(str.strip, found) if s]


def ended(sentence: str) -> bool:
    """Whether a text ends as sentences of any script do."""
    return bool(_END.search(sentence))


def _abbreviated(before: str, after: str) -> bool:
    """Whether the full stop at the end of `before` belongs to an abbreviation after which the sentence goes on."""
    if not before.endswith("."):
        return False
    *earlier, last = before.split()
    word, following = last.lstrip("(\"'“‘")[:-1], after.split(maxsplit=1)[0]
    start = following.strip("\"'“”‘’(),.;:!?").replace("’", "'")
    if start.lower() in FUNCTION_WORDS and (start[0].isupper() or start in ("i", "i'm", "my")):
        return False  # "in the U.S. I live", "no letter R. My": another sentence begins
    previous = earlier[-1].lower() if earlier else ""
    if word in _NAMED or previous + word in _NAMED:  # "z. B."
        return True
    if word.isdigit() and len(word) < 3 and earlier[-2:-1] != ["I"]:  # German ordinals: "im 2. Stock", "am 3. März"
        return previous in ("im", "vom", "zum", "den", "dem", "der") or (previous == "am" and start in _MONTHS.split())
    if word.lower() in _NUMBERED or word.endswith("str"):
        return following[0].isdigit()
    if word.lower() in _INSIDE:
        return following[0].islower() or start.lower() in _INSIDE
    if _DOTTED.fullmatch(word):
        return True
    if len(word) == 1 and word.islower():
        return bool(_LETTER_DOT.fullmatch(following)) or (word > "z" and following[0].islower())  # "z. B."
    return bool(_INITIAL.fullmatch(f"{word}.") and _named(earlier[-1:], following))


def _named(earlier: list[str], following: str) -> bool:
    """Whether an initial is part of a name ("by J. K. Rowling", "George W. Bush") and not a thing ("vitamin C.")."""
    if _INITIAL.fullmatch(following):
        return True  # the next initial
    previous = earlier[0] if earlier else ""
    known = previous.lower() in FUNCTION_WORDS or previous[:1].isupper() or previous[1:] == "."
    return following[0].isupper() and (not previous or known) and previous != "I"
