"""A trained model as a plain folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import align_special_tokens

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
            adapted = (parts / "adapter_config.json").exists()
            whole = trainer.model.config._name_or_path if adapted else parts
            model = AutoModelForCausalLM.from_pretrained(whole, use_safetensors=True)
            model = PeftModel.from_pretrained(model, parts, use_safetensors=True) if adapted else model
    if not trainer.is_world_process_zero():
        return
    made = out.with_name(f".{out.name}.new")
    if made.exists():
        shutil.rmtree(made)
    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()  # in float32: a bfloat16 sum would round the adapter away
    align_special_tokens(
        model, tokenizer
    )  # it stops at the end of a reply, with which it was trained, and where the base did
    kept = json.loads(read_text(template / "config.json")).get("dtype") or train.dtype
    model.to(getattr(torch, kept)).save_pretrained(made)
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text(readme, encoding="utf-8")
    if train.gguf != "none" and (template / GGUF).exists():
        gguf.export(made, template / GGUF, made / GGUF, train.gguf)
    if out.exists():
        shutil.rmtree(out)
    made.replace(out)
