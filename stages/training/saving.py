"""A trained model as a plain folder."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import read_text
from stages.training.settings import Train
from stages.weights import gguf
from stages.weights.card import end_tokens
from stages.weights.digest import GGUF

if TYPE_CHECKING:
    from stages.core.statistics import Array

    LogProbs = list[Array]


def save(trainer: Any, tokenizer: Any, template: Path, out: Path, train: Train, scratch: Path, readme: str) -> None:
    """Write a plain Hugging Face folder, adapters merged, and the GGUF that serves it.

    Args:
        template: the base's folder.
        scratch: where the parts of a model that is spread over processes are put together.
        readme: the model's card.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(scratch / "whole"))  # takes every process
        if trainer.is_world_process_zero():
            model = whole(scratch / "whole", trainer.model.config._name_or_path)
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
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if (folder / "adapter_config.json").exists():
        plain = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
        return PeftModel.from_pretrained(plain, folder, use_safetensors=True)
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
