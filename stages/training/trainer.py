"""TRL's trainers as the stages run them: our rows in our order, checkpoints, and faults in one line."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOTrainer, SFTTrainer

from stages.core.cli import UserError, one_line
from stages.core.files import Record
from stages.training import order, shared_prefix
from stages.training.curves import Curves
from stages.training.model import adapter, collator
from stages.training.settings import Optimisation, Train

DEFAULTS = {
    "logging_steps": 1,
    "save_total_limit": 2,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
}


@contextlib.contextmanager
def trls_words(stage: str) -> Iterator[None]:
    """Turn what TRL raises about settings into a UserError."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as e:
        raise UserError(f"params.yaml: {stage}: {one_line(e)}") from None


def config(kind: type, stage: str, section: Optimisation, train: Train, **own: Any) -> Any:
    """TRL's configuration; the processes of the training are set up with it, so it comes before any model.

    A step is the same rows on however many processes, so their number changes no result.

    Args:
        kind: SFTConfig or DPOConfig.
        section: of `stage`; it goes before `train`.
        own: what the stage decides itself.
    Raises:
        UserError: settings that TRL refuses, or processes that do not work together.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if section.gradient_accumulation_steps % processes:
        raise UserError(
            f"{stage}.gradient_accumulation_steps: {section.gradient_accumulation_steps} is not a multiple of the "
            f"{processes} processes"
        )
    names = {field.name for field in fields(kind)}
    given = {key: value for key, value in {**train.model_dump(), **section.model_dump()}.items() if key in names}
    own |= {
        "data_seed": section.seed,
        "gradient_accumulation_steps": section.gradient_accumulation_steps // processes,
        "max_length": None,  # dataset.read has seen to it
        "bf16": train.dtype == "bfloat16" and torch.cuda.is_available(),
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen
        "eval_strategy": "no",
        "save_strategy": "steps",
        "disable_tqdm": True,
    }
    with trls_words(stage):
        made = kind(**{**DEFAULTS, **given, **own})
    # where accelerate cannot launch several processes, it starts one with MASTER_ADDR alone, and says nothing
    alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if alone or made.world_size != processes:
        raise UserError(
            f"{stage}: several processes were to be started, but this one trains alone; is the config file in train.launch "
            "right? On CPUs: distributed_type: MULTI_GPU and use_cpu: true, started with env ACCELERATE_USE_CPU=true"
        )
    return made


class Order(Sampler[int]):  # type: ignore[misc, unused-ignore]
    """Row numbers of an epoch by `draw`, a function of order.py, from what it wants to know of each row."""

    epoch = 0

    def __init__(self, draw: Callable[..., list[int]], rows: Sequence[Any], size: int, seed: int):
        self.draw, self.rows, self.size, self.seed = draw, rows, size, seed

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw(self.rows, self.size, self.seed, self.epoch))


class Tokenised:
    """What our trainers do otherwise than TRL's: the rows are tokens already, with a `conversation`, and have our order."""

    args: Any
    train_dataset: Any
    data_collator: Any

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # its columns are there: the model's own, from before it was changed

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        how = (self.args.per_device_train_batch_size, self.args.seed)
        if isinstance(self.data_collator, shared_prefix.Collator):
            return Order(order.by_conversation, list(self.train_dataset["conversation"]), *how)
        lengths = [sum(len(ids) for ids in row.values() if isinstance(ids, list)) for row in self.train_dataset]
        return Order(order.by_length, lengths, *how)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """TRL's schedule, but the last step is never one of the warm-up, whose first step has rate 0."""
        self.args.warmup_steps = min(self.args.get_warmup_steps(num_training_steps), num_training_steps - 1)
        return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None for checkpoints."""


class Sft(Tokenised, SFTTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's SFTTrainer on supervised rows (`dataset.supervised`)."""


class Dpo(Tokenised, DPOTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's DPOTrainer on tokenised pairs with `ref_chosen_logps` and `ref_rejected_logps`."""


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Ends a training whose loss is no number."""

    begun = False

    def __init__(self, stage: str):
        self.stage = stage

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note that a checkpoint was read."""
        self.begun = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Check the loss."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise UserError(
                f"{self.stage}: the loss is {logs['loss']} at step {state.global_step}; lower {self.stage}.learning_rate, "
                "or set train.dtype=float32"
            )


def fit(
    trainer: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Record],
    settings: Any,
    train: Train,
    curves: Curves,
) -> Any:
    """Train `model`, from the newest checkpoint where there is one; returns the trainer.

    Args:
        trainer: Sft or Dpo, with `rows` and `settings` (see `config`) for it; settings.output_dir holds the checkpoints.
    Raises:
        UserError: settings that TRL refuses; out of memory; a loss that is no number; a checkpoint that cannot be read.
    """
    watch = Watch(curves.stage)
    with trls_words(curves.stage):
        made = trainer(
            model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            data_collator=collator(train, tokenizer.pad_token_id),
            processing_class=tokenizer,
            peft_config=adapter(train, model),
            callbacks=[curves, watch],
        )
    made.remove_callback(PrinterCallback)
    folder = Path(settings.output_dir)
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    if last:
        print(f"{curves.stage}: continues from {Path(last).name}", file=sys.stderr)
    try:
        made.train(resume_from_checkpoint=last)
    except UserError:
        raise
    except Exception as e:
        raise explained(e, curves.stage, last, watch, made.state.global_step) from None
    return made


def explained(e: Exception, stage: str, checkpoint: str | None, watch: Watch, step: int) -> Exception:
    """A UserError that says what to do about an exception in training, or the exception itself."""
    if isinstance(e, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(e):
        return UserError(
            f"{stage}: out of memory; lower {stage}.per_device_train_batch_size (raise {stage}.gradient_accumulation_steps "
            "instead), train.max_length or train.lora_r, or set train.gradient_checkpointing=true"
        )
    if checkpoint and not watch.begun:
        return UserError(f"{checkpoint}: cannot be continued from: {one_line(e)}; delete the folder")
    if isinstance(e, ValueError) and not step:
        return UserError(f"params.yaml: {stage}: {one_line(e)}")  # TRL checks some settings at the first step
    return e
