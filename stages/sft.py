"""SFT: supervised fine-tuning of the base model on the preferred replies, loss on the reply only.

Reads models/base and data/sft; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.sft (the arguments are in dvc.yaml)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import Record, write_json
from stages.training import mix
from stages.training.dataset import read, supervised
from stages.training.settings import Sft, Train
from stages.weights import card, settings

if TYPE_CHECKING:
    from stages.training.trainer import LogProbs


class Params(params.Section):
    """What this stage reads."""

    sft: Sft
    train: Train
    base_model: settings.Origin


def config(p: Params, rows: int, folder: Path) -> Any:
    """TRL's settings. `rows` to train on, `folder` for checkpoints."""
    from trl import SFTConfig

    from stages.training import trainer as trainers

    return SFTConfig(**trainers.arguments(p.sft, p.train, rows, folder, "sft"), completion_only_loss=True)


def main() -> None:
    a = parser(__doc__, ["base", "train", "val", "mix"], ["model", "live", "metrics"]).parse_args()
    p = params.load("sft", Params)
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from stages.training import heldout
    from stages.training import trainer as trainers
    from stages.training.checkpoints import checkpoints, made_from
    from stages.training.curves import curves as live_curves
    from stages.training.saving import save

    set_seed(p.sft.seed)
    model, tokenizer = trainers.load(a.base, p.train)
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

    kind = trainers.exact(SFTTrainer, rows, p.sft.batch_size, p.sft.seed, shared=p.train.rows == "shared")
    with checkpoints(made_from("sft", p, a.base, a.train, *others)) as folder:
        settings = config(p, len(rows), folder)  # first: it sets up what processes there are
        seen["base"] = trainers.log_probs(model, held_out, p.train, pad, spread=True)
        trainer = kind(
            model,
            settings,
            train_dataset=Dataset.from_list(supervised(rows, "completion")),
            data_collator=trainers.collator(p.train, pad),
            processing_class=tokenizer,
            peft_config=trainers.adapter(p.train, model),
            callbacks=[curves := live_curves(a.live, "sft")],
        )
        trainer.remove_callback(PrinterCallback)
        curves.log(0, {"eval_loss": measured()["loss"]["base"]["value"]})
        trainers.fit(trainer, folder, "sft")
        seen["sft"] = trainers.log_probs(trainer.model, held_out, p.train, pad)
        curves.log(trainer.state.global_step, {"eval_loss": measured()["loss"]["sft"]["value"]})
        inputs, declared = [a.base, a.train, a.val, *others], params.declared_values("sft")
        readme = card.card("sft", a.base, p.base_model, inputs, declared, {"rows": counted}, measured())
        save(trainer, tokenizer, a.base, a.model, p.train, folder, readme)
        if trainer.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, {"rows": counted, "steps": trainer.state.global_step, "val": measured()})


if __name__ == "__main__":
    run(main)
