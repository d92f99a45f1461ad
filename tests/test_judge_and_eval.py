"""Metrics and eval."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stages.common import metrics
from stages.common.table import table

scores = st.lists(st.floats(1, 5), min_size=2, max_size=12)


@given(scores)
def test_r2_of_al_and_of_normalised_al_are_equal(al):
    assume(max(al) - min(al) > 1e-6)
    y = np.asarray(al)
    normal = (y - y.min()) / (y.max() - y.min())
    a, n = metrics.improvement(y), metrics.improvement(normal)
    assert a["r2"] == pytest.approx(n["r2"], abs=1e-6) and a["n_ir"] == pytest.approx(n["ir"], abs=1e-6)


@given(st.lists(st.floats(1, 5), min_size=10, max_size=10))
def test_bound_of_n_ir_at_ten_turns(al):
    n_ir = metrics.improvement(al)["n_ir"]
    assert n_ir is None or abs(n_ir) <= 0.1516


def test_linear_rise_and_flat_curve():
    rise = metrics.improvement(np.linspace(2, 4, 10))
    assert rise["n_ir"] == pytest.approx(1 / 9) and rise["r2"] == pytest.approx(1) and rise["ir"] == pytest.approx(2 / 9)
    assert metrics.improvement([3.0] * 10) == {"ir": 0.0, "n_ir": None, "r2": None}
    assert metrics.improvement([3.0]) == {"ir": None, "n_ir": None, "r2": None}


def test_missing_turns_and_cases_are_left_out():
    scores = np.array([[1, 2, np.nan], [3, np.nan, np.nan]])
    assert metrics.alignment(scores)[:2].tolist() == [2, 2] and np.isnan(metrics.alignment(scores)[2])
    assert metrics.improvement(metrics.alignment(scores))["ir"] == 0.0


def test_bootstrap_draws_whole_profiles():
    weights = metrics.resamples(["a", "a", "b", "c"], 500, seed=1)
    assert weights.shape == (500, 4) and (weights[:, 0] == weights[:, 1]).all()
    assert set((weights[:, 0] + weights[:, 2] + weights[:, 3]).tolist()) == {3}
    scores = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 1.0], [2.0, 2.0]])
    drawn = metrics.resampled_alignment(scores, weights)
    by_hand = [np.average(scores[:, 0], weights=w) for w in weights]
    assert np.allclose(drawn[:, 0], by_hand)


def judgements(project, name, rise, missing=()):
    rows = [
        {"id": f"c{c}", "turn": k, "profile": f"p{c // 2}", "raw": "x",
         "score": None if (c, k) in missing else min(5, 1 + rise * k + c % 2)}
        for c in range(6) for k in range(1, 5)
    ]  # fmt: skip
    path = project.folder / f"data/judgements/{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


PEOPLE = [
    "I mend fishing nets in Ghana.", "I drive a tram in Lodz.", "I herd goats in Mongolia.", "I carve puppets in Java.",
    "I farm wheat in Canada.", "I deliver meals in Lima.",
]  # fmt: skip


def conversations(project, name, reply):
    """Six cases of four turns; `reply(person, turn)` is what the model says."""
    rows = [
        {"id": f"c{c}", "profile": person, "personality": "I am shy, loud, and kind.", "ended": None,
         "turns": [{"turn": k, "item": 0, "user": f"{person} And {k}?", "reply": reply(person, k)} for k in range(1, 5)]}
        for c, person in enumerate(PEOPLE)
    ]  # fmt: skip
    path = project.folder / f"data/conversations/{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_eval_reports_every_model_and_what_it_gained(project):
    for name, rise in (("base", 0.25), ("sft", 0.5), ("dpo", 0.75), ("oracle", 0)):
        judgements(project, name, rise, missing=[(0, 2)] if name == "sft" else ())
    replies = {
        "base": lambda person, k: "You are right, that is a wonderful question.",  # flattery that fits anybody
        "sft": lambda person, k: person if k == 4 else "Take a walk.",  # adapts in the end
        "dpo": lambda person, k: f"You say: {person}",  # adapts at once
        "oracle": lambda person, k: PEOPLE[(PEOPLE.index(person) + 1) % 6],  # adapts to somebody else
    }
    for name, reply in replies.items():
        conversations(project, name, reply)
    done = project.run("eval")
    result = json.loads((project.folder / "results/eval.json").read_text())
    m = result["models"]
    assert result["scale"] == "1-5" and len(result["protocol"]["prompts_sha256"]) == 4
    assert m["dpo"]["ir"] > m["sft"]["ir"] > m["base"]["ir"] == pytest.approx(0.25)
    assert m["base"]["n_ir"] == pytest.approx(1 / 3, abs=1e-6) and m["oracle"]["n_ir"] is None
    assert m["sft"]["unscored"] == 1 and m["base"]["unscored"] == 0
    gain = result["vs_base"]["dpo"]
    assert gain["difference"] == pytest.approx(1.25) and gain["ci"][0] > 0
    assert "base" not in result["vs_base"]
    assert done.stdout.strip() == table(result)
    seen = {n: r["recognition"]["mrr"] for n, r in m.items()}
    assert seen["dpo"] == [1.0] * 4 and m["dpo"]["recognition"]["top1"] == [1.0] * 4
    assert seen["sft"][3] == 1.0 and seen["sft"][0] < 0.6 and max(seen["base"]) < 0.6 and max(seen["oracle"]) < 0.6
    assert result["recognition"]["chance_mrr"] == pytest.approx(2.45 / 6, abs=1e-4)
    assert result["recognition"]["from_user_turns"]["top1"] == [1.0] * 4
    assert gain["recognition_difference"] > 0.4 and gain["recognition_difference_ci"][0] > 0
    drawn = json.loads((project.folder / "results/plots/recognition.json").read_text())
    assert set(drawn[0]) == {"turn", "base", "sft", "dpo", "oracle", "user", "chance"} and len(drawn) == 4
    curve = json.loads((project.folder / "results/plots/al.json").read_text())
    assert [row["turn"] for row in curve] == [1, 2, 3, 4] and set(curve[0]) == {"turn", "base", "sft", "dpo", "oracle"}
