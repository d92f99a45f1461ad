"""A conversation as chat messages and as lines."""

from stages.dialogue import transcript
from stages.dialogue.transcript import Exchange

PAST = [Exchange("I fish.", "I fish. Where?", "At sea."), Exchange("I nap.", "I nap. When?", "At noon.")]


def test_messages_alternate_and_end_with_what_follows():
    chat = transcript.messages(PAST, "So?", "Draft", "Again")
    assert [m["content"] for m in chat] == ["I fish. Where?", "At sea.", "I nap. When?", "At noon.", "So?", "Draft", "Again"]
    assert [m["role"] for m in chat] == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    assert transcript.messages([]) == []


def test_lines_and_texts_of_a_role():
    assert transcript.lines(PAST) == "\nUser: I fish. Where?\nYou: At sea.\nUser: I nap. When?\nYou: At noon."
    assert transcript.lines([]) == ""
    chat = transcript.messages(PAST, "So?")
    assert transcript.texts(chat, "user") == ["I fish. Where?", "I nap. When?", "So?"]
    assert transcript.texts(chat, "assistant") == ["At sea.", "At noon."]
