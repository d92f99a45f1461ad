"""Judge: answers are read or set aside with their reason."""

import json

import pytest

from stages.judge import parse_score


@pytest.mark.parametrize(
    "text, score",
    [
        ("4", 4),
        ("4.", 4),
        ("Score: 4/5", 4),
        ("**4**", 4),
        ("four", 4),
        ("4 out of 5", 4),
        ("Four.", 4),
        ("5/5", 5),
        (" 1\n", 1),
    ],
)
def test_scores_are_read(text, score):
    assert parse_score(text) == score


@pytest.mark.parametrize("text", ["", "between 3 and 4", "3 or 4", "good", "0", "7", "10", "3.5", "4th rate", "-"])
def test_other_answers_are_unscored(text):
    with pytest.raises(ValueError):
        parse_score(text)


def test_judge_keeps_unreadable_answers_with_their_reason(project, server):
    case = {"id": "c0", "profile": "I fish.", "personality": "I am shy, loud, and kind.",
            "turns": [{"turn": k, "user": f"U{k}", "reply": f"R{k}"} for k in (1, 2, 3)]}  # fmt: skip
    path = project.folder / "data/conversations/base.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(case) + "\n")
    answers = {"R1": "4/5", "R2": "between 3 and 4", "R3": ""}
    server.reply = lambda body: answers[body["messages"][-1]["content"][-2:]]
    (project.folder / "models/base").mkdir(parents=True)
    project.run("judge", "base")
    rows = project.rows("data/judgements/base.jsonl")
    assert [r["score"] for r in rows] == [4, None, None]
    assert rows[1]["reason"] == "unreadable" and "between 3 and 4" in rows[1]["raw"] and rows[2]["reason"] == "empty"
    last = server.requests[-1]["messages"][-1]["content"]
    assert "Person: I fish. I am shy" in last and last.index("U1") < last.index("R1") < last.index("U2") < last.index("R3")
    metrics_file = json.loads((project.folder / "results/judge/base.json").read_text())
    assert metrics_file["unscored"] == 2 and metrics_file["scores"] == {"4": 1}
