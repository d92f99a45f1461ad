"""Extract pairs: from trees to training data in TRL's conversational format, with measures of that data's quality.

Every node with two replies gives one preference pair; its prompt is the exact message history of its path. The chosen reply
is the one of the verifier's verdicts where the two agree. Every preferred reply gives one SFT row. Groups of users add
rows that only the history tells apart (pairs/crossed.py). Each decision is measured
(pairs/measures.py), filtered as the params say, and written down with the reason it was kept or dropped. Train and
validation share no persona. Asks nothing; fails when the data does not meet `require`.

Run: python -m stages.extract_pairs (the arguments are in dvc.yaml)
"""

from stages.core import params, prompts
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, write_json, write_jsonl
from stages.dialogue.measures import disclosure
from stages.dialogue.tree import read_trees
from stages.pairs import crossed
from stages.pairs.quality import summary, unmet
from stages.pairs.rows import held_out, training_data
from stages.pairs.selection import Decision, balance, decide
from stages.pairs.settings import ExtractPairs


class Params(params.Section):
    """What this stage reads."""

    extract_pairs: ExtractPairs


def decided(trees: list[Record], held: set[str], p: ExtractPairs) -> dict[str, list[Decision]]:
    """Decisions by tree id, with train and validation balanced by length, each for itself."""
    by_tree = {t["id"]: decide(t, p) for t in trees}
    if p.balance_length is not None:
        for validation in (False, True):
            part = [d for tree, decisions in by_tree.items() if (tree in held) == validation for d in decisions]
            balance(part, p.balance_length, p.seed)
    return by_tree


def main() -> None:
    outputs = ["sft-train", "sft-val", "pairs-train", "pairs-val", "decisions", "metrics"]
    a = parser(__doc__, ["trees", "more-trees", "groups", "assistant-prompt"], outputs, rounds=True).parse_args()
    p = params.load("extract_pairs", Params, a.round).extract_pairs
    trees = read_trees(a.trees, a.more_trees)
    held = held_out(trees, p.val_share, p.seed)
    by_tree = decided(trees, held, p)
    system = prompts.load(a.assistant_prompt).messages()
    data, dropped = training_data(trees, by_tree, held, system, p.filters)
    groups = crossed.drawn(crossed.read(a.groups), p.most_groups, p.seed)
    added = {"crossed": crossed.add_rows(data, groups, system, p.val_share)} if groups else {}
    decisions = [d for found in by_tree.values() for d in found]
    measured = summary(decisions, p.on_disagreement)
    counts = {
        "sft_rows_dropped": dict(sorted(dropped.items())),
        "rows": {name: len(found) for name, found in data.items()},
        "held_out": len(held),
        **added,
    }
    write_jsonl(a.decisions, (d.record() for d in decisions))
    write_json(a.metrics, {**measured, **counts, "disclosure": disclosure(trees)})
    if wrong := unmet(measured, p.require):
        raise UserError(f"extract_pairs.require: {'; '.join(wrong)}; see {a.metrics} and {a.decisions}")
    if empty := [name for name, found in data.items() if not found]:
        raise UserError(f"{a.trees}: gives no rows for {', '.join(empty)}; see the reasons in {a.metrics}")
    for name, found in data.items():
        write_jsonl(getattr(a, name), found)


if __name__ == "__main__":
    run(main)
