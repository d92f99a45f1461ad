"""Base model: the pinned digest, local folders, and clear words for what cannot be had."""

import hashlib
import json

import pytest
from conftest import complains

from stages.core.cli import UserError
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams
from stages.weights.digest import check_digest, identity

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


def test_digest_of_one_file_of_several_and_of_none(tmp_path, capsys):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    one.write_bytes(b"weights")
    two.write_bytes(b"more")
    check_digest([one], "", "base_model")
    check_digest([one], hashlib.sha256(b"weights").hexdigest(), "base_model")
    with pytest.raises(UserError, match=r"1\.safetensors .* pins abc"):
        check_digest([one], "abc", "base_model")
    check_digest([two, one], "", "encoder")
    both = capsys.readouterr().err.split()[-1]
    check_digest([one, two], both, "encoder")
    two.write_bytes(b"other")
    with pytest.raises(UserError, match=r"encoder\.sha256: 1\.safetensors and 1 more"):
        check_digest([one, two], both, "encoder")
    with pytest.raises(UserError, match="no safetensors weights"):
        check_digest([], "", "encoder")


def test_the_encoder_has_the_pinned_weights(project):
    pinned = project.params.encoder
    with pytest.raises(UserError, match=r"encoder\.sha256: model\.safetensors has .* pins 0000"):
        Encoder(EncoderParams(model=pinned.model, revision="", sha256="0" * 64, batch_size=8))
    assert Encoder(EncoderParams(model=pinned.model, revision="", sha256=pinned.sha256, batch_size=8))(["a boat"]).shape == (
        1,
        384,
    )


def test_no_chat_template_and_no_model(project, tiny):
    (tiny / "chat_template.jinja").unlink()
    project.set(base_model__source=str(tiny), base_model__sha256="")
    complains(project.run("base_model", check=False), "has no chat template")
    project.set(base_model__source=str(project.folder / "nowhere"))
    complains(project.run("base_model", check=False), "base_model.source", "cannot be loaded")


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match="holds neither"):
        identity(tmp_path)
