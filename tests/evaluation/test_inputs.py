"""What the evaluation reads: a bad row is named by file and line."""

import json

import pytest
from scoring import PEOPLE

from stages.core.cli import UserError
from stages.evaluation.inputs import read_calibration, read_conversations, read_judgements, read_scores
from stages.evaluation.scores import Scale

SCALE = Scale(1, 5)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def judged(folder, *models):
    """A file of six cases of four turns for each model."""
    rows = [{"id": f"c{c}", "turn": k, "profile": PEOPLE[c], "raw": "x", "score": 2} for c in range(6) for k in range(1, 5)]
    return [jsonl(folder / f"{model}.jsonl", rows) for model in models]


def fault(read, *arguments):
    with pytest.raises(UserError) as raised:
        read(*arguments)
    return str(raised.value)


@pytest.mark.parametrize(
    "change, parts",
    [
        (
            lambda r: r.update(id="c0", turn=1, profile=PEOPLE[0]),
            ("sft.jsonl:6", "second score", "case c0, turn 1", "sft.jsonl:1"),
        ),
        (lambda r: r.update(profile="I fly."), ("sft.jsonl:6", "case c1", "another profile", "base.jsonl:5")),
        (lambda r: r.update(score=7), ("sft.jsonl:6", "score 7", "1-5")),
        (lambda r: r.update(score="4"), ("sft.jsonl:6", "score: input should be a valid number", "'4'")),
        (lambda r: r.update(score=float("nan")), ("sft.jsonl:6", "score nan")),
        (lambda r: r.pop("score"), ("sft.jsonl:6", "score: missing")),
        (lambda r: r.update(turn=0), ("sft.jsonl:6", "turn", "0")),
        (lambda r: r.update(turn=10**9), ("sft.jsonl:6", "turn", "1000")),
        (lambda r: r.update(turn=True), ("sft.jsonl:6", "turn")),
        (lambda r: r.pop("id"), ("sft.jsonl:6", "case: ", "found None")),
        (lambda r: r.update(persona="other"), ("sft.jsonl:6", "persona: ", "'right' or 'wrong'")),
    ],
)
def test_a_bad_judgement_is_named_by_file_and_line(tmp_path, change, parts):
    base, sft = judged(tmp_path, "base", "sft")
    rows = [json.loads(line) for line in sft.read_text().splitlines()]
    change(rows[5])
    text = fault(read_judgements, [base, jsonl(sft, rows)], SCALE)
    assert all(part in text for part in parts), text
    assert "sft.jsonl: holds no judgement" in fault(read_judgements, [base, jsonl(sft, [])], SCALE)


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda r: r[1].pop("turns"), ("sft.jsonl:2", "not a conversation")),
        (lambda r: r[1]["turns"][0].update(reply=None), ("sft.jsonl:2", "not a conversation")),
        (lambda r: r[1]["turns"][0].update(turn=2), ("sft.jsonl:2", "not a conversation")),
        (lambda r: r[1].update(id="c0", profile=PEOPLE[0]), ("sft.jsonl:2", "second conversation of case c0")),
        (lambda r: r[1].update(profile="I fly."), ("sft.jsonl:2", "case c1", "another profile")),
        (lambda r: r.clear(), ("sft.jsonl", "holds no conversation")),
    ],
)
def test_a_bad_conversation_is_named_by_file_and_line(tmp_path, change, parts):
    scores = read_judgements(judged(tmp_path, "sft"), SCALE)
    turns = [{"turn": k, "user": "I fish.", "reply": "Good."} for k in (1, 2)]
    rows = [
        {"id": f"c{c}", "profile": p, "personality": "I am shy.", "turns": [dict(t) for t in turns]}
        for c, p in enumerate(PEOPLE)
    ]
    path = jsonl(tmp_path / "sft.jsonl", rows)
    assert len(read_conversations([path], scores)["sft"]) == 6
    change(rows)
    text = fault(read_conversations, [jsonl(path, rows)], scores)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("text", ["[]", "{", '{"judges": {"judge": {"passed": "yes"}}}', '{"judges": {"judge": 1}}'])
def test_a_file_that_is_no_calibration(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    assert "calibration.json: is not a calibration" in fault(read_calibration, path)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("model,case,turn\na,1,1\n", ("s.csv:1", "score")),
        ("", ("s.csv:1", "model, case, turn, score")),
        ("model,case,turn,score\n", ("s.csv", "holds no score")),
        ("model,case,turn,score\na,1,1,3\na,1,x,3\n", ("s.csv:3", "turn", "'x'")),
        ("model,case,turn,score\na,1,1,3\na,1,2,good\n", ("s.csv:3", "score: input should be a valid number", "'good'")),
        ("model,case,turn,score\na,1,1,3\na,1,2,inf\n", ("s.csv:3", "score inf", "1-5")),
        ("model,case,turn,score\na,1,1,3\na,1,1,4\n", ("s.csv:3", "second score", "s.csv:2")),
        ("model,case,turn,score\na,1,1,3\na,1,2\n", ("s.csv:3", "3 values under 4 columns")),
        ("model,case,turn,score\n,1,1,3\n", ("s.csv:2", "model: ", "found ''")),
        ('model,case,turn,score\na,"1"x,1,3\n', ("s.csv:2", "not CSV")),
        ("model,case,turn,score,profile\na,1,1,3,p\nb,1,1,3,q\n", ("s.csv:3", "another profile", "s.csv:2")),
        ("model,case,turn,score,score\na,1,1,3,3\n", ("s.csv:1", "twice")),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path, text, parts):
    path = tmp_path / "s.csv"
    path.write_text(text)
    found = fault(read_scores, path, SCALE)
    assert all(part in found for part in parts), found
