"""SFT: supervised fine-tuning of the base model on the preferred replies, loss on the reply only.

Reads models/base and data/sft; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.sft (the arguments are in dvc.yaml)
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import Record, write_json
from stages.training.dataset import mixed, read, supervised
from stages.training.settings import Sft, Train
from stages.weights import card, settings

KEYS = ("prompt", "completion")


class Params(params.Section):
    """What this stage reads."""

    sft: Sft
    train: Train
    base_model: settings.Origin


def datasets(a: Namespace, p: Params, others: Sequence[Path], tokenizer: Any) -> tuple[list[Record], list[Record], Record]:
    """(training rows with those of `others` among them, held-out rows, counts)."""
    how = (KEYS, tokenizer, p.train.max_length, p.train.too_long)
    (own, counts), (val, val_counts) = read(a.train, *how), read(a.val, *how)
    rows = mixed(own, {path: read(path, *how)[0] for path in others}, p.sft.mix, p.sft.seed)
    return rows, val, {"train": {**counts, "mixed": len(rows) - len(own)}, "val": val_counts}


def main() -> None:
    a = parser(__doc__, ["base", "train", "val", "mix"], ["model", "live", "metrics"]).parse_args()
    p = params.load("sft", Params)
    from transformers import set_seed

    from stages.training import heldout, model, trainer
    from stages.training.checkpoints import checkpoints, made_from
    from stages.training.curves import Curves
    from stages.training.saving import save

    trl, others = trainer.config("sft", p.sft, p.train), [a.mix / f"{name}.jsonl" for name in p.sft.mix]
    set_seed(p.sft.seed)
    policy, tokenizer = model.load(a.base, p.train)
    rows, val, counts = datasets(a, p, others, tokenizer)
    held_out = supervised(val, "completion"), p.train, tokenizer.pad_token_id

    def measured(log_probs: Record) -> Record:
        return heldout.replies(log_probs, [row["conversation"] for row in val], p.train.resamples, p.sft.seed)

    with checkpoints(made_from("sft", p, a.base, a.train, *others)) as folder:
        trl.output_dir = str(folder)
        log_probs = {"base": model.log_probs(policy, *held_out, spread=True)}
        curves = Curves(a.live, "sft")
        curves.log(0, {"eval_loss": measured(log_probs)["loss"]["base"]["value"]})
        trained = trainer.fit(policy, tokenizer, supervised(rows, "completion"), trl, p.train, curves)
        log_probs["sft"] = model.log_probs(trained.model, *held_out)
        result = {"rows": counts, "steps": trained.state.global_step, "moved": trained.moved, "val": measured(log_probs)}
        curves.log(result["steps"], {"eval_loss": result["val"]["loss"]["sft"]["value"]})
        inputs, declared = [a.base, a.train, a.val, *others], params.declared_values("sft")
        readme = card.card("sft", a.base, p.base_model, inputs, declared, {"rows": counts}, result["val"])
        save(trained, tokenizer, a.base, a.model, p.train, readme)
        if trained.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, result)


if __name__ == "__main__":
    run(main)
