"""What SFT and DPO share: loading, adapters, the order of rows, checkpoints, curves, log-probabilities, saving."""

import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError, one_line
from stages.core.files import Record
from stages.training import shared_prefix
from stages.training.settings import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.core.statistics import Array

    LogProbs = list[Array]

AT_ONCE = 8  # rows whose log-probabilities are computed together


def load(folder: Path, train: Train) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model and tokenizer of a local folder, safetensors only, no remote code; ready for `collator(train, ...)`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.utils import add_fused_lm_head

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, train.dtype), use_safetensors=True, attn_implementation=train.attention
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: cannot be loaded as a model: {one_line(e)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if train.rows == "shared":
        shared_prefix.share(model)
    add_fused_lm_head(model)  # the trainers put theirs over it; before and after training, log_probs needs this one
    if torch.cuda.is_available():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
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


def arguments(stage: Any, train: Train, rows: int, folder: Path, what: str) -> dict[str, Any]:
    """Settings of TRL's trainers that SFT and DPO share. `stage`: section `sft` or `dpo`; `rows` to train on.

    A step is `batch_size` x `accumulation` rows on however many processes, so their number changes no result.
    """
    import torch

    processes = int(os.environ.get("WORLD_SIZE", 1))
    if stage.accumulation % processes:
        raise UserError(f"{what}.accumulation: {stage.accumulation} is not a multiple of the {processes} processes")
    steps = math.ceil(math.ceil(rows / (stage.batch_size * stage.accumulation)) * stage.epochs)
    return {
        "output_dir": str(folder),
        "seed": stage.seed,
        "data_seed": stage.seed,
        "num_train_epochs": stage.epochs,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.scheduler,
        "warmup_steps": min(math.ceil(stage.warmup_share * steps), steps - 1),  # whose first step has rate 0
        "per_device_train_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.accumulation // processes,
        "max_length": None,  # rows.read has seen to it
        "bf16": train.dtype == "bfloat16" and torch.cuda.is_available(),
        "gradient_checkpointing": train.gradient_checkpointing,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }


def order(rows: list[Record], size: int, seed: int, epoch: int, *, shared: bool) -> list[int]:
    """Order of `rows` in an epoch, for batches of `size`: by draw, but so that a batch is cheap.

    Shared: the rows of a conversation one after another, and in one batch where they fit. Separate: like lengths together.
    """
    rng = random.Random(f"{seed} {epoch}")
    if not shared:
        drawn = rng.sample(range(len(rows)), len(rows))
        spans = [drawn[i : i + 50 * size] for i in range(0, len(drawn), 50 * size)]
        lengths = [sum(len(ids) for ids in r.values() if isinstance(ids, list)) for r in rows]
        sorted_spans = [sorted(span, key=lambda i: -lengths[i]) for span in spans]
        batches = [span[i : i + size] for span in sorted_spans for i in range(0, len(span), size)]
        last = batches.pop() if len(batches[-1]) < size else []
        return [i for batch in [*rng.sample(batches, len(batches)), last] for i in batch]
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["conversation"], []).append(i)
    waiting = rng.sample(list(groups.values()), len(groups))
    found: list[int] = []
    while waiting:
        room = size - len(found) % size
        found += waiting.pop(next((i for i, group in enumerate(waiting) if len(group) <= room), 0))
    return found


def exact(base: Any, rows: list[Record], size: int, seed: int, *, shared: bool) -> Any:
    """TRL trainer `base`, given rows that are tokens already: it prepares nothing, and takes them in our order."""
    from torch.utils.data import Sampler

    class Order(Sampler[int]):  # type: ignore[misc, unused-ignore]
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(rows)

        def __iter__(self) -> Iterator[int]:
            return iter(order(rows, size, seed, self.epoch, shared=shared))

    class Exact(base):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset  # its columns are there: the model's own, from before it was changed

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return Order()

        def create_model_card(self, *_: Any, **__: Any) -> None:
            pass  # of checkpoints

    return Exact


def collator(train: Train, pad: int) -> Callable[[list[Record]], Any] | None:
    """What makes batches of supervised rows or of pairs; None: TRL's own."""
    return shared_prefix.Collator(pad) if train.rows == "shared" else None


def log_probs(model: Any, rows: list[Record], train: Train, pad: int, *, spread: bool = False) -> "LogProbs":
    """log p of each token of the reply, in nats, for each of the supervised `rows`.

    Args:
        spread: each process takes a part of the rows; not for a model that is itself spread over the processes.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = collator(train, pad) or DataCollatorForLanguageModeling(pad_token_id=pad)
    state = PartialState()
    starts = list(range(0, len(rows), AT_ONCE))
    found = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in starts[state.process_index :: state.num_processes] if spread else starts:
            batch = {k: v.to(model.device) for k, v in collate(rows[start : start + AT_ONCE]).items()}
            mask = batch["labels"][:, 1:] != shared_prefix.IGNORED
            values = model(**batch, fused_lm_head=True).log_probs
            found += [(start + i, v[m].double().cpu().numpy()) for i, (v, m) in enumerate(zip(values, mask, strict=True))]
    model.train(was_training)
    if spread and state.num_processes > 1:
        found = gather_object(found)
    return [values for _, values in sorted(found, key=lambda pair: pair[0])]


def fit(trainer: Any, folder: Path, what: str) -> None:
    """Train, from the newest checkpoint in `folder` where there is one.

    Raises:
        UserError: out of memory; a loss that is no number; a checkpoint that cannot be read.
    """
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        begun = False

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not math.isfinite((logs or {}).get("loss", 0.0)):
                raise UserError(
                    f"{what}: the loss is {logs['loss']} at step {state.global_step}; lower {what}.learning_rate, "
                    "or set train.dtype=float32"
                )

    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if trainer.args.world_size != wanted:
        raise UserError(
            f"{what}: {wanted} processes were started, but each trains alone; is the config file in train.launch right? "
            "On CPUs: distributed_type: MULTI_GPU and use_cpu: true, started with ACCELERATE_USE_CPU=true"
        )
    trainer.add_callback(watch := Watch())
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    if last:
        print(f"{what}: continues from {Path(last).name}", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=last)
    except UserError:
        raise
    except Exception as e:
        if isinstance(e, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(e):
            raise UserError(
                f"{what}: out of memory; lower {what}.batch_size (and raise {what}.accumulation), train.max_length or "
                "train.lora_rank, or set train.gradient_checkpointing=true"
            ) from None
        if last and not watch.begun:
            raise UserError(f"{last}: cannot be continued from: {one_line(e)}; delete the folder") from None
        raise
