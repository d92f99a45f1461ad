"""Base model: the pinned digest, local folders, and clear words for what cannot be had."""

import json

import pytest
from conftest import complains

from stages.weights.digest import identity

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"


@pytest.fixture
def tiny(tmp_path):
    """A Llama of two blocks with random weights and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<unk>", "</s>", "hello", "world"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )
    folder = tmp_path / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_local_folder_is_a_drop_in(project, tiny):
    project.set(base_model__source=str(tiny), base_model__sha256="")
    done = project.run("base_model")
    assert "base_model.gguf: Q8_0 is not made" in done.stderr and "is not pinned" in done.stderr
    made = project.folder / "models/base"
    assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {p.name for p in made.iterdir()}
    assert identity(made) == identity(made) != identity(tiny)


def test_wrong_digest_is_named_and_the_old_model_stays(project, tiny):
    project.set(base_model__source=str(tiny), base_model__sha256="")
    project.run("base_model")
    before = identity(project.folder / "models/base")
    project.set(base_model__sha256="0" * 64)
    complains(project.run("base_model", check=False), "base_model.sha256", "model.safetensors", "pins 000000")
    assert identity(project.folder / "models/base") == before


def test_no_chat_template_and_no_model(project, tiny):
    (tiny / "chat_template.jinja").unlink()
    project.set(base_model__source=str(tiny), base_model__sha256="")
    complains(project.run("base_model", check=False), "has no chat template")
    project.set(base_model__source=str(project.folder / "nowhere"))
    complains(project.run("base_model", check=False), "base_model.source", "cannot be loaded")
