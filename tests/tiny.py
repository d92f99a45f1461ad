"""Tiny models and tokenizers made on the spot: the chat templates of the families that people train, without a download.

transformers and torch are imported where they are used: quick tests want the texts and rows alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m['role'] "
    "+ '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}{% set chat = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set chat = messages %}{% endif %}{{ bos_token }}{% for m in chat %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (system if loop.first else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
OLMO = (
    "{{ eos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% else %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FAMILIES = {  # template, begin of text, end of a turn, other control tokens, words split as sentencepiece does
    "qwen2": (CHATML, None, "<|im_end|>", ["<|im_start|>"], False),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"], False),
    "mistral": (MISTRAL, "<s>", "</s>", ["[INST]", "[/INST]"], True),
    "olmo": (OLMO, None, "<|endoftext|>", [], False),
}


def tokenizer(family: str = "qwen2") -> "PreTrainedTokenizerFast":
    """One token a byte (or, for mistral, a letter, with spaces written as sentencepiece writes them)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template, bos, eos, others, spaced = FAMILIES[family]
    special = [t for t in (bos, eos, *others) if t]
    if spaced:
        letters = ["▁", "▁▁", *(f"<0x{b:02X}>" for b in range(256)), *map(chr, range(33, 127)), "▁T", "▁B"]
        vocab = {t: i for i, t in enumerate(dict.fromkeys(letters))}
        t = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "▁"), ("▁", "T"), ("▁", "B")], byte_fallback=True))
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        t = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token=bos, eos_token=eos, pad_token="<|pad|>", additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = template
    return made


def model(words: "PreTrainedTokenizerFast", layers: int = 2, kind: str = "llama", **more: Any) -> Any:
    """A random model of the architecture `kind`, with `more` in its configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id}
    set_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=len(words), num_hidden_layers=layers, **{**sizes, **ends, **more})
    return AutoModelForCausalLM.from_config(config)


def save(folder: Path, family: str = "qwen2", **more: Any) -> Path:
    """A folder with a random model (`more`: see `model`) and a tokenizer."""
    words = tokenizer(family)
    model(words, **more).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def params(stage: str, **changes: object) -> Any:
    """What stage sft or dpo reads, as params.yaml has it but for `changes`: `train__lora_r=4`."""
    from stages import dpo, sft
    from stages.core.params import load_yaml

    values = load_yaml(str(ROOT / "params.yaml"))
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    origin = {"source": "x", "revision": ""}
    sections = {"train": values["train"], stage: values[stage], "base_model": origin}
    return {"sft": sft, "dpo": dpo}[stage].Params.model_validate(sections)


def message(role: str, content: str) -> dict[str, str]:
    """A chat message."""
    return {"role": role, "content": content}


def conversations(number: int, turns: int, system: str = "Be brief.") -> list[dict]:
    """Pairs at every turn of `number` conversations: prompt, chosen, rejected (and completion, the chosen one)."""
    rows = []
    for n in range(number):
        chat = [message("system", system)]
        for turn in range(turns):
            chat = [*chat, message("user", f"{n}: I have {turn + n} cats, what now?")]
            chosen, rejected = f"Feed all {turn + n} of them, {n}.", f"Buy milk {'and bread ' * (turn % 3)}at {n}."
            said = {k: [message("assistant", v)] for k, v in (("chosen", chosen), ("rejected", rejected))}
            rows.append({"prompt": chat, **said, "completion": said["chosen"]})
            chat = chat + said["rejected" if turn % 2 else "chosen"]
    return rows


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tiny models are faster on one thread, and the same in every process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def gguf(folder: Path, **more: Any) -> Path:
    """A GGUF of the model with one token a byte in `folder` (`save`), all weights 0, beside its own; `more`: metadata."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoTokenizer

    config, words = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    kind = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(path := folder / "model.gguf", kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head := getattr(config, "head_dim", None):
        writer.add_key_length(head)
        writer.add_value_length(head)
    if window := getattr(config, "sliding_window", None):
        writer.add_sliding_window(window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    tokens = words.convert_ids_to_tokens(range(config.vocab_size))
    writer.add_token_list(tokens)
    control = set(words.all_special_tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges(["a a"])  # llama.cpp wants one; there is no token for it
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_chat_template(words.chat_template)
    for key, value in more.items():
        (writer.add_int32 if isinstance(value, int) else writer.add_float32)(key.replace("__", "."), value)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, array in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.zeros_like(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
