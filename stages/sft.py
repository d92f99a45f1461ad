"""SFT: supervised fine-tuning of the base model on the preferred replies, loss on the reply only.

Reads models/base and data/sft; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.sft (the arguments are in dvc.yaml)
"""

import math
from dataclasses import dataclass
from typing import Any

from stages.common import params
from stages.common.errors import parser, run
from stages.common.records import write_json
from stages.common.training import Train


@dataclass
class Sft:
    """Section `sft`. `train_file`, `val_file`: data/ of this pipeline, or TRL-format rows of your own.
    `batch_size` rows at once, times `accumulation` a step."""

    seed: int
    train_file: str
    val_file: str
    epochs: float
    learning_rate: float
    batch_size: int
    accumulation: int
    warmup_share: float
    scheduler: str

    def __post_init__(self) -> None:
        params.require(
            (self.epochs > 0, f"epochs: {self.epochs} is not above 0"),
            (self.learning_rate > 0, f"learning_rate: {self.learning_rate} is not above 0"),
            (self.batch_size >= 1, f"batch_size: {self.batch_size} is not at least 1"),
            (self.accumulation >= 1, f"accumulation: {self.accumulation} is not at least 1"),
        )


@dataclass
class Params:
    """What this stage reads."""

    sft: Sft
    train: Train


def config(p: Params, rows: int, out: str) -> Any:
    """TRL's settings."""
    import torch
    from trl import SFTConfig

    steps = math.ceil(rows / (p.sft.batch_size * p.sft.accumulation)) * p.sft.epochs
    return SFTConfig(
        output_dir=out,
        seed=p.sft.seed,
        data_seed=p.sft.seed,
        num_train_epochs=p.sft.epochs,
        learning_rate=p.sft.learning_rate,
        lr_scheduler_type=p.sft.scheduler,
        warmup_steps=math.ceil(p.sft.warmup_share * steps),
        per_device_train_batch_size=p.sft.batch_size,
        per_device_eval_batch_size=p.sft.batch_size,
        gradient_accumulation_steps=p.sft.accumulation,
        max_length=p.train.max_length,
        completion_only_loss=True,
        bf16=p.train.dtype == "bfloat16" and torch.cuda.is_available(),
        gradient_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    a = parser(__doc__, ["base", "train", "val"], ["model", "live", "metrics"]).parse_args()
    p = params.load("sft", Params)
    import tempfile

    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from stages.common import training

    set_seed(p.sft.seed)
    model, tokenizer = training.load(a.base, p.train.dtype)
    keys = ("prompt", "completion")
    train, dropped = training.read(a.train, keys, tokenizer, p.train.max_length)
    val, dropped_val = training.read(a.val, keys, tokenizer, p.train.max_length)
    with tempfile.TemporaryDirectory() as tmp:
        trainer = SFTTrainer(
            model,
            config(p, len(train), tmp),
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(val),
            processing_class=tokenizer,
            peft_config=training.adapter(p.train, model),
            callbacks=[curves := training.curves(a.live, "sft")],
        )
        trainer.remove_callback(PrinterCallback)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        after = trainer.evaluate()["eval_loss"]
        curves.live.end()
        training.save(trainer.model, tokenizer, a.base, a.model, p.train)
    write_json(
        a.metrics,
        {
            "rows": {"train": len(train), "val": len(val), "too_long": dropped + dropped_val},
            "steps": trainer.state.global_step,
            "val_loss": {"before": round(before, 4), "after": round(after, 4)},
            "val_perplexity": {"before": round(math.exp(before), 3), "after": round(math.exp(after), 3)},
        },
    )


if __name__ == "__main__":
    run(main)
