"""Faults of user turns: measures of the text, no model asked."""

import re

from stages.text.ngrams import jaccard, repetition, words
from stages.text.sentences import sentences

COPIED = 0.6  # Jaccard similarity of word 3-grams above which a turn copies another one
REPEATED = 0.3  # share of repeated 3-grams above which a turn repeats itself
_FIRST = {"i", "i'm", "i’m", "i've", "i’ve", "i'd", "i'll", "my", "me", "mine", "myself", "we", "our", "us", "we're"}
_ASSISTANT = re.compile(
    r"\b(as an ai|language model|how (can|may) i (help|assist)|what can i (do for|help) you|i('m| am) here to help|"
    r"(happy|glad) to (help|assist) you|i can help you|i(’|')?ll help you|let me help you|what('s| is) your problem|"
    r"feel free to ask|is there anything else i can|"
    r"sorry, but i (can(’|')?t|cannot) (assist|comply|help (you )?with|continue this))\b",
    re.I,
)
_OTHER = re.compile(r"(the|this) (user|person)\b", re.I)
_THIRD = re.compile(r"(the (man|woman)|he|she|they|his|her|their)\b", re.I)


def third_person(text: str) -> bool:
    """Whether a turn speaks of its user as somebody else: a sentence is about the user, or about him, her or them and nobody
    says I. A turn without a subject ("Turned 50 last week.") speaks of its writer."""
    subjects = sentences(text)
    unnamed = not _FIRST & set(words(text))
    return any(_OTHER.match(s) or (unnamed and _THIRD.match(s)) for s in subjects)


def faults(text: str, earlier: list[str], examples: list[str]) -> list[str]:
    """Names of the faults of a user turn.

    Args:
        text: the turn.
        earlier: all turns before it on its path, user's and assistant's.
        examples: the example turns in the prompt.
    Returns:
        Any of assistant_talk, third_person, hashtags, copy, example_copy, repetition, in this order; or empty alone.
    """
    tokens = words(text)
    if len(tokens) < 3:
        return ["empty"]
    holds = {
        "assistant_talk": bool(_ASSISTANT.search(text)),
        "third_person": third_person(text),
        "hashtags": text.count("#") >= 2,
        "copy": any(jaccard(text, e) > COPIED for e in earlier),
        "example_copy": any(jaccard(text, e) > COPIED for e in examples),
        "repetition": repetition(text) > REPEATED,
    }
    return [name for name, found in holds.items() if found]
