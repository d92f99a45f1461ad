"""Over-personalisation and read-outs: planted replies are told apart, by words and by quotes."""

import json
import math

import pytest
from scoring import made

from stages.core.cli import UserError
from stages.evaluation.inputs import Calibration, read_probes
from stages.evaluation.judge_free import JudgeFree
from stages.evaluation.metrics import Inference
from stages.evaluation.probes import brought_up, compared, named
from stages.evaluation.result import evaluation
from stages.evaluation.scores import Scale
from stages.evaluation.settings import Eval
from stages.evaluation.table import WIDTH, cost_tables, table

ITEMS = ["I keep two old boats in a barn.", "I am blunt.", "My wife sells fish.", "أعيش في القاهرة."]
IDS = [f"c{n}" for n in range(6)]
DRAGGED = "Three, and you could tell that to your wife who sells fish."
PLAIN = "Three."


def probe(reply, case="c0", number=1, told=(0, 2), message="how many moons has the fish planet?", **more):
    return {"id": case, "kind": "probe", "turn": 2, "asked": "p", "number": number, "message": message, "reply": reply,
            "told": [*told], **more}  # fmt: skip


def read_out(reply, case="c0", told=(0, 2), turn=2, **more):
    return {"id": case, "kind": "read_out", "turn": turn, "message": "?", "reply": reply, "told": [*told], **more}


@pytest.mark.parametrize(
    "reply, found",
    [
        (DRAGGED, {2}),
        ("Boats in an old barn: two.", {0}),
        ("The planet of fish has two.", set()),  # the probe's own word, and one of five
        ("Be blunt.", set()),  # of an item that was not told
        ("", set()),
    ],
)
def test_told_items_in_a_reply_by_words(reply, found):
    assert brought_up(probe(reply), ITEMS) == found


def test_told_items_in_a_reply_by_quotes():
    quoted = [{"item": 3, "quote": "القاهرة"}, {"item": 1, "quote": "x"}]
    assert brought_up(probe("في القاهرة", told=(0, 3), mentions=quoted), ITEMS) == {3}
    assert brought_up(probe(DRAGGED, mentions=[]), ITEMS) == set(), "quotes decide where they were asked for"


def test_what_a_read_out_names():
    found, share = named(read_out("You keep old boats in a barn. You are a nurse.\nYour wife sells fish."), ITEMS)
    assert found == {0, 2} and share == pytest.approx(2 / 3)
    quotes = [{"item": 3, "quote": "في القاهرة"}]
    assert named(read_out("تعيش في القاهرة.\nأنت طبيب.", mentions=quotes), ITEMS) == ({3}, 0.5)
    found, share = named(read_out(""), ITEMS)
    assert found == set() and math.isnan(share)


def results(**replies):
    """Two probes and one read-out for each of six cases; `replies`: by arm, (case, number) -> reply, and a read-out."""
    arms = {
        arm: [row for n, c in enumerate(IDS) for row in (
            read_out(known, c), *(probe(said(n, k), c, k) for k in (1, 2))
        )]
        for arm, (said, known) in replies.items()
    }  # fmt: skip
    items = {arm: dict.fromkeys(IDS, ITEMS) for arm in arms}
    return compared(arms, items, IDS, Inference([*"abcdef"], 300, 1))


def test_planted_arms_are_told_apart():
    found = results(
        base=(lambda n, k: PLAIN, "You keep two old boats. You are 41."),
        base_no_memory=(lambda n, k: DRAGGED if (n, k) == (0, 1) else PLAIN, "I know nothing of you."),
        dragging=(lambda n, k: DRAGGED, "so it is and so it is and so it is and so it is fish wife sells fish"),
        half=(lambda n, k: DRAGGED if k == 1 else PLAIN, "Your wife sells fish. You keep two old boats in a barn."),
    )
    over = {arm: m["over_personalisation"] for arm, m in found["models"].items()}
    assert {arm: x["value"] for arm, x in over.items()} == {
        "base": 0.0, "base_no_memory": 0.0833, "dragging": 1.0, "half": 0.5
    }  # fmt: skip
    assert over["base"]["no_memory"] == 0.0833 and over["half"]["no_memory"] is None and over["half"]["replies"] == 12
    gains = {arm: g["over_personalisation"] for arm, g in found["vs_base"].items()}
    assert gains["dragging"] == {"difference": 1.0, "ci": [1.0, 1.0], "p": 0.03125, "p_holm": 0.09375}
    assert gains["half"]["difference"] == 0.5 and gains["base_no_memory"]["p"] == 1.0
    known = {arm: m["read_out"]["2"] for arm, m in found["models"].items()}
    assert [known[arm]["cannot"] for arm in over] == [None, "names nothing of its user", "repeats itself", None]
    assert (known["base"]["precision"]["value"], known["base"]["recall"]["value"]) == (0.5, 0.5)
    assert (known["half"]["precision"]["value"], known["half"]["recall"]["value"]) == (1.0, 1.0)
    assert (known["half"]["told"], known["half"]["named"], known["half"]["answers"]) == (2.0, 2.0, 6)


def test_nothing_asked_is_nothing_measured():
    found = compared({"base": [], "x": []}, {}, IDS, Inference(IDS, 9, 1))
    assert found == {"models": {arm: {"over_personalisation": None, "read_out": {}} for arm in ("base", "x")}, "vs_base": {}}


@pytest.mark.parametrize("change, fault", [({"id": "z"}, "of no conversation"), ({"told": [4]}, "of no conversation"),
                                           ({"kind": "x"}, "kind: "), ({"reply": None}, "reply: ")])  # fmt: skip
def test_rows_that_do_not_fit_are_named(tmp_path, change, fault):
    path = tmp_path / "base.jsonl"
    conversations = {"base": {"c0": {"items": ITEMS}}}
    path.write_text(json.dumps(probe(PLAIN)) + "\n")
    assert read_probes([path], conversations) == {"base": [probe(PLAIN)]}
    path.write_text(json.dumps(probe(PLAIN) | change) + "\n")
    with pytest.raises(UserError, match=f"base.jsonl:1: .*{fault}"):
        read_probes([path], conversations)


def test_both_stand_in_tables():
    found = results(base=(lambda n, k: PLAIN, "Hm."), x=(lambda n, k: DRAGGED, "Your wife sells fish."))
    scores = made({arm: lambda c, k, _: 3.0 for arm in ("base", "x")}, turns=2)
    result = evaluation(scores, Eval(seed=1, resamples=50), Scale(1, 5), Calibration(), JudgeFree())
    for part in ("models", "vs_base"):
        for arm, entry in result[part].items():
            entry |= found[part].get(arm, {})
    over, known = (rows for _, rows in cost_tables(result))
    assert over[2][:3] == ["x", "12", "1.00"] and "+1.00" in over[2]
    assert known[1][:2] == ["base", "2"] and known[1][-1] == "names nothing of its user" and known[2][-1] == ""
    assert max(map(len, table(result).splitlines())) <= WIDTH
