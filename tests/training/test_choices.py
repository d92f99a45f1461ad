"""Log-probabilities of replies behind one context: the same numbers as a row per context and reply."""

import numpy as np
import pytest
import tiny
from tiny import one_thread  # noqa: F401

from stages.core.cli import UserError
from stages.training import choices

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
