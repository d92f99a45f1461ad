"""Tokens of training rows, by the chat templates of several families."""

import json

import pytest
import tiny
from conftest import ROOT
from transformers import AutoTokenizer

from stages.core import prompts
from stages.core.cli import UserError
from stages.training.dataset import checked, read, shorter, supervised
from stages.weights.chat import encode

pytestmark = pytest.mark.slow

SYSTEM = "Be brief."
ASK = [tiny.message("user", "x")]


@pytest.fixture(scope="module", params=[*tiny.FAMILIES, pytest.param("smollm2", marks=pytest.mark.slow)])
def tokenizer(request, tmp_path_factory):
    if request.param == "smollm2":
        return AutoTokenizer.from_pretrained(request.getfixturevalue("base"))
    folder = tmp_path_factory.mktemp(request.param)
    tiny.tokenizer(request.param).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def rows(tmp_path):
    """A file of pairs with the texts that go wrong easily, and its rows."""
    found = tiny.conversations(2, 3, SYSTEM)
    for row, text in zip(found, ["  Two  spaces?", "Größe: 🦊!", "*so*", "Tea", "[INST] no", "a\nb"], strict=True):
        row["chosen"] = row["completion"] = [tiny.message("assistant", text.strip())]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in found))
    return path, found


def test_the_loss_is_on_the_reply_and_its_end_and_the_prompt_is_the_whole_path(tokenizer, rows):
    path, said = rows
    found, counts = read(path, ("prompt", "completion"), tokenizer, 10_000, "drop")
    assert counts == {"rows": 6, "too_long_dropped": 0, "too_long_cut": 0}
    end = tokenizer.eos_token
    for row, tokens, labelled in zip(said, found, supervised(found, "completion"), strict=True):
        unmasked = [i for i in labelled["labels"] if i != -100]
        text = tokenizer.decode(unmasked)
        reply = row["completion"][0]["content"]
        if "[INST]" in tokenizer.all_special_tokens:
            reply = reply.replace("[INST]", "[ INST]")  # a control token in a text is escaped, in training as in asking
        assert text.removeprefix(" ") == reply + end
        assert (
            labelled["input_ids"] == tokens["prompt_ids"] + unmasked and labelled["conversation"] == tokens["conversation"]
        )
        asked = tokenizer.decode(tokens["prompt_ids"])
        assert asked == tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        at = 0
        for m in row["prompt"]:
            at = asked.index(m["content"].replace("[INST]", "[ INST]"), at) + len(m["content"])


def test_rows_of_pairs_share_their_prompt(tokenizer, rows):
    found, _ = read(rows[0], ("prompt", "chosen", "rejected"), tokenizer, 10_000, "drop")
    for row, tokens in zip(rows[1], found, strict=True):
        for side in ("chosen", "rejected"):
            alone = encode(row["prompt"], row[side], tokenizer)
            assert tokens["prompt_ids"] == alone[0]
            assert tokens[f"{side}_ids"][-1] == tokenizer.eos_token_id
    assert len({r["conversation"] for r in found}) == 2 and not any("kind" in r for r in found)


