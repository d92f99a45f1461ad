"""What is wrong with a user turn, and what it reveals: plain text measures, no model asked."""

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.U)
_WORDS = """
the a an and or but of to in on at for with by from as is are was were be been am i my me mine we our us you your it its this
that these those he she they his her their them who which not no have has had do does did so than then will would can could
should into out up down over about one i'm i've
"""
FUNCTION_WORDS = frozenset(_WORDS.split())


def words(text: str) -> list[str]:
    """Lower-case words."""
    return [w.lower().replace("’", "'") for w in _WORD.findall(text)]


def stem(word: str) -> str:
    """A word without its commonest English endings, so that `mend` and `mending` meet."""
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=1000)  # a text is looked at once for every item of its persona
def content(text: str) -> set[str]:
    """Stems of the words that carry meaning."""
    return {stem(w) for w in words(text) if w not in FUNCTION_WORDS}


def revealed(fact: str, said: str) -> float:
    """Share of the fact's content words that `said` contains (1.0 for a fact without any)."""
    wanted = content(fact)
    return len(wanted & content(said)) / len(wanted) if wanted else 1.0


def repetition(text: str) -> float:
    """Share of the word 3-grams that occurred before in the same text."""
    w = words(text)
    grams = list(zip(w, w[1:], w[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def taken(text: str, sources: list[str]) -> float:
    """Share of the word 3-grams of `text` that stand in one of `sources`; 0 for a text of fewer words."""
    own, *others = ([*zip(w, w[1:], w[2:], strict=False)] for w in (words(t) for t in (text, *sources)))
    known = {gram for grams in others for gram in grams}
    return sum(gram in known for gram in own) / len(own) if own else 0.0


def without(text: str, sources: list[str]) -> str:
    """The words of `text` but those of word 3-grams that stand in one of `sources`; `text` itself where there are none."""
    found = [words(t) for t in (text, *sources)]
    known = {gram for w in found[1:] for gram in zip(w, w[1:], w[2:], strict=False)}
    own, places = found[0], set[int]()
    for i, gram in enumerate(zip(own, own[1:], own[2:], strict=False)):
        if gram in known:
            places |= {i, i + 1, i + 2}
    return " ".join(w for i, w in enumerate(own) if i not in places) if places else text


def overlap(a: str, b: str) -> float:
    """Jaccard overlap of the word 3-grams of two texts."""
    ga, gb = ({*zip(w, w[1:], w[2:], strict=False)} for w in (words(a), words(b)))
    return len(ga & gb) / len(ga | gb) if ga | gb else float(a == b)
