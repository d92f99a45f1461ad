"""Words of a text, and how much of one text is in another: measures on words and word n-grams, no model asked."""

from functools import lru_cache
from itertools import pairwise

import regex

# scripts without blanks between words: kana and Han; Thai and Lao, Burmese, Khmer
_SIGN = "\u3041-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e01-\u0eff\u1000-\u109f\u1780-\u17d3"
_WORD = regex.compile(rf"[{_SIGN}]|[^\W_{_SIGN}]+(?:['’][^\W_{_SIGN}]+)?")
_ONE_SIGN = regex.compile(rf"[{_SIGN}]").fullmatch
_WORDS = """
the a an and or but of to in on at for with by from as is are was were be been am i my me mine we our us you your it its this
that these those he she they his her their them who which not no have has had do does did so than then will would can could
should into out up down over about one i'm i've
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
REVEALED = 0.5  # share of an item's content words from which on a text reveals it
Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words; of scripts without blanks the single signs."""
    return [w.lower().replace("’", "'") for w in _WORD.findall(text)]


def foreign_letters(text: str) -> bool:
    """Whether more than a fifth of the letters are not of a Latin alphabet."""
    letters = [c for c in text if c.isalpha()]
    return sum(ord(c) > 0x24F for c in letters) > 0.2 * len(letters)


def ngrams(tokens: list[str], n: int = 3) -> list[Gram]:
    """All runs of `n` tokens, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def stem(word: str) -> str:
    """A word without its commonest English endings, so that `mend` and `mending` meet."""
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=1000)  # a text is compared with every item of its persona
def content(text: str) -> set[str]:
    """Stems of the content words; of scripts without blanks the pairs of neighbouring signs."""
    found = words(text)
    return {stem(w) for w in found if w not in FUNCTION_WORDS and not _ONE_SIGN(w)} | set(sign_pairs(found))


def sign_pairs(tokens: list[str]) -> list[str]:
    """Neighbouring signs of scripts without blanks: what comes nearest to their words."""
    return [a + b for a, b in pairwise(tokens) if _ONE_SIGN(a) and _ONE_SIGN(b)]


def coverage(fact: str, text: str) -> float:
    """Share of the content words of `fact` that `text` holds, 1.0 for a fact without any.

    ROUGE-1 recall (Lin 2004) over sets of stems without function words.
    """
    wanted = content(fact)
    return len(wanted & content(text)) / len(wanted) if wanted else 1.0


def repetition(text: str) -> float:
    """Share of the word 3-grams that occurred before in the same text: seq-rep-3 (Welleck et al. 2020)."""
    grams = ngrams(words(text))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def containment(text: str, sources: list[str]) -> float:
    """Share of the word 3-grams of `text` that occur in one of `sources` (containment, Broder 1997); 0.0 for a text of fewer
    than three words."""
    own, known = ngrams(words(text)), {gram for source in sources for gram in ngrams(words(source))}
    return sum(gram in known for gram in own) / len(own) if own else 0.0


def jaccard(a: str, b: str) -> float:
    """Jaccard similarity of the word 3-grams of two texts; of two texts without any, 1.0 if they are equal, else 0.0."""
    own, other = set(ngrams(words(a))), set(ngrams(words(b)))
    return len(own & other) / len(own | other) if own | other else float(a == b)
