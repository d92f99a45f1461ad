"""What is wrong with a user turn: plain text measures, no model asked."""

import re

from stages.text.ngrams import overlap, repetition, words

_FIRST = {"i", "i'm", "i’m", "i've", "i’ve", "i'd", "i'll", "my", "me", "mine", "myself", "we", "our", "us", "we're"}
_ASSISTANT = re.compile(
    r"\b(as an ai|language model|how (can|may) i (help|assist)|what can i (do for|help) you|i('m| am) here to help|"
    r"(happy|glad) to (help|assist) you|i can help you|i(’|')?ll help you|let me help you|what('s| is) your problem|"
    r"feel free to ask|is there anything else i can)\b",
    re.I,
)
_THIRD = re.compile(r"^(the (user|person|man|woman)|this (user|person)|he|she|they|(his|her|their) )\b", re.I)


def faults(said: str, earlier: list[str], examples: list[str]) -> list[str]:
    """Names of what is wrong with a user turn.

    Args:
        said: the turn.
        earlier: all turns before it on its path, user's and assistant's.
        examples: the example turns in the prompt.
    Returns:
        Any of assistant_talk, third_person, hashtags, copy, example_copy, repetition, empty.
    """
    found = []
    w = words(said)
    if len(w) < 3:
        return ["empty"]
    if _ASSISTANT.search(said):
        found.append("assistant_talk")
    if _THIRD.search(said.strip()) or not _FIRST & set(w):
        found.append("third_person")
    if said.count("#") >= 2:
        found.append("hashtags")
    if any(overlap(said, e) > 0.6 for e in earlier):
        found.append("copy")
    if any(overlap(said, e) > 0.6 for e in examples):
        found.append("example_copy")
    if repetition(said) > 0.3:
        found.append("repetition")
    return found
