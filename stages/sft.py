"""SFT: supervised fine-tuning of the base model on the preferred replies, loss on the reply only.

Reads models/base and data/sft; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.sft (the arguments are in dvc.yaml)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import card, mix, params
from stages.common.errors import parser, run
from stages.common.records import Record, write_json
from stages.common.rows import read, supervised
from stages.common.training import Train

if TYPE_CHECKING:
    from stages.common.training import LogProbs


@dataclass
class Sft:
    """Section `sft`. `train_file`, `val_file`: data/ of this pipeline, or TRL-format rows of your own.
    `batch_size` rows at once, times `accumulation` a step. `mix`: share of the training rows by name of a file (mix.py)."""

    seed: int
    train_file: str
    val_file: str
    epochs: float
    learning_rate: float
    batch_size: int
    accumulation: int
    warmup_share: float
    scheduler: str
    mix: dict[str, float]

    def __post_init__(self) -> None:
        params.require(
            (self.epochs > 0, f"epochs: {self.epochs} is not above 0"),
            (self.learning_rate > 0, f"learning_rate: {self.learning_rate} is not above 0"),
            (self.batch_size >= 1, f"batch_size: {self.batch_size} is not at least 1"),
            (self.accumulation >= 1, f"accumulation: {self.accumulation} is not at least 1"),
            *mix.checks(self.mix),
        )


@dataclass
class Params:
    """What this stage reads."""

    sft: Sft
    train: Train
    base_model: card.Origin


def config(p: Params, rows: int, folder: Path) -> Any:
    """TRL's settings. `rows` to train on, `folder` for checkpoints."""
    from trl import SFTConfig

    from stages.common import training

    return SFTConfig(**training.arguments(p.sft, p.train, rows, folder, "sft"), completion_only_loss=True)


def main() -> None:
    a = parser(__doc__, ["base", "train", "val", "mix"], ["model", "live", "metrics"]).parse_args()
    p = params.load("sft", Params)
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from stages.common import heldout, training

    set_seed(p.sft.seed)
    model, tokenizer = training.load(a.base, p.train)
    pad = tokenizer.pad_token_id

    def tokens(path: Path, **how: Any) -> tuple[list[Record], Record]:
        return read(path, ("prompt", "completion"), tokenizer, p.train.max_length, p.train.too_long, **how)

    (own, counts), (val, val_counts) = tokens(a.train), tokens(a.val)
    others = {path: tokens(path, lines=mix.read)[0] for path in (mix.source(a.mix, name) for name in p.sft.mix)}
    rows = mix.mixed(own, others, p.sft.mix, p.sft.seed)
    counted = {"train": {**counts, "mixed": len(rows) - len(own)}, "val": val_counts}
    held_out = supervised(val, "completion")
    seen: dict[str, LogProbs] = {}

    def measured() -> Record:
        return heldout.replies(seen, [row["conversation"] for row in val], p.train.resamples, p.sft.seed)

    kind = training.exact(SFTTrainer, rows, p.sft.batch_size, p.sft.seed, shared=p.train.rows == "shared")
    with training.checkpoints(training.made_from("sft", p, a.base, a.train, *others)) as folder:
        settings = config(p, len(rows), folder)  # first: it sets up what processes there are
        seen["base"] = training.log_probs(model, held_out, p.train, pad, spread=True)
        trainer = kind(
            model,
            settings,
            train_dataset=Dataset.from_list(supervised(rows, "completion")),
            data_collator=training.collator(p.train, pad),
            processing_class=tokenizer,
            peft_config=training.adapter(p.train, model),
            callbacks=[curves := training.curves(a.live, "sft")],
        )
        trainer.remove_callback(PrinterCallback)
        curves.log(0, {"eval_loss": measured()["loss"]["base"]["value"]})
        training.fit(trainer, folder, "sft")
        seen["sft"] = training.log_probs(trainer.model, held_out, p.train, pad)
        curves.log(trainer.state.global_step, {"eval_loss": measured()["loss"]["sft"]["value"]})
        inputs, declared = [a.base, a.train, a.val, *others], params.declared_values("sft")
        readme = card.card("sft", a.base, p.base_model, inputs, declared, {"rows": counted}, measured())
        training.save(trainer, tokenizer, a.base, a.model, p.train, folder, readme)
        if trainer.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, {"rows": counted, "steps": trainer.state.global_step, "val": measured()})


if __name__ == "__main__":
    run(main)
