"""Rows: exact histories, which reply is chosen, and a split that shares no persona."""

from fakes import YAML, section
from trees import a_tree, planted

from stages.pairs.rows import held_out, pair_row, sft_rows, training_data
from stages.pairs.selection import decide
from stages.pairs.settings import ExtractPairs

SYSTEM = [{"role": "system", "content": "S"}]
OFF = {name: None for name in YAML["extract_pairs"]["filters"]} | {"names_inference": False, "confused": False}
P = section(ExtractPairs, "extract_pairs", on_disagreement="drop", filters=OFF)


def test_the_prompt_is_the_exact_path_and_the_chosen_reply_the_verifiers():
    t = a_tree()
    pairs = [pair_row(t, d, SYSTEM) for d in decide(t, P) if d.chosen]
    assert [p["chosen"] for p in pairs] == [
        [{"role": "assistant", "content": "preferred 1 of 0"}], [{"role": "assistant", "content": "rejected 2 of 0"}]
    ]  # fmt: skip
    assert [p["rejected"][0]["content"] for p in pairs] == ["rejected 1 of 0", "preferred 2 of 0"]
    assert pairs[1]["prompt"] == [
        *SYSTEM,
        {"role": "user", "content": "U1 of 0"},
        {"role": "assistant", "content": "rejected 1 of 0"},
        {"role": "user", "content": "U2 of 0"},
    ]


def test_every_preferred_reply_without_a_fault_is_an_sft_row():
    rows = sft_rows(a_tree(), SYSTEM, {})
    assert [r["completion"][0]["content"] for r in rows] == [f"preferred {n} of 0" for n in (1, 2, 3)]
    assert [m["content"] for m in rows[2]["prompt"]] == [
        "S", "U1 of 0", "rejected 1 of 0", "U2 of 0", "preferred 2 of 0", "U3 of 0",
    ]  # fmt: skip
    assert sft_rows(a_tree(), SYSTEM, {"u/r/u": "loops"}) == [rows[0], rows[2]]


def test_the_held_out_trees_are_a_draw_of_their_own_and_at_least_one():
    trees = [{"id": f"t{n}"} for n in range(10)]
    held = held_out(trees, 0.2, 1)
    assert len(held) == 2 and held == held_out(trees[::-1], 0.2, 1) < held_out(trees, 0.5, 1)
    assert len({frozenset(held_out(trees, 0.2, seed)) for seed in range(9)}) > 1
    assert len(held_out(trees, 0.01, 1)) == 1


def test_train_and_validation_share_no_tree():
    trees = [a_tree(n) for n in range(10)]
    held = held_out(trees, 0.2, 1)
    data, dropped = training_data(trees, {t["id"]: decide(t, P) for t in trees}, held, SYSTEM, P.filters)
    for kind, number in (("pairs", 2), ("sft", 3)):
        who = [{row["prompt"][1]["content"].split()[-1] for row in data[f"{kind}_{part}"]} for part in ("train", "val")]
        assert {f"t{n}" for n in who[1]} == held and len(who[0]) == 8 and not who[0] & who[1]
        assert len(data[f"{kind}_val"]) == 2 * number
    assert not dropped


def test_a_faulty_preferred_reply_is_not_imitated_either():
    def spoil(user, preferred, rejected):
        preferred["text"] = "go home and rest " * 8

    trees, p = (
        [planted(n, 2, spoil) for n in range(4)],
        P.model_copy(update={"filters": P.filters.model_copy(update={"repetition": 0.5})}),
    )
    data, dropped = training_data(trees, {t["id"]: decide(t, p) for t in trees}, set(), SYSTEM, p.filters)
    assert dropped == {"repetition": 2} and len(data["sft_train"]) == len(data["pairs_train"]) == 2
