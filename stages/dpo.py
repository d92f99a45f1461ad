"""DPO: preference optimisation of a model (`dpo.start`) on the pairs, against that model as reference.

Reads two models and pairs; writes a plain model folder with its GGUF, DVCLive curves and a summary.

Run: python -m stages.dpo (the arguments are in dvc.yaml)
"""

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import write_json
from stages.training.dataset import read
from stages.training.settings import Dpo, Train
from stages.weights import card, settings

KEYS = ("prompt", "chosen", "rejected")
# by definition, while policy and reference are one
NOTHING_LEARNT = {"eval_rewards/accuracy": 0.5, "eval_rewards/margin": 0.0}


class Params(params.Section):
    """What this stage reads."""

    dpo: Dpo
    train: Train
    base_model: settings.Origin


def main() -> None:
    a = parser(__doc__, ["start", "base", "train", "val"], ["model", "live", "metrics"], rounds=True).parse_args()
    p = params.load("dpo", Params, a.round)
    from transformers import set_seed

    from stages.training import heldout, model, trainer
    from stages.training.checkpoints import checkpoints, made_from
    from stages.training.curves import Curves
    from stages.training.saving import save

    trl = trainer.config("dpo", p.dpo, p.train)
    set_seed(p.dpo.seed)
    policy, tokenizer = model.load(a.start, p.train)
    how = (KEYS, tokenizer, p.train.max_length, p.train.too_long)
    (pairs, train_counts), (val, val_counts) = read(a.train, *how), read(a.val, *how)
    counts, held_out = {"train": train_counts, "val": val_counts}, (val, p.train, tokenizer.pad_token_id)
    with checkpoints(made_from("dpo", p, a.start, a.train)) as folder:
        trl.output_dir = str(folder)
        log_probs = {}
        if a.start != a.base:
            log_probs["base"] = model.pair_log_probs(model.load(a.base, p.train)[0], *held_out, spread=True)
        log_probs[a.start.name] = model.pair_log_probs(policy, *held_out, spread=True)
        pairs = model.with_reference(policy, pairs, p.train, tokenizer.pad_token_id)
        curves = Curves(a.live, "dpo")
        curves.log(0, NOTHING_LEARNT)
        trained = trainer.fit(policy, tokenizer, pairs, trl, p.train, curves)
        log_probs[a.model.name] = model.pair_log_probs(trained.model, *held_out)
        how_measured = p.dpo.beta, [row["conversation"] for row in val], p.train.resamples, p.dpo.seed
        measured = heldout.pairs(log_probs, *how_measured)
        measured |= heldout.by_kind(log_probs, [row.get("kind") for row in val], *how_measured)
        result = {"pairs": counts, "steps": trained.state.global_step, "moved": trained.moved, "val": measured}
        curves.log(result["steps"], {f"eval_rewards/{k}": v[a.model.name]["value"] for k, v in measured["reward"].items()})
        inputs, declared = [a.base, a.start, a.train, a.val], params.declared_values("dpo", a.round)
        readme = card.card("dpo", a.base, p.base_model, inputs, declared, {"pairs": counts}, measured)
        save(trained, tokenizer, a.base, a.model, p.train, readme)
        if trained.is_world_process_zero():
            curves.live.end()
            write_json(a.metrics, result)


if __name__ == "__main__":
    run(main)
