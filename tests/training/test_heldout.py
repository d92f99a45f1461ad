"""Measures of held-out replies and pairs: known values, symmetries, intervals."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.cli import UserError
from stages.training import heldout


def rows(*each):
    return [np.array(r, dtype=float) for r in each]


def values(tree):
    """value and ci of every measure of a result."""
    for x in tree.values():
        if isinstance(x, dict):
            yield from [(x["value"], x["ci"])] if "ci" in x else values(x)


def test_loss_weighs_tokens_and_perplexity_is_its_exp():
    base = rows([-1, -3], [-2], [-4, -4, -4])  # 18 nats over 6 tokens
    sft = rows([-1, -1], [-1], [-3, -3, -3])  # 12 over 6
    found = heldout.replies({"base": base, "sft": sft}, ["a", "b", "c"], 500, 1)
    assert found["loss"]["base"]["value"] == 3.0 and found["loss"]["sft"]["value"] == 2.0
    assert found["loss"]["change"]["sft"]["value"] == -1.0
    assert found["perplexity"]["base"]["value"] == round(math.exp(3), 4)
    assert found["perplexity"]["change"]["sft"]["value"] == round(math.exp(2) - math.exp(3), 4)
    assert (found["rows"], found["conversations"]) == (3, 3)
    low, high = found["loss"]["base"]["ci"]
    assert 2.0 <= low < 3.0 < high <= 4.0, "the greatest and the least row bound it"
    assert found["perplexity"]["base"]["ci"] == pytest.approx([math.exp(low), math.exp(high)], rel=1e-3)


def test_a_change_is_paired():
    # rows differ much, the change hardly: unpaired, the interval of the change would be as wide as those of the losses
    base = rows(*([-float(i)] for i in range(1, 21)))
    sft = [r + 0.5 for r in base]
    found = heldout.replies({"base": base, "sft": sft}, [str(i) for i in range(20)], 500, 1)["loss"]
    assert found["base"]["ci"][1] - found["base"]["ci"][0] > 3
    assert found["change"]["sft"] == {"value": -0.5, "ci": [-0.5, -0.5]}


def test_rows_of_one_conversation_are_drawn_together():
    apart = rows(*([-1.0] for _ in range(10)), *([-3.0] for _ in range(10)))
    by_row = heldout.replies({"base": apart}, [str(i) for i in range(20)], 2000, 1)["loss"]["base"]["ci"]
    by_talk = heldout.replies({"base": apart}, ["a"] * 10 + ["b"] * 10, 2000, 1)["loss"]["base"]["ci"]
    assert by_talk == [1.0, 3.0], "two conversations: either may be drawn twice"
    assert 1.2 < by_row[0] < by_row[1] < 2.8


def test_one_conversation_has_no_interval():
    model = rows([-1.0], [-2.0])
    found = heldout.pairs({"sft": (model, model), "dpo": (model, model)}, 0.1, ["a", "a"], 100, 1)
    seen = list(values(found))
    assert len(seen) == 18 and all(ci is None for _, ci in seen)


def test_rewards_log_probs_and_drift_of_known_pairs():
    sft = (rows([-2, -2], [-1]), rows([-3], [-1, -1]))  # margins: -4 + 3 = -1, -1 + 2 = 1
    dpo = (rows([-1, -2], [-2]), rows([-5], [-1, -1]))  # chosen +1, -1; rejected -2, 0
    found = heldout.pairs({"sft": sft, "dpo": dpo}, 0.5, ["a", "b"], 200, 1)
    assert found["log_prob"]["accuracy"]["sft"]["value"] == 0.5
    assert found["log_prob"]["accuracy"]["dpo"]["value"] == 0.75, "2 and 0: a win and a tie"
    assert found["log_prob"]["margin"]["change"]["dpo"]["value"] == 1.0
    assert found["reward"]["accuracy"] == {"dpo": {"value": 0.5, "ci": [0.0, 1.0]}}, "rewards +3 and -1, times beta"
    assert found["reward"]["margin"]["dpo"]["value"] == 0.5
    drift = found["drift"]
    assert drift["chosen"]["dpo"]["shift"]["value"] == 0.0, "+1, 0 and -1 over three tokens ..."
    expected = ((math.e - 2) + (math.exp(-1) - 1 + 1)) / 3
    assert drift["chosen"]["dpo"]["k3"]["value"] == round(expected, 4), "... which k3 does not let cancel"
    assert drift["rejected"]["dpo"]["shift"]["value"] == round(-2 / 3, 4)


def test_three_models_are_compared_each_with_the_one_before():
    base, sft, dpo = ((rows([x], [x]), rows([-3], [-3])) for x in (-4.0, -3.0, -1.0))
    found = heldout.pairs({"base": base, "sft": sft, "dpo": dpo}, 1.0, ["a", "b"], 50, 1)
    assert {m: v["value"] for m, v in found["reward"]["margin"].items()} == {"sft": 1.0, "dpo": 2.0}
    assert found["log_prob"]["margin"]["base"]["value"] == -1.0
    assert [found["log_prob"]["accuracy"][m]["value"] for m in ("base", "sft", "dpo")] == [0.0, 0.5, 1.0]


def test_each_kind_of_pairs_by_itself():
    before = (rows([-1], [-1], [-1]), rows([-1], [-1], [-1]))
    after = (rows([-1], [-3], [-0.5]), rows([-2], [-2], [-2]))  # right, wrong, right
    models, more = {"sft": before, "dpo": after}, (0.5, ["a", "b", "c"], 50, 1)
    found = heldout.by_kind(models, ["misinformed", None, "misinformed"], *more)["kinds"]
    assert {kind: (k["rows"], k["reward"]["accuracy"]["dpo"]["value"]) for kind, k in found.items()} == {
        "misinformed": (2, 1.0), "uninformed": (1, 0.0)
    }  # fmt: skip
    whole = heldout.pairs(models, *more)["reward"]["margin"]["dpo"]["value"]
    parts = [k["rows"] * k["reward"]["margin"]["dpo"]["value"] for k in found.values()]
    assert sum(parts) / 3 == pytest.approx(whole, abs=1e-4)
    assert heldout.by_kind(models, [None] * 3, *more) == {}, "pairs of one kind say no kind"


def test_k3_estimates_the_kl_of_samples_of_the_model_before():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    drawn = np.random.default_rng(1).choice(3, size=100_000, p=p)
    before, after = [np.log(p[drawn])], [np.log(q[drawn])]
    found = heldout.pairs({"sft": (before, before), "dpo": (after, after)}, 0.1, ["a"], 1, 1)
    assert found["drift"]["chosen"]["dpo"]["k3"]["value"] == pytest.approx(float((p * np.log(p / q)).sum()), abs=0.003)


def test_a_model_that_diverged_is_named():
    sound, broken = rows([-1.0], [-2.0]), rows([-1.0], [math.nan])
    with pytest.raises(UserError, match=r"sft: .* held-out row 2 are not finite"):
        heldout.replies({"base": sound, "sft": broken}, ["a", "b"], 10, 1)
    with pytest.raises(UserError, match=r"dpo: .* held-out row 2 are not finite"):
        heldout.pairs({"sft": (sound, sound), "dpo": (sound, broken)}, 0.1, ["a", "b"], 10, 1)


def test_a_hopeless_model_has_finite_figures():
    fair, hopeless = rows([-1.0], [-2.0]), rows([-2000.0], [-3000.0])
    json.dumps(heldout.replies({"base": hopeless, "sft": fair}, ["a", "b"], 10, 1), allow_nan=False)
    found = heldout.pairs({"sft": (hopeless, fair), "dpo": (fair, hopeless)}, 0.1, ["a", "b"], 10, 1)
    json.dumps(found, allow_nan=False)
    assert found["log_prob"]["accuracy"]["dpo"]["value"] == 1.0


def test_models_of_other_rows_are_refused():
    with pytest.raises(ValueError):
        heldout.pairs({"sft": (rows([-1]), rows([-1])), "dpo": (rows([-1], [-1]), rows([-1]))}, 0.1, ["a"], 10, 1)


replies = st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=6), min_size=2, max_size=6).map(lambda r: rows(*r))


@pytest.mark.slow
@given(replies, replies, replies, st.integers(0, 9))
def test_what_holds_of_any_pairs(chosen, rejected, moved, seed):
    n = min(map(len, (chosen, rejected, moved)))
    chosen, rejected = chosen[:n], rejected[:n]
    after = [np.resize(m, c.shape) for m, c in zip(moved, chosen, strict=False)]
    clusters = [str(i) for i in range(n)]
    found = heldout.pairs({"sft": (chosen, rejected), "dpo": (after, rejected)}, 0.1, clusters, 50, seed)
    swapped = heldout.pairs({"sft": (rejected, chosen), "dpo": (rejected, after)}, 0.1, clusters, 50, seed)
    for kind in ("reward", "log_prob"):
        there, back = found[kind]["accuracy"]["dpo"]["value"], swapped[kind]["accuracy"]["dpo"]["value"]
        assert there + back == pytest.approx(1, abs=2e-4), "ties count half"
        assert found[kind]["margin"]["dpo"]["value"] == pytest.approx(-swapped[kind]["margin"]["dpo"]["value"], abs=2e-4)
    assert found["drift"]["chosen"]["dpo"]["k3"]["value"] >= 0
    assert found["drift"]["rejected"]["dpo"] == {"shift": {"value": 0, "ci": [0, 0]}, "k3": {"value": 0, "ci": [0, 0]}}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for value, ci in values(found):
        assert value == round(value, 4) and ci[0] <= ci[1]
