"""SFT: supervised fine-tuning of the base model on the preferred replies, loss on the reply only.

Reads models/base and data/sft; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.sft (the arguments are in dvc.yaml)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import params
from stages.common.errors import parser, run
from stages.common.launch import launched
from stages.common.records import write_json
from stages.common.rows import read, supervised
from stages.common.training import Train

if TYPE_CHECKING:
    from stages.common.training import LogProbs


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


def config(p: Params, rows: int, folder: Path) -> Any:
    """TRL's settings. `rows` to train on, `folder` for checkpoints."""
    from trl import SFTConfig

    from stages.common import training

    return SFTConfig(**training.arguments(p.sft, p.train, rows, folder, "sft"), completion_only_loss=True)


def loss(values: "LogProbs") -> float:
    """Mean negative log-probability of a token."""
    return -sum(float(v.sum()) for v in values) / sum(len(v) for v in values)


def main() -> None:
    a = parser(__doc__, ["base", "train", "val"], ["model", "live", "metrics"]).parse_args()
    p = params.load("sft", Params)
    if launched(p.train.accelerate_config, "stages.sft"):
        return
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from stages.common import training

    set_seed(p.sft.seed)
    model, tokenizer = training.load(a.base, p.train)
    rows, counts = {}, {}
    for part, path in (("train", a.train), ("val", a.val)):
        keys = ("prompt", "completion")
        rows[part], counts[part] = read(path, keys, tokenizer, p.train.max_length, p.train.too_long)
    val = supervised(rows["val"], "completion")
    before = training.log_probs(model, val, p.train, tokenizer.pad_token_id, spread=True)
    train = rows["train"]
    kind = training.exact(SFTTrainer, train, p.sft.batch_size, p.sft.seed, shared=p.train.rows == "shared")
    with training.checkpoints(training.made_from("sft", p, a.base, a.train)) as folder:
        trainer = kind(
            model,
            config(p, len(train), folder),
            train_dataset=Dataset.from_list(supervised(train, "completion")),
            data_collator=training.collator(p.train, tokenizer.pad_token_id),
            processing_class=tokenizer,
            peft_config=training.adapter(p.train, model),
            callbacks=[curves := training.curves(a.live, "sft")],
        )
        trainer.remove_callback(PrinterCallback)
        curves.log(0, {"eval_loss": loss(before)})
        training.fit(trainer, folder, "sft")
        after = training.log_probs(trainer.model, val, p.train, tokenizer.pad_token_id)
        curves.log(trainer.state.global_step, {"eval_loss": loss(after)})
        training.save(trainer, tokenizer, a.base, a.model, p.train, folder)
        if trainer.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, {"rows": counts, "steps": trainer.state.global_step})


if __name__ == "__main__":
    run(main)