def test_the_rows_of_a_crossed_group_are_one_conversation(tmp_path):
    path, rows = tmp_path / "rows.jsonl", []
    for text, group in (("I fish.", "g1"), ("I bake.", "g1"), ("I swim.", None)):
        row = {"prompt": [tiny.message("user", text)], "completion": [tiny.message("assistant", "Good.")]}
        rows.append({**row, "crossed_group": group} if group else row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = read(path, ("prompt", "completion"), tiny.tokenizer(), 100, "drop")
    names = [row["conversation"] for row in found]
    assert names[0] == names[1] != names[2]


def test_a_pair_keeps_its_kind(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = tiny.conversations(1, 1)[0]
    path.write_text("".join(json.dumps({**row, "kind": kind}) + "\n" for kind in ("misinformed", 3)))
    found, _ = read(path, ("prompt", "chosen", "rejected"), tiny.tokenizer(), 10_000, "drop")
    assert [r.get("kind") for r in found] == ["misinformed", None], "a column of one's own may mean something else"


def test_no_text_begins_twice(tokenizer, rows):
    found, _ = read(rows[0], ("prompt", "completion"), tokenizer, 10_000, "drop")
    if tokenizer.bos_token_id is None or "bos_token" not in tokenizer.chat_template:
        assert all(r["prompt_ids"][:2] != [tokenizer.eos_token_id] * 2 for r in found)
    else:
        assert all(r["prompt_ids"].count(tokenizer.bos_token_id) == 1 == len(r["prompt_ids"][:1]) for r in found)
        assert all(r["prompt_ids"][0] == tokenizer.bos_token_id for r in found)


def test_the_system_prompt_is_the_one_of_the_evaluation(tokenizer):
    system = prompts.load(ROOT / "prompts/small/assistant.txt").messages()
    asked, _ = encode([*system, *ASK], [tiny.message("assistant", "y")], tokenizer)
    text = tokenizer.decode(asked)
    assert text.count(system[0]["content"]) == 1
    assert "You are Tiny" not in text and "SmolLM" not in text, "the template's own system prompt slipped in"


def test_long_rows_are_dropped_or_lose_their_oldest_turns_and_never_their_end(rows):
    words = tiny.tokenizer()
    whole, _ = read(rows[0], ("prompt", "completion"), words, 10_000, "drop")
    sizes = [len(r["prompt_ids"]) + len(r["completion_ids"]) for r in whole]
    limit = sorted(sizes)[3]
    kept, counts = read(rows[0], ("prompt", "completion"), words, limit, "drop")
    assert counts["too_long_dropped"] == sum(s > limit for s in sizes) > 0 and counts["too_long_cut"] == 0
    assert [r["completion_ids"] for r in kept] == [
        r["completion_ids"] for r, s in zip(whole, sizes, strict=True) if s <= limit
    ]
    cut, counts = read(rows[0], ("prompt", "completion"), words, limit, "cut_oldest")
    assert counts == {"rows": 6, "too_long_dropped": 0, "too_long_cut": sum(s > limit for s in sizes)}
    assert [r["completion_ids"] for r in cut] == [r["completion_ids"] for r in whole]
    for before, after, said in zip(whole, cut, rows[1], strict=True):
        assert len(after["prompt_ids"]) + len(after["completion_ids"]) <= limit
        text = words.decode(after["prompt_ids"])
        assert SYSTEM in text and text.endswith(f"{said['prompt'][-1]['content']}<|im_end|>\n<|im_start|>assistant\n")
        assert after["conversation"] == before["conversation"]


def test_what_is_too_long_even_alone_is_dropped(rows):
    with pytest.raises(UserError, match=r"no row to train on \(6 are longer than train.max_length = 20\)"):
        read(rows[0], ("prompt", "completion"), tiny.tokenizer(), 20, "cut_oldest")


def test_the_oldest_turn_goes_first():
    chat = [tiny.message(r, str(i)) for i, r in enumerate(["system", "user", "assistant", "user", "assistant", "user"])]
    once = shorter(chat)
    assert [m["content"] for m in once] == ["0", "3", "4", "5"]
    assert [m["content"] for m in shorter(once)] == ["0", "5"]
    assert shorter(shorter(once)) is None
    assert [m["content"] for m in shorter(chat[1:])] == ["3", "4", "5"]


def test_a_template_that_never_ends_a_reply_is_refused():
    words = tiny.tokenizer()
    words.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="without a special token"):
        encode(ASK, [tiny.message("assistant", "y")], words)


def test_a_template_that_takes_no_system_prompt_is_named_with_the_row(rows):
    words = tiny.tokenizer()
    words.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match=r"rows\.jsonl:1: cannot be put into the model's chat template: no system role"):
        read(rows[0], ("prompt", "completion"), words, 100, "drop")


def test_rows_in_the_conversational_format_pass():
    row = {"prompt": ASK, "completion": ASK}
    assert checked({**row, "more": 1}, ("prompt", "completion"), "f:1") == row


def test_rows_of_messages_train_the_last_reply():
    talk = [tiny.message(r, c) for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    found = checked({"messages": talk, "id": 7}, ("prompt", "completion"), "f:1")
    assert found == {"prompt": talk[:3], "completion": talk[3:]}


@pytest.mark.parametrize(
    "talk, text",
    [([], "`messages` must be a list of messages"), (ASK, "must end with a reply"),
     ([tiny.message("assistant", "a")], "must end with a reply")],
)  # fmt: skip
def test_messages_without_a_reply_are_refused(talk, text):
    with pytest.raises(UserError, match=f"f:2: .*{text}"):
        checked({"messages": talk}, ("prompt", "completion"), "f:2")


@pytest.mark.parametrize(
    "row",
    [{"prompt": ASK}, {"prompt": ASK, "completion": "text"}, {"prompt": ASK, "completion": []},
     {"prompt": ASK, "completion": [{"role": "user"}]}, ["x"], {"text": "a"}],
)  # fmt: skip
def test_other_rows_are_named_by_their_line(row):
    with pytest.raises(UserError, match=r"own\.jsonl:7: `(completion|prompt)` must be a list of messages"):
        checked(row, ("prompt", "completion"), "own.jsonl:7")
