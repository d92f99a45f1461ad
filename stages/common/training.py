"""What SFT and DPO share: loading, adapters, curves, log-probabilities of replies, saving for use and for serving."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import gguf
from stages.common.engine import GGUF, disarmed
from stages.common.errors import UserError, one_line
from stages.common.params import require
from stages.common.progress import Progress
from stages.common.records import Record, read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Train:
    """Section `train`: what both trainings share.

    `lora_rank` 0 trains all weights; `lora_layers` adapts the last so many layers, 0 all. `dtype` of the arithmetic.
    `max_length` in tokens: longer rows are dropped and counted. `gguf`: quantisation of the served copy, as in base_model.
    """

    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    lora_layers: int
    dtype: str
    max_length: int
    gguf: str

    def __post_init__(self) -> None:
        require(
            (self.lora_rank >= 0, f"lora_rank: {self.lora_rank} is below 0"),
            (self.lora_layers >= 0, f"lora_layers: {self.lora_layers} is below 0"),
            (self.dtype in ("bfloat16", "float32"), f"dtype: {self.dtype!r} is neither bfloat16 nor float32"),
            (self.max_length >= 2, f"max_length: {self.max_length} is below 2"),
        )


def load(folder: Path, dtype: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model and tokenizer of a local folder, safetensors only, no remote code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: cannot be loaded as a model: {one_line(e)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def adapter(train: Train, model: Any) -> Any:
    """LoRA configuration over the linear layers of (the last) transformer blocks, or None for full training.

    Nothing below the lowest adapted block is differentiated, which is what makes `lora_layers` cheap.
    """
    if not train.lora_rank:
        return None
    import torch
    from peft import LoraConfig

    blocks = model.config.num_hidden_layers
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    return LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(max(0, blocks - train.lora_layers), blocks)) if train.lora_layers else None,
        task_type="CAUSAL_LM",
    )


def check_row(row: Any, keys: tuple[str, ...], where: str) -> None:
    """Raise UserError, starting with `where`, for a row that is not in TRL's conversational format."""
    for key in keys:
        messages = row.get(key) if isinstance(row, dict) else None
        sound = isinstance(messages, list) and messages and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
        )  # fmt: skip
        if not sound:
            raise UserError(f"{where}: `{key}` must be a list of messages, each with role and content")


def read(path: Path, keys: tuple[str, ...], tokenizer: Any, max_length: int) -> tuple[list[Record], int]:
    """Rows of a TRL-format file that fit into `max_length` tokens, and how many did not.

    Raises:
        UserError: file:line of a row that is none; no row left.
    """
    rows, dropped = [], 0
    folder = Path(tokenizer.name_or_path)
    for number, row in read_lines(path):
        check_row(row, keys, f"{path}:{number}")
        row = {k: disarmed(row[k], folder) for k in keys}
        longest = max(
            len(tokenizer.apply_chat_template(row["prompt"] + row[k], return_dict=False)) for k in keys if k != "prompt"
        )
        if longest > max_length:
            dropped += 1
        else:
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: no row to train on ({dropped} are longer than train.max_length = {max_length})")
    return rows, dropped


def curves(folder: Path, what: str) -> Any:
    """DVCLive callback that keeps what is looked at, by step (no clock times: the same run, the same bytes)."""
    if "DVC_EXP_NAME" not in os.environ:
        os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")  # a plain `dvc repro` is not an experiment of its own
    from dvclive import Live
    from dvclive.huggingface import DVCLiveCallback

    kept = re.compile(r"(eval_)?(loss|grad_norm|learning_rate|mean_token_accuracy|rewards/\w+)")

    class Curves(DVCLiveCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs.get("logs") or {}
            self.live.step = state.global_step
            for key, value in logs.items():
                if isinstance(value, int | float) and kept.fullmatch(key):
                    name = key.removeprefix("eval_")
                    self.live.log_metric(f"{'eval' if key.startswith('eval_') else 'train'}/{name}", float(value))
            self.live.make_summary()

        def log(self, step: int, values: dict[str, float]) -> None:
            """Held-out rewards at a step."""
            self.live.step = step
            for name, value in values.items():
                self.live.log_metric(f"eval/rewards/{name}", value)
            self.live.make_summary()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.progress = Progress(f"{what}: steps", state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.progress.step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass  # the stage ends it, after the last evaluation

    if folder.exists():
        shutil.rmtree(folder)
    return Curves(live=Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None))


def log_probs(model: Any, tokenizer: Any, rows: list[Record], key: str) -> list[float]:
    """Sum of log p(token) over the reply `row[key]` given `row["prompt"]`, for each row, in nats."""
    import torch

    model.eval()
    sums = []
    with torch.no_grad():
        for row in rows:
            start = len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False))
            ids = tokenizer.apply_chat_template(row["prompt"] + row[key], return_dict=False)
            tokens = torch.tensor([ids], device=model.device)
            logits = model(input_ids=tokens).logits[0, start - 1 : -1].float()
            picked = logits.log_softmax(-1).gather(1, tokens[0, start:, None])
            sums.append(float(picked.sum()))
    return sums


def save(model: Any, tokenizer: Any, template: Path, out: Path, train: Train) -> None:
    """Write a plain Hugging Face folder, adapters merged, and the GGUF that serves it. `template`: the base's folder."""
    import json

    import torch

    made = out.with_name(f".{out.name}.new")
    if made.exists():
        shutil.rmtree(made)
    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()  # in float32: a bfloat16 sum would round the adapter away
    kept = json.loads((template / "config.json").read_text()).get("dtype") or train.dtype
    model.to(getattr(torch, kept)).save_pretrained(made)
    tokenizer.save_pretrained(made)
    if train.gguf != "none" and (template / GGUF).exists():
        gguf.export(made, template / GGUF, made / GGUF, train.gguf)
    if out.exists():
        shutil.rmtree(out)
    made.replace(out)
