"""A trained model as a plain folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from stages.core.files import read_text
from stages.training.settings import Train
from stages.weights import gguf
from stages.weights.digest import GGUF


def save(trainer: Any, tokenizer: Any, template: Path, out: Path, train: Train, readme: str) -> None:
    """Write a plain Hugging Face folder, adapters merged, and the GGUF that serves it. Every process must call it.

    Args:
        template: the base's folder.
        readme: the model's card.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # the processes hold parts of the model
        parts = Path(trainer.args.output_dir) / "whole"
        trainer.save_model(str(parts))
        if trainer.is_world_process_zero():
            model = whole(parts, trainer.model.config._name_or_path)
    if not trainer.is_world_process_zero():
        return
    made = out.with_name(f".{out.name}.new")
    if made.exists():
        shutil.rmtree(made)
    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()  # in float32: a bfloat16 sum would round the adapter away
    end_tokens(model, tokenizer)
    kept = json.loads(read_text(template / "config.json")).get("dtype") or train.dtype
    model.to(getattr(torch, kept)).save_pretrained(made)
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text(readme, encoding="utf-8")
    if train.gguf != "none" and (template / GGUF).exists():
        gguf.export(made, template / GGUF, made / GGUF, train.gguf)
    if out.exists():
        shutil.rmtree(out)
    made.replace(out)


def whole(folder: Path, base: str) -> Any:
    """The model that a trainer saved into `folder`, whole or as an adapter of `base`, on the CPU."""
    if (folder / "adapter_config.json").exists():
        plain = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
        return PeftModel.from_pretrained(plain, folder, use_safetensors=True)
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)


def end_tokens(model: Any, tokenizer: Any) -> None:
    """Make the generation config of `model` stop at the end of a reply, and pad.

    End tokens that the base already had stay (Llama 3 has several); the tokenizer's own, with which every reply was trained
    to end, is among them. Sampling values are left to whoever asks.
    """
    config = model.generation_config
    known = config.eos_token_id
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    if tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = tokenizer.pad_token_id
