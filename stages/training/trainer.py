"""TRL's trainers as the stages run them: our rows in our order, checkpoints, and faults in one line."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from stages.core.cli import UserError, one_line
from stages.core.files import Record
from stages.core.params import near
from stages.training import order, shared_prefix
from stages.training.curves import Curves
from stages.training.model import adapter, collator, moved, trained_weights
from stages.training.settings import Dpo, Optimisation, Train


@contextlib.contextmanager
def trls_words(stage: str) -> Iterator[None]:
    """Turn what TRL raises about settings into a UserError."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as e:
        raise UserError(f"params.yaml: {stage}: {one_line(e)}") from None


def check_losses(losses: Sequence[str]) -> None:
    """Raise UserError for a loss that TRL has not: it would say so at the first step only."""
    known = re.findall(r"'(\w+)'", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])  # where TRL lists them
    for loss in losses:
        if known and loss not in known:
            raise UserError(f"params.yaml: dpo.loss_type: {loss!r} is none of {', '.join(known)}{near(loss, known)}")


def config(stage: str, section: Optimisation, train: Train) -> Any:
    """TRL's configuration; the processes of the training are set up with it, so it comes before any model.

    A step is the same rows on however many processes, so their number changes no result.

    Args:
        section: of `stage`, sft or dpo; it goes before `train`.
    Raises:
        UserError: settings that TRL refuses, or processes that do not work together.
    """
    if isinstance(section, Dpo):
        check_losses(section.loss_type)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if section.gradient_accumulation_steps % processes:
        raise UserError(
            f"{stage}.gradient_accumulation_steps: {section.gradient_accumulation_steps} is not a multiple of the "
            f"{processes} processes"
        )
    kind = {"sft": SFTConfig, "dpo": DPOConfig}[stage]
    names = {field.name for field in fields(kind)}
    low, gpu = train.dtype == "bfloat16", torch.cuda.is_available()
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # train.dtype decides, not the file that train.launch names
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if low else "no"
    defaults = {"logging_steps": 1, "save_total_limit": 2, "report_to": "none"}
    given = {key: value for key, value in {**train.model_dump(), **section.model_dump()}.items() if key in names}
    own = {
        # the reference is the model before it is changed, so its log-probabilities are computed once for each pair
        **({"completion_only_loss": True} if stage == "sft" else {"precompute_ref_log_probs": True}),
        "data_seed": section.seed,
        "gradient_accumulation_steps": section.gradient_accumulation_steps // processes,
        "max_length": None,  # dataset.read has seen to it
        "bf16": low,
        **({"use_cpu": True} if low and not gpu else {}),
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen
        "eval_strategy": "no",
        "save_strategy": "steps",
        "disable_tqdm": True,
    }
    with trls_words(stage):
        made = kind(**{**defaults, "dataloader_pin_memory": gpu, **given, **own})
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

    moved: float  # share of the trained weights that are not what they were when training began
    args: Any
    train_dataset: Any
    data_collator: Any

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # its columns are there: the model's own, from before it was changed

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        size, seed = self.args.per_device_train_batch_size, self.args.seed
        if isinstance(self.data_collator, shared_prefix.Collator):
            # a group's replies cancel out within a step (docs/training.md), however many batches and processes make it up
            step = size * self.args.gradient_accumulation_steps * self.args.world_size
            return Order(order.by_conversation, list(self.train_dataset["conversation"]), step, seed)
        lengths = [sum(len(ids) for ids in row.values() if isinstance(ids, list)) for row in self.train_dataset]
        return Order(order.by_length, lengths, size, seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """TRL's schedule, but the last step is never one of the warm-up, whose first step has rate 0."""
        self.args.warmup_steps = min(self.args.get_warmup_steps(num_training_steps), num_training_steps - 1)
        return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None for checkpoints."""


class SftTrainer(Tokenised, SFTTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's SFTTrainer on supervised rows (`dataset.supervised`)."""


class DpoTrainer(Tokenised, DPOTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's DPOTrainer on tokenised pairs with `ref_chosen_logps` and `ref_rejected_logps`."""


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Record],
    settings: Any,
    train: Train,
    curves: Curves,
) -> Any:
    """Train `model` as the stage of `curves` does, from the newest checkpoint where there is one; returns the trainer.

    Args:
        rows: supervised rows, or tokenised pairs with the reference's log-probabilities.
        settings: see `config`; settings.output_dir holds the checkpoints.
    Raises:
        UserError: settings that TRL refuses; out of memory; a loss that is no number; a checkpoint that cannot be read.
    """
    stage = curves.stage
    with trls_words(stage):
        made: Any = {"sft": SftTrainer, "dpo": DpoTrainer}[stage](
            model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            data_collator=collator(train, tokenizer.pad_token_id),
            processing_class=tokenizer,
            peft_config=adapter(train, model),
            callbacks=[curves],
        )
    if train.rows == "shared" and stage == "dpo":  # its head is TRL's now
        shared_prefix.share_head(made.model.get_base_model() if train.lora_r else made.model)
    made.remove_callback(PrinterCallback)
    last = get_last_checkpoint(settings.output_dir) if Path(settings.output_dir).exists() else None
    if last:
        print(f"{stage}: continues from {Path(last).name}", file=sys.stderr)
    began = trained_weights(made.model)
    try:
        made.train(resume_from_checkpoint=last)
    except UserError:
        raise
    except Exception as e:
        raise explained(e, stage, None if curves.begun else last, made.state.global_step) from None
    made.moved = moved(began, trained_weights(made.model))
    return made


def explained(e: Exception, stage: str, unread: str | None, step: int) -> Exception:
    """A UserError that says what to do about an exception in training, or the exception itself.

    `unread`: the checkpoint that was being read.
    """
    if isinstance(e, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(e):
        return UserError(
            f"{stage}: out of memory; lower {stage}.per_device_train_batch_size (raise {stage}.gradient_accumulation_steps "
            "instead), train.max_length or train.lora_r, or set train.gradient_checkpointing=true"
        )
    if unread:
        return UserError(f"{unread}: cannot be continued from: {one_line(e)}; delete the folder")
    if isinstance(e, ValueError) and not step:
        return UserError(f"params.yaml: {stage}: {one_line(e)}")  # TRL checks some settings at the first step
    return e
