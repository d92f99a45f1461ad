"""DPO: preference optimisation of the SFT model on the pairs, against the SFT model as reference.

Reads models/sft and data/pairs; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.dpo (the arguments are in dvc.yaml)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import Record, write_json
from stages.training.dataset import read, supervised
from stages.training.settings import Dpo, Train
from stages.weights import card, settings

if TYPE_CHECKING:
    from stages.training.trainer import LogProbs

SIDES = ("chosen", "rejected")
# by definition, while policy and reference are one
NOTHING_LEARNT = {"eval_rewards/accuracy": 0.5, "eval_rewards/margin": 0.0}


class Params(params.Section):
    """What this stage reads."""

    dpo: Dpo
    train: Train
    base_model: settings.Origin


def config(p: Params, rows: int, folder: Path) -> Any:
    """TRL's settings. `rows` to train on, `folder` for checkpoints."""
    from trl import DPOConfig

    from stages.training import trainer as trainers

    return DPOConfig(
        **trainers.arguments(p.dpo, p.train, rows, folder, "dpo"),
        beta=p.dpo.beta,
        loss_type=[p.dpo.loss_type],
        label_smoothing=p.dpo.label_smoothing,
        discopop_tau=p.dpo.discopop_tau,
        precompute_ref_log_probs=True,  # once for each pair, by the model itself before it is changed
    )


def both_sides(model: Any, pairs: list[Record], p: Params, pad: int, *, spread: bool = False) -> "list[LogProbs]":
    """log p of each token of the chosen and of the rejected replies: siblings are computed together."""
    from stages.training import trainer as trainers

    rows = [row for pair in zip(*(supervised(pairs, side) for side in SIDES), strict=True) for row in pair]
    found = trainers.log_probs(model, rows, p.train, pad, spread=spread)
    return [found[::2], found[1::2]]


def main() -> None:
    a = parser(__doc__, ["sft", "base", "train", "val"], ["model", "live", "metrics"]).parse_args()
    p = params.load("dpo", Params)
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import DPOTrainer

    from stages.training import heldout
    from stages.training import trainer as trainers
    from stages.training.checkpoints import checkpoints, made_from
    from stages.training.curves import curves as live_curves
    from stages.training.saving import save

    set_seed(p.dpo.seed)
    model, tokenizer = trainers.load(a.sft, p.train)
    pad = tokenizer.pad_token_id

    def tokens(path: Path) -> tuple[list[Record], Record]:
        return read(path, ("prompt", *SIDES), tokenizer, p.train.max_length, p.train.too_long)

    (pairs, counts), (val, val_counts) = tokens(a.train), tokens(a.val)
    kind = trainers.exact(DPOTrainer, pairs, p.dpo.batch_size, p.dpo.seed, shared=p.train.rows == "shared")
    with checkpoints(made_from("dpo", p, a.sft, a.train)) as folder:
        settings = config(p, len(pairs), folder)  # first: it sets up what processes there are
        base, _ = trainers.load(a.base, p.train)
        seen = {name: both_sides(m, val, p, pad, spread=True) for name, m in (("base", base), ("sft", model))}
        del base
        for side, values in zip(SIDES, both_sides(model, pairs, p, pad, spread=True), strict=True):
            for row, value in zip(pairs, values, strict=True):
                row[f"ref_{side}_logps"] = float(value.sum())
        trainer = kind(
            model,
            args=settings,
            train_dataset=Dataset.from_list(pairs),
            data_collator=trainers.collator(p.train, pad),
            processing_class=tokenizer,
            peft_config=trainers.adapter(p.train, model),
            callbacks=[curves := live_curves(a.live, "dpo")],
        )
        trainer.remove_callback(PrinterCallback)
        curves.log(0, NOTHING_LEARNT)
        trainers.fit(trainer, folder, "dpo")
        seen["dpo"] = both_sides(trainer.model, val, p, pad)
        drawn = ([row["conversation"] for row in val], p.train.resamples, p.dpo.seed)
        measured = heldout.pairs(seen, p.dpo.beta, *drawn)
        measured |= heldout.replies({name: sides[0] for name, sides in seen.items()}, *drawn)
        rewards = {f"eval_rewards/{k}": v["dpo"]["value"] for k, v in measured["reward"].items()}
        curves.log(trainer.state.global_step, rewards)
        counted, declared = {"train": counts, "val": val_counts}, params.declared_values("dpo")
        inputs = [a.base, a.sft, a.train, a.val]
        readme = card.card("dpo", a.base, p.base_model, inputs, declared, {"pairs": counted}, measured)
        save(trainer, tokenizer, a.base, a.model, p.train, folder, readme)
        if trainer.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, {"pairs": counted, "steps": trainer.state.global_step, "val": measured})


if __name__ == "__main__":
    run(main)
