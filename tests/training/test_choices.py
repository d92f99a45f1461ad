"""Log-probabilities of replies behind one context: the same numbers as a row per context and reply."""

import numpy as np
import pytest
import tiny
from tiny import one_thread  # noqa: F401

from stages.core.cli import UserError
from stages.training import choices

pytestmark = pytest.mark.slow

MESSAGES = [tiny.message("user", "I have cats."), tiny.message("assistant", "How many?"), tiny.message("user", "What now?")]
CONTEXTS = [MESSAGES, MESSAGES[2:], [tiny.message("system", "Be brief."), *MESSAGES], MESSAGES[2:]]
REPLIES = ["Feed them.", "Buy much more milk and some bread.", "F", "Feed them all <|im_end|> now."]


def row_by_row(model, words, context, reply):
    """log p of one reply in a row of its own, from the text that the template writes."""
    import torch

    whole = words.apply_chat_template([*context, tiny.message("assistant", reply)], tokenize=False)
    asked = words.apply_chat_template(context, tokenize=False, add_generation_prompt=True)
    said = whole[len(asked) :].rstrip("\n")
    before, after = (words(t, add_special_tokens=False).input_ids for t in (asked, said))
    with torch.no_grad():
        logs = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return float(sum(logs[len(before) - 1 + n, token].double() for n, token in enumerate(after)))


@pytest.mark.parametrize("family", ["qwen2", "llama3"])
def test_sums_are_those_of_separate_rows(tmp_path, family):
    model, words = choices.load(tiny.save(tmp_path / "m", family))
    found = choices.matrix(model, words, CONTEXTS[:3], REPLIES[:3])
    wanted = [[row_by_row(model, words, c, r) for r in REPLIES[:3]] for c in CONTEXTS[:3]]
    assert np.abs(found - wanted).max() < 1e-3 and np.std(wanted) > 1


@pytest.mark.parametrize("family", ["qwen2", "llama3"])
def test_letters_are_those_of_whole_rows_and_follow_their_options(tmp_path, family):
    model, words = choices.load(tiny.save(tmp_path / "m", family))
    model.lm_head.weight.data.mul_(20)  # else a random model finds all letters alike
    options = ["milk", "bread and cheese", "tea"]
    turns = []
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        lines = "\n".join(f"{letter}. {options[j]}" for letter, j in zip("ABC", order, strict=True))
        turns.append((order, [*MESSAGES[:2], tiny.message("user", lines)]))
    wanted = np.zeros((3, 3))
    for n, (order, chat) in enumerate(turns):
        before, after = choices.tokens(words, chat, ["A", "B", "C"])
        said = np.array([choices.sums(model, before, [reply[:-1]])[0] for reply in after])
        wanted[n, order] = said - np.log(np.exp(said).sum())
    found = choices.letters(model, words, turns)
    assert np.abs(found - wanted.mean(0)).max() < 1e-4 and np.ptp(found) > 1e-3
    assert np.abs(choices.letters(model, words, turns[1:2]) - wanted[1]).max() < 1e-4


def test_letters_that_begin_with_one_token_are_refused(tmp_path):
    model, words = choices.load(tiny.save(tmp_path / "m", "mistral"))  # it has a token for a space and B, none for A and C
    with pytest.raises(UserError, match="does not write each letter as a token"):
        choices.letters(model, words, [([0, 1, 2], MESSAGES)])


def test_equal_contexts_are_equal_to_the_last_bit_and_no_control_token_is_read(tmp_path):
    model, words = choices.load(tiny.save(tmp_path / "m"))
    found = choices.matrix(model, words, CONTEXTS, REPLIES)
    assert (found[1] == found[3]).all() and not (found[0] == found[1]).any()
    _, said = choices.tokens(words, MESSAGES, REPLIES)
    ends = words.convert_tokens_to_ids("<|im_end|>")
    assert [ids.count(ends) for ids in said] == [1, 1, 1, 1] and all(ids[-1] == ends for ids in said)


def test_a_model_that_has_diverged_and_a_folder_without_one_are_named(tmp_path):
    model, words = choices.load(tiny.save(tmp_path / "m"))
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(UserError, match="not finite; the model has diverged"):
        choices.matrix(model, words, CONTEXTS[:1], REPLIES[:1])
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        choices.load(tmp_path)
