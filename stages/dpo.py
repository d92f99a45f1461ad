"""DPO: preference optimisation of the SFT model on the pairs, against the SFT model as reference.

Reads models/sft and data/pairs; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.dpo (the arguments are in dvc.yaml)
"""

import re
from typing import TYPE_CHECKING, Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json
from stages.training.dataset import read, supervised
from stages.training.settings import Dpo, Train
from stages.weights import card, settings

if TYPE_CHECKING:
    from stages.core.statistics import Array

SIDES = ("chosen", "rejected")
# by definition, while policy and reference are one
NOTHING_LEARNT = {"eval_rewards/accuracy": 0.5, "eval_rewards/margin": 0.0}


class Params(params.Section):
    """What this stage reads."""

    dpo: Dpo
    train: Train
    base_model: settings.Origin


def config(p: Params) -> Any:
    """TRL's configuration. Raises UserError for a loss that TRL has not."""
    from trl import DPOConfig

    from stages.training import trainer

    # TRL names its losses in this text, and else in the error of the first step
    known = re.findall(r"'(\w+)'", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    for loss in p.dpo.loss_type:
        if known and loss not in known:
            raise UserError(f"params.yaml: dpo.loss_type: {loss!r} is none of {', '.join(known)}{params.near(loss, known)}")
    # the reference is the model itself before it is changed, so its log-probabilities are computed once for each pair
    return trainer.config(DPOConfig, "dpo", p.dpo, p.train, precompute_ref_log_probs=True)


def both_sides(model: Any, pairs: list[Record], p: Params, pad: int, *, spread: bool = False) -> "list[list[Array]]":
    """log p of each token of the chosen and of the rejected replies: siblings are computed together."""
    from stages.training.model import log_probs

    rows = [row for pair in zip(*(supervised(pairs, side) for side in SIDES), strict=True) for row in pair]
    found = log_probs(model, rows, p.train, pad, spread=spread)
    return [found[::2], found[1::2]]


def with_reference(pairs: list[Record], log_probs: "list[list[Array]]") -> list[Record]:
    """`pairs` with the reference's log-probabilities of both replies, under TRL's names."""
    return [
        {**row, **{f"ref_{side}_logps": float(tokens.sum()) for side, tokens in zip(SIDES, both, strict=True)}}
        for row, both in zip(pairs, zip(*log_probs, strict=True), strict=True)
    ]


def measures(log_probs: "dict[str, list[list[Array]]]", val: list[Record], p: Params) -> Record:
    """Measures of models on the held-out pairs, and on their chosen replies alone."""
    from stages.training import heldout

    draws = ([row["conversation"] for row in val], p.train.resamples, p.dpo.seed)
    chosen = {name: sides[0] for name, sides in log_probs.items()}
    return heldout.pairs(log_probs, p.dpo.beta, *draws) | heldout.replies(chosen, *draws)


def main() -> None:
    a = parser(__doc__, ["sft", "base", "train", "val"], ["model", "live", "metrics"]).parse_args()
    p = params.load("dpo", Params)
    from transformers import set_seed

    from stages.training import trainer
    from stages.training.checkpoints import checkpoints, made_from
    from stages.training.curves import Curves
    from stages.training.model import load
    from stages.training.saving import save

    trl = config(p)
    set_seed(p.dpo.seed)
    policy, tokenizer = load(a.sft, p.train)
    how, pad = (("prompt", *SIDES), tokenizer, p.train.max_length, p.train.too_long), tokenizer.pad_token_id
    (pairs, train_counts), (val, val_counts) = read(a.train, *how), read(a.val, *how)
    counts = {"train": train_counts, "val": val_counts}
    with checkpoints(made_from("dpo", p, a.sft, a.train)) as folder:
        trl.output_dir = str(folder)
        log_probs = {"base": both_sides(load(a.base, p.train)[0], val, p, pad, spread=True)}
        log_probs["sft"] = both_sides(policy, val, p, pad, spread=True)
        pairs = with_reference(pairs, both_sides(policy, pairs, p, pad, spread=True))
        curves = Curves(a.live, "dpo")
        curves.log(0, NOTHING_LEARNT)
        trained = trainer.fit(trainer.Dpo, policy, tokenizer, pairs, trl, p.train, curves)
        log_probs["dpo"] = both_sides(trained.model, val, p, pad)
        result = {"pairs": counts, "steps": trained.state.global_step, "val": measures(log_probs, val, p)}
        rewards = {f"eval_rewards/{k}": v["dpo"]["value"] for k, v in result["val"]["reward"].items()}
        curves.log(result["steps"], rewards)
        inputs, declared = [a.base, a.sft, a.train, a.val], params.declared_values("dpo")
        readme = card.card("dpo", a.base, p.base_model, inputs, declared, {"pairs": counts}, result["val"])
        save(trained, tokenizer, a.base, a.model, p.train, readme)
        if trained.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, result)


if __name__ == "__main__":
    run(main)
