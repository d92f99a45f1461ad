"""Models in training: loaded, given adapters, and asked for the log-probabilities of replies."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, get_peft_config
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from stages.core.files import Record
from stages.core.statistics import Array
from stages.training import shared_prefix
from stages.training.dataset import IGNORED, supervised
from stages.training.settings import Train
from stages.weights import pretrained
from stages.weights.layers import targets

SIDES = ("chosen", "rejected")
SAMPLE = 65_536  # weights of each tensor by which it is seen whether they move
AT_ONCE = 12  # rows whose log-probabilities are computed together: those of two users of a group of four


def load(folder: Path, train: Train) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a local folder (`pretrained.load`), ready for `collator(train, ...)`.

    Weights that are trained are float32 whatever `train.dtype` is: bfloat16 would round small steps of the optimizer away.
    What an adapter leaves frozen, and adapters themselves (PEFT's are float32), need no such copy.
    """
    dtype = getattr(torch, train.dtype if train.lora_r else "float32")
    model, tokenizer = pretrained.load(folder, dtype=dtype, attn_implementation=train.attn_implementation)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if train.rows == "shared":
        shared_prefix.share(model)
    add_fused_lm_head(model)  # the trainers put theirs over it; before and after training, log_probs needs this one
    if train.rows == "shared":
        shared_prefix.share_head(model)
    if torch.cuda.is_available():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return model, tokenizer


def adapter(train: Train, model: PreTrainedModel) -> LoraConfig | None:
    """LoRA configuration over the linear layers of (the last) transformer blocks, or None for full training.

    Nothing below the lowest adapted block is differentiated, which is what makes `lora_layers` cheap.
    """
    if not train.lora_r:
        return None
    linear, others, blocks = targets(model)
    names = {field.name for field in fields(ModelConfig)}
    given = {key: value for key, value in train.model_dump().items() if key in names}
    lora = get_peft_config(ModelConfig(**{"lora_target_modules": linear, **given, "use_peft": True}))
    lora.exclude_modules = others or None
    if train.lora_layers:
        lora.layers_to_transform = list(range(max(0, blocks - train.lora_layers), blocks))
    return lora


def trained_weights(model: PreTrainedModel) -> list[tuple[int, torch.Tensor]]:
    """Of each tensor that is trained: its size, and at most SAMPLE of its weights, evenly spaced, on the CPU.

    Every process must call it: they may hold parts of the tensors.
    """
    found = []
    for p in model.parameters():
        if p.requires_grad:
            flat = (p.full_tensor() if isinstance(p, DTensor) else p).detach().flatten()
            found.append((len(flat), flat[:: -(-len(flat) // SAMPLE)].to("cpu", copy=True)))
    return found


def moved(before: list[tuple[int, torch.Tensor]], after: list[tuple[int, torch.Tensor]]) -> float:
    """Share of the trained weights that differ between two `trained_weights`."""
    changed = sum(size * float((a != b).double().mean()) for (size, a), (_, b) in zip(before, after, strict=True))
    return round(changed / sum(size for size, _ in before), 4)


def collator(train: Train, pad: int) -> Callable[[list[Record]], Any] | None:
    """The function that makes batches of supervised rows or of pairs; None: TRL's own."""
    return shared_prefix.Collator(pad) if train.rows == "shared" else None


def log_probs(model: PreTrainedModel, rows: list[Record], train: Train, pad: int, *, spread: bool = False) -> list[Array]:
    """log p of each token of the reply, in nats, for each of the supervised `rows`.

    Args:
        spread: each process computes a part of the rows; not for a model that is itself spread over the processes.
    """
    collate = collator(train, pad) or DataCollatorForLanguageModeling(pad_token_id=pad)
    state = PartialState()
    starts = list(range(0, len(rows), AT_ONCE))
    found = []
    was_training = model.training
    model.eval()
    low = torch.autocast(model.device.type, torch.bfloat16, enabled=train.dtype == "bfloat16")  # as the training computes
    with torch.no_grad(), low:
        for start in starts[state.process_index :: state.num_processes] if spread else starts:
            batch = {k: v.to(model.device) for k, v in collate(rows[start : start + AT_ONCE]).items()}
            mask = batch["labels"][:, 1:] != IGNORED
            values = model(**batch, fused_lm_head=True).log_probs
            found += [(start + i, v[m].double().cpu().numpy()) for i, (v, m) in enumerate(zip(values, mask, strict=True))]
    model.train(was_training)
    if spread and state.num_processes > 1:
        found = gather_object(found)
    return [values for _, values in sorted(found, key=lambda pair: pair[0])]


def pair_log_probs(
    model: PreTrainedModel, pairs: list[Record], train: Train, pad: int, *, spread: bool = False
) -> list[list[Array]]:
    """log p of each token of the chosen and of the rejected replies, as `log_probs`: siblings are computed together."""
    rows = [row for pair in zip(*(supervised(pairs, side) for side in SIDES), strict=True) for row in pair]
    found = log_probs(model, rows, train, pad, spread=spread)
    return [found[::2], found[1::2]]


def with_reference(model: PreTrainedModel, pairs: list[Record], train: Train, pad: int) -> list[Record]:
    """`pairs` with the log-probabilities of both replies under `model`, the reference, by TRL's names."""
    sums = [[float(tokens.sum()) for tokens in side] for side in pair_log_probs(model, pairs, train, pad, spread=True)]
    return [
        {**pair, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        for pair, chosen, rejected in zip(pairs, *sums, strict=True)
    ]
