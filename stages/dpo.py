"""DPO: preference optimisation of the SFT model on the pairs, against the SFT model as reference.

Reads models/sft and data/pairs; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.dpo (the arguments are in dvc.yaml)
"""

import math
from dataclasses import dataclass
from typing import Any

from stages.common import params
from stages.common.errors import parser, run
from stages.common.records import write_json
from stages.common.training import Train

NOTHING_LEARNT = {"accuracy": 0.5, "margin": 0.0}  # by definition, while policy and reference are one


@dataclass
class Dpo:
    """Section `dpo`. `train_file`, `val_file`: data/ of this pipeline, or TRL-format rows of your own.
    `batch_size` pairs at once, times `accumulation` a step; `loss_type` as TRL names it."""

    seed: int
    train_file: str
    val_file: str
    beta: float
    loss_type: str
    epochs: float
    learning_rate: float
    batch_size: int
    accumulation: int
    warmup_share: float
    scheduler: str

    def __post_init__(self) -> None:
        params.require(
            (self.beta > 0, f"beta: {self.beta} is not above 0"),
            (self.epochs > 0, f"epochs: {self.epochs} is not above 0"),
            (self.learning_rate > 0, f"learning_rate: {self.learning_rate} is not above 0"),
            (self.batch_size >= 1, f"batch_size: {self.batch_size} is not at least 1"),
            (self.accumulation >= 1, f"accumulation: {self.accumulation} is not at least 1"),
        )


@dataclass
class Params:
    """What this stage reads."""

    dpo: Dpo
    train: Train


def config(p: Params, rows: int, out: str) -> Any:
    """TRL's settings."""
    import torch
    from trl import DPOConfig

    steps = math.ceil(rows / (p.dpo.batch_size * p.dpo.accumulation)) * p.dpo.epochs
    return DPOConfig(
        output_dir=out,
        seed=p.dpo.seed,
        data_seed=p.dpo.seed,
        beta=p.dpo.beta,
        loss_type=[p.dpo.loss_type],
        num_train_epochs=p.dpo.epochs,
        learning_rate=p.dpo.learning_rate,
        lr_scheduler_type=p.dpo.scheduler,
        warmup_steps=math.ceil(p.dpo.warmup_share * steps),
        per_device_train_batch_size=p.dpo.batch_size,
        per_device_eval_batch_size=p.dpo.batch_size,
        gradient_accumulation_steps=p.dpo.accumulation,
        max_length=p.train.max_length,
        precompute_ref_log_probs=True,  # once for each pair instead of once a step
        bf16=p.train.dtype == "bfloat16" and torch.cuda.is_available(),
        gradient_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def preference(chosen: list[float], rejected: list[float]) -> dict[str, float]:
    """Share of pairs whose chosen value is the greater (ties count half) and the mean difference."""
    difference = [c - r for c, r in zip(chosen, rejected, strict=True)]
    wins = sum((d > 0) + 0.5 * (d == 0) for d in difference)
    return {"accuracy": round(wins / len(difference), 4), "margin": round(sum(difference) / len(difference), 4)}


def main() -> None:
    a = parser(__doc__, ["sft", "base", "train", "val"], ["model", "live", "metrics"]).parse_args()
    p = params.load("dpo", Params)
    import tempfile

    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import DPOTrainer

    from stages.common import training

    set_seed(p.dpo.seed)
    model, tokenizer = training.load(a.sft, p.train.dtype)
    keys = ("prompt", "chosen", "rejected")
    train, dropped = training.read(a.train, keys, tokenizer, p.train.max_length)
    val, dropped_val = training.read(a.val, keys, tokenizer, p.train.max_length)
    sides = ("chosen", "rejected")
    before = {k: training.log_probs(model, tokenizer, val, k) for k in sides}
    with tempfile.TemporaryDirectory() as tmp:
        trainer = DPOTrainer(
            model,
            args=config(p, len(train), tmp),
            train_dataset=Dataset.from_list(train),
            processing_class=tokenizer,
            peft_config=training.adapter(p.train, model),
            callbacks=[curves := training.curves(a.live, "dpo")],
        )
        trainer.remove_callback(PrinterCallback)
        curves.log(0, NOTHING_LEARNT)
        trainer.train()
        after = {k: training.log_probs(trainer.model, tokenizer, val, k) for k in sides}
        # reward of DPO: beta * (log p - log p of the reference), the reference being the model before
        rewards = {k: [p.dpo.beta * (x - y) for x, y in zip(after[k], before[k], strict=True)] for k in sides}
        reward = preference(rewards["chosen"], rewards["rejected"])
        curves.log(trainer.state.global_step, reward)
        curves.live.end()
        training.save(trainer.model, tokenizer, a.base, a.model, p.train)
    write_json(
        a.metrics,
        {
            "pairs": {"train": len(train), "val": len(val), "too_long": dropped + dropped_val},
            "steps": trainer.state.global_step,
            "val_reward": {
                "before": NOTHING_LEARNT,
                "after": reward,
            },
            "val_log_prob": {
                "before": preference(before["chosen"], before["rejected"]),
                "after": preference(after["chosen"], after["rejected"]),
            },
        },
    )


if __name__ == "__main__":
    run(main)
