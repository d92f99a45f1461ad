"""Judge: what is asked, expected and sampled scores, several judges, and the wrong persona."""

import json
import math

import pytest
from conftest import completion

from stages.judging import judge


def case(name, profile, personality, turns=1):
    said = [{"turn": k, "user": f"{name} U{k}", "reply": f"{name} R{k}"} for k in range(1, turns + 1)]
    return {"id": name, "profile": profile, "personality": personality, "turns": said}


def judged(project, *cases):
    """The judgements of conversations."""
    path = project.folder / "data/conversations/base.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(c) + "\n" for c in cases))
    project.set(judge__max_failed_share=1.0)
    project.run("judge", "base")
    return project.rows("data/judgements/base.jsonl")


def of(project):
    return json.loads((project.folder / "results/judge/base.json").read_text())["judges"]


def test_unreadable_answers_are_kept_with_their_reason(project, server):
    answers = {"R1": "4/5", "R2": "between 3 and 4", "R3": ""}
    server.reply = lambda body: answers[body["messages"][-1]["content"][-2:]]
    rows = judged(project, case("c", "I fish.", "I am shy, loud, and kind.", 3))
    assert [r["score"] for r in rows] == [4, None, None]
    assert rows[1]["reason"] == "unreadable" and "between 3 and 4" in rows[1]["raw"] and rows[2]["reason"] == "empty"
    assert "reason" not in rows[0]
    last = server.requests[-1]["messages"][-1]["content"]
    assert "Person: I fish. I am shy" in last and last.index("U1") < last.index("R1") < last.index("U2") < last.index("R3")
    right = of(project)["scripted:tiny"]["right"]
    assert right["unscored"] == {"empty": 1, "unreadable": 1} and right["scores"] == {"4": 1}
    assert of(project)["scripted:tiny"]["wrong"] is None  # one persona: nobody to take for another


def test_a_conversation_with_a_lone_surrogate_is_judged(project, server):
    server.reply = lambda body: "4"
    (row,) = judged(project, case("c", "I fish \ud83d.", "I am shy."))
    assert row["score"] == 4 and row["profile"] == "I fish \ufffd."
    assert "I fish \ufffd." in server.requests[0]["messages"][-1]["content"]


def test_prose_is_no_score(project, server):
    answers = {"R1": "This one is great.", "R2": "the user mentions two cats", "R3": "**Score: 4 out of 5**"}
    server.reply = lambda body: answers[body["messages"][-1]["content"][-2:]]
    rows = judged(project, case("c", "I fish.", "I am shy.", 3))
    assert [(r["score"], r.get("reason")) for r in rows] == [(None, "unreadable")] * 2 + [(4, None)]


def test_rows_have_the_agreed_form(project):
    rows = judged(project, case("c", "I fish.", "I am shy."), case("d", "I cook.", "I am loud."))
    assert len(rows) == 4
    for row in rows:
        assert set(row) == {"id", "profile", "turn", "judge", "persona", "score", "raw", "mass", "samples", "spread"}
        assert row["judge"] == "scripted:tiny" and row["mass"] is None and row["samples"] == 1 and row["spread"] is None
    assert [(r["id"], r["persona"]) for r in rows] == [("c", "right"), ("d", "right"), ("c", "wrong"), ("d", "wrong")]


def telling(text, tokens):
    """A server that tells `tokens`: (token, {alternative: probability})."""

    def reply(body):
        assert body["logprobs"] is True and body["top_logprobs"] == judge.ALTERNATIVES
        answer = completion(text, body)
        answer["choices"][0]["logprobs"] = {
            "content": [
                {"token": t, "top_logprobs": [{"token": a, "logprob": math.log(p)} for a, p in top.items()]}
                for t, top in tokens
            ]
        }
        return 200, answer

    return reply


def test_the_score_is_the_expected_one_where_probabilities_are_told(project, server):
    server.reply = telling("Score: 4", [("Score", {"Score": 0.9, "3": 0.1}), (":", {":": 1.0}),
                                        (" 4", {" 4": 0.4, "4": 0.1, "5": 0.25, "four": 0.05, "I": 0.1})])  # fmt: skip
    (row,) = judged(project, case("c", "I fish.", "I am shy."))
    assert row["score"] == pytest.approx((4 * 0.55 + 5 * 0.25) / 0.8, abs=1e-4)
    assert row["mass"] == pytest.approx(0.8) and row["raw"] == "Score: 4" and row["samples"] == 1
    assert of(project)["scripted:tiny"]["right"]["least_mass"] == pytest.approx(0.8)


def test_probabilities_do_not_make_an_unreadable_answer_a_score(project, server):
    server.reply = telling("between 3 and 4", [("between", {"between": 1.0}), (" 3", {" 3": 0.9})])
    (row,) = judged(project, case("c", "I fish.", "I am shy."))
    assert row["score"] is None and row["reason"] == "unreadable"


def test_probabilities_are_not_asked_for_where_switched_off(project, server):
    project.set(judge__logprobs=False)
    judged(project, case("c", "I fish.", "I am shy."))
    assert server.requests and not any("logprobs" in body for body in server.requests)


def test_scores_are_sampled_where_no_probabilities_are_told(project, server):
    said = iter(["2", "4", "dunno", "3"])
    server.reply = lambda body: next(said)
    project.set(judge__samples=4, judge__temp=0.7)
    (row,) = judged(project, case("c", "I fish.", "I am shy."))
    assert row["score"] == 3 and row["samples"] == 3 and row["spread"] == pytest.approx(1.0) and row["mass"] is None
    assert len({b["seed"] for b in server.requests}) == 4


def test_a_greedy_judge_is_asked_once(project, server):
    project.set(judge__samples=4)
    (row,) = judged(project, case("c", "I fish.", "I am shy."))
    assert len(server.requests) == 1 and row["samples"] == 1 and row["spread"] is None


def test_judges_side_by_side(project, server):
    project.set(judge__models=["scripted:a", "scripted:b"], judge__wrong_persona=False)
    server.reply = lambda body: {"a": "2", "b": "5"}[body["model"]]
    rows = judged(project, case("c", "I fish.", "I am shy.", 2))
    assert [(r["judge"], r["score"]) for r in rows] == [("scripted:a", 2)] * 2 + [("scripted:b", 5)] * 2
    assert set(of(project)) == {"scripted:a", "scripted:b"}


def test_the_wrong_persona_is_put_in_the_place_of_the_right_one_and_nothing_else(project, server):
    judged(project, case("c", "I fish.", "I am shy."), case("d", "I cook.", "I am loud."))
    asked = [b["messages"][-1]["content"] for b in server.requests]
    right = next(a for a in asked if a.startswith("Person: I fish. I am shy.") and "c U1" in a)
    assert right.replace("I fish. I am shy.", "I cook. I am loud.") in asked and len(set(asked)) == 4


def test_one_persona_is_said_to_have_no_wrong_one(project):
    path = project.folder / "data/conversations/base.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(case("c", "I fish.", "I am shy.")) + "\n")
    assert "no wrong persona" in project.run("judge", "base").stdout
