"""Extract pairs: from trees to training data in TRL's conversational format, and what that data is worth.

Every node with two replies gives one preference pair; its prompt is the exact message history of its path. Which reply is
chosen is the verifier's word where its two answers agree. Every preferred reply gives one SFT row. Each decision is measured
(quality.py), filtered as the params say, and written down with the reason it was kept or dropped. Train and validation share
no persona. Asks nothing; fails when the data does not meet `require`.

Run: python -m stages.extract_pairs (the arguments are in dvc.yaml)
"""

from collections import Counter

from stages.core import params, prompts
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, digest, write_json, write_jsonl
from stages.dialogue.tree import read_trees
from stages.pairs import measures
from stages.pairs.selection import balance, decide, label, pair_row, row_fault, sft_rows, unmet
from stages.pairs.settings import ExtractPairs


class Params(params.Section):
    """What this stage reads."""

    extract_pairs: ExtractPairs


def main() -> None:
    a = parser(
        __doc__,
        ["trees", "assistant-prompt"],
        ["sft-train", "sft-val", "pairs-train", "pairs-val", "decisions", "metrics"],
    ).parse_args()
    p = params.load("extract_pairs", Params).extract_pairs
    system = prompts.load(a.assistant_prompt).messages()
    trees = read_trees(a.trees)
    order = sorted(trees, key=lambda t: digest(p.seed, t["id"]))
    held = {t["id"] for t in order[: max(1, round(p.val_share * len(trees)))]}
    parts = {t["id"]: "val" if t["id"] in held else "train" for t in trees}
    by_tree = {t["id"]: decide(t, parts[t["id"]], p) for t in trees}
    decisions = [d for found in by_tree.values() for d in found]
    if p.balance_length is not None:
        for part in ("train", "val"):
            balance([d for d in decisions if d.part == part], p.balance_length, p.seed)
    data: dict[str, list[Record]] = {"sft_train": [], "sft_val": [], "pairs_train": [], "pairs_val": []}
    dropped: Counter[str] = Counter()
    for t in trees:
        faults = {d.turn.node: row_fault(d, p.filters) for d in by_tree[t["id"]]}
        dropped.update(f for f in faults.values() if f)
        data[f"sft_{parts[t['id']]}"] += sft_rows(t, system, faults)
        data[f"pairs_{parts[t['id']]}"] += [pair_row(t, d, system) for d in by_tree[t["id"]] if d.chosen]
    verifier = measures.verdict_measures([d.turn for d in decisions])
    kept = measures.pair_measures([(d.measures, d.chosen) for d in decisions if d.chosen])
    before = [(d.measures, label({"verdicts": d.turn.verdicts}, p.on_disagreement)[0] or "preferred") for d in decisions]
    write_jsonl(
        a.decisions,
        (
            {"tree": d.turn.tree, "node": d.turn.node, "chosen": d.chosen, "reason": d.reason, "measures": d.measures}
            for d in decisions
        ),
    )
    write_json(
        a.metrics,
        {
            "decisions": len(decisions),
            "kept": dict(sorted(Counter(f"{d.reason}_{d.chosen}" for d in decisions if d.chosen).items())),
            "dropped": dict(sorted(Counter(d.reason for d in decisions if not d.chosen).items())),
            "sft_rows_dropped": dict(sorted(dropped.items())),
            "rows": {k: len(v) for k, v in data.items()},
            "held_out": len(held),
            "verifier": verifier,
            "quality": kept,
            "quality_before_filters": measures.pair_measures(before),
        },
    )
    if wrong := unmet(kept, verifier, p.require):
        raise UserError(f"extract_pairs.require: {'; '.join(wrong)}; see {a.metrics} and {a.decisions}")
    if empty := [name for name, found in data.items() if not found]:
        raise UserError(f"{a.trees}: gives no rows for {', '.join(empty)}; see the reasons in {a.metrics}")
    for name, found in data.items():
        write_jsonl(getattr(a, name), found)


if __name__ == "__main__":
    run(main)
