"""Eval: every model against base, the judge-free measures, what the protocol names, and files that do not fit together."""

import json
import re

import pytest
from conftest import Project, complains
from scoring import PEOPLE

from stages.evaluation.answer import answer
from stages.evaluation.table import table

MODELS = ("base", "sft", "dpo", "oracle")


def write(project, path, rows):
    path = project.folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def judgements(project, name, score, missing=()):
    """Six cases of four turns; `score(case, turn)`, null at `missing` (case, turn)."""
    rows = [
        {"id": f"c{c}", "turn": k, "profile": PEOPLE[c], "raw": "x", "score": None if (c, k) in missing else score(c, k)}
        for c in range(6) for k in range(1, 5)
    ]  # fmt: skip
    write(project, f"data/judgements/{name}.jsonl", rows)


def conversations(project, name, reply):
    """Six cases of four turns; `reply(person, turn)` is what the model says."""
    rows = [
        {"id": f"c{c}", "profile": person, "personality": "I am shy, loud, and kind.", "ended": None,
         "turns": [{"turn": k, "item": 0, "user": f"{person} And {k}?", "reply": reply(person, k)} for k in range(1, 5)]}
        for c, person in enumerate(PEOPLE)
    ]  # fmt: skip
    write(project, f"data/conversations/{name}.jsonl", rows)


def walk(person, k):
    """A reply that fits anybody and is never alike."""
    return f"Take walk number {k}, it is good for you."


def with_arms(project, *names):
    """These arms, and a judge that passed its calibration."""
    project.params.arms = {name: {} for name in names}
    project.set(eval__resamples=300)
    for name in names:
        write(project, f"data/choices/{name}.jsonl", [])
        write(project, f"data/probe_replies/{name}.jsonl", [])
    path = project.folder / "results/judge/calibration.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"judges": {"judge": {"passed": True, "accuracy": 0.9}}, "made_data": []}))


def plain(project):
    """The same scores and replies for every model."""
    with_arms(project, *MODELS)
    for name in MODELS:
        judgements(project, name, lambda c, k: 2 + c % 2)
        conversations(project, name, walk)


def result(project):
    return json.loads((project.folder / "results/eval.json").read_text())


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """(project, what eval printed, its result) of four models whose scores and replies differ in known ways."""
    project = Project(tmp_path_factory.mktemp("eval"), "http://127.0.0.1:1/v1")
    with_arms(project, *MODELS)
    for name, rise in (("base", 0.25), ("sft", 0.5), ("dpo", 0.75), ("oracle", 0)):
        judgements(project, name, lambda c, k, r=rise: min(5, 1 + r * k + c % 2), [(0, 2)] if name == "sft" else ())
    replies = {
        "base": lambda person, k: "You are right, that is a wonderful question.",  # flattery that fits anybody
        "sft": lambda person, k: person if k == 4 else "Rest well.",  # adapts in the end
        "dpo": lambda person, k: f"{person} And {k}?",  # says the user's words again
        "oracle": lambda person, k: PEOPLE[(PEOPLE.index(person) + 1) % 6],  # adapts to somebody else
    }
    for name, reply in replies.items():
        conversations(project, name, reply)
    return project, project.run("eval"), result(project)


def test_scores_of_every_model_and_what_it_gained(four):
    _, done, found = four
    m = found["models"]
    assert found["scale"] == "1-5" and found["protocol"]["models"] == list(MODELS)
    assert m["dpo"]["ir"] > m["sft"]["ir"] > m["base"]["ir"] == pytest.approx(0.25)
    assert m["base"]["n_ir"] == pytest.approx(1 / 3, abs=1e-6) and m["oracle"]["n_ir"] is None
    assert m["base"]["area"] == pytest.approx(m["base"]["al_mean"]) and m["base"]["ir_ci"] == [0.25, 0.25]
    assert m["sft"]["unscored"] == 1 and m["base"]["unscored"] == 0 and m["sft"]["no_row"] == 0
    gain = found["vs_base"]["dpo"]
    assert gain["difference"] == pytest.approx(1.25) and gain["ci"][0] > 0
    assert gain["p"] == 2 / 2**6 and gain["p_holm"] == 3 * gain["p"]  # all six profiles gain, three models are compared
    assert "base" not in found["vs_base"] and gain["share_of_gain"]["value"] is None
    assert "not above 0" in gain["share_of_gain"]["why"]
    assert found["vs_base"]["oracle"]["share_of_gain"]["why"] == "is the oracle"
    assert done.stdout.splitlines() == answer(found)
    assert m["base"]["personalisation"] == {"value": None, "ci": [None, None], "p": None}


def test_degeneration_of_every_model(four):
    _, _, found = four
    form = {n: r["degeneration"] for n, r in found["models"].items()}
    assert form["base"]["loops"] == 1 and form["dpo"]["loops"] < 1
    assert form["dpo"]["echo"] == 1 and form["base"]["echo"] == 0 and form["base"]["repeats_earlier"] == 1
    assert form["dpo"]["repeats_earlier"] == 0 and form["base"]["words"] == 8
    assert form["base"]["distinct_2"] < form["dpo"]["distinct_2"]
    assert found["vs_base"]["dpo"]["degeneration_ci"]["echo"] == [1.0, 1.0]


def test_plots_and_cases(four):
    project, _, _ = four
    curve = json.loads((project.folder / "results/plots/al.json").read_text())
    assert [row["turn"] for row in curve] == [1, 2, 3, 4] and set(curve[0]) == {"turn", *MODELS}
    rows = project.rows("results/eval_cases.jsonl")
    assert len(rows) == 24 and rows[6]["scores"] == [1.5, None, 2.5, 3.0] and rows[6]["slope"] == pytest.approx(0.5)


def test_a_case_without_some_judgements_is_counted(project):
    plain(project)
    rows = project.rows("data/judgements/sft.jsonl")
    write(project, "data/judgements/sft.jsonl", [r for r in rows if r["id"] != "c0" and (r["id"], r["turn"]) != ("c5", 4)])
    project.run("eval")
    found = result(project)
    # the conversation of c0 is there, its judgements are not
    assert found["models"]["sft"]["n_cases"] == 6 and found["models"]["sft"]["no_row"] == 5
    assert "sft: 5 of its 24 turns are missing or not judged." in table(found)
    assert found["vs_base"]["sft"]["n_cases"] == 5


def test_the_protocol_names_all_that_the_scores_depend_on(project):
    plain(project)
    project.run("eval")
    first = result(project)["protocol"]
    assert set(first["prompts_sha256"]) >= {"judge", "user", "assistant", "oracle", "inducer"} and first["versions"]["torch"]
    project.set(roles__inducer_temp=0.7)
    project.run("eval")
    second = result(project)["protocol"]
    assert first != second and second["params"]["roles"]["inducer_temp"] == 0.7
    second["params"]["roles"]["inducer_temp"] = first["params"]["roles"]["inducer_temp"]
    assert first == second
    assert set(first["params"]) == set(project.params) - {"llm", "external"}, "every section that a score depends on"


@pytest.mark.parametrize("folder", ["judgements", "conversations", "choices"])
def test_the_files_are_those_of_the_arms(project, folder):
    plain(project)
    path = project.folder / f"data/{folder}/sft.jsonl"
    text = path.read_text()
    path.rename(path.with_name("strange.jsonl"))
    complains(project.run("eval", check=False), f"{folder}/sft.jsonl: no such file", "arm sft")
    path.write_text(text)
    complains(project.run("eval", check=False), f"{folder}/strange.jsonl", "no arm strange; rm data/*/strange.jsonl,")


def test_a_bad_row_is_one_line(project):
    plain(project)
    write(project, "data/judgements/sft.jsonl", [{"id": "c0", "turn": 1, "profile": PEOPLE[0], "score": 7}])
    complains(project.run("eval", check=False), "sft.jsonl:1", "score 7", "1-5")


@pytest.mark.slow
def test_crossed_choice_is_in_the_result_and_in_the_answer(project, monkeypatch):
    plain(project)
    equal, right = [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    of = {"base": (equal, 0.5), "dpo": (right, 1.0)}
    for name, (matrix, value) in of.items():
        about = {"kind": "both", "users": ["a", "b"], "overlap": {"pair_accuracy": 0.5, "top1": 0.5}}
        scores = {"log_probs": {"history": matrix, "no_history": equal}, "pair_accuracy": value, "top1": value}
        write(project, f"data/choices/{name}.jsonl", [{"group": f"g{n}", **about, **scores} for n in range(6)])
    done = project.run("eval")
    found = result(project)
    monkeypatch.setenv("ANSWER_LATER", "1")
    assert not project.run("eval").stdout, "make repro prints the answer at its end"
    assert found["models"]["dpo"]["choose"]["pair_accuracy"] == {"value": 1.0, "ci": [1.0, 1.0]}
    assert found["models"]["sft"]["choose"] is None is found["vs_base"]["sft"]["choose"]
    gain = found["vs_base"]["dpo"]["choose"]
    assert gain["difference"] == 0.5 and gain["p"] == gain["p_holm"] == 2 / 2**6
    assert found["choose"]["groups"] == 6 and "that history and reply share 0.50" in done.stdout
    assert re.search(r"\ndpo +1.00 +1.00 to 1.00", done.stdout)
    write(project, "data/choices/dpo.jsonl", [{"group": "g"}])
    complains(project.run("eval", check=False), "dpo.jsonl:1", "is no row of stages.choose")


def test_replies_to_probes_are_in_the_result(project):
    plain(project)
    for name, reply in (("base", "Two."), ("sft", "Two, as in Ghana, Lodz, Mongolia, Java, Canada and Lima.")):
        talks = [row | {"items": [row["profile"]]} for row in project.rows(f"data/conversations/{name}.jsonl")]
        write(project, f"data/conversations/{name}.jsonl", talks)
        probe = {
            "kind": "probe",
            "turn": 4,
            "number": 1,
            "message": "I mend, drive, herd, carve, farm or deliver?",
            "told": [0],
        }
        write(project, f"data/probe_replies/{name}.jsonl", [{"id": f"c{c}", "reply": reply, **probe} for c in range(6)])
    done = project.run("eval")
    found = result(project)
    values = {name: (m["over_personalisation"] or {}).get("value") for name, m in found["models"].items()}
    assert values["base"] == 0 and values["sft"] > 0.6 and values["dpo"] is None
    assert found["vs_base"]["sft"]["over_personalisation"]["difference"] == values["sft"]
    assert "over_personalisation" not in found["vs_base"]["dpo"] and "bringing up the user" in done.stdout
    assert "Cost: replies that bring up what the user told" in table(found)
    write(project, "data/probe_replies/base.jsonl", [{"id": "c9", "reply": "", **probe}])
    complains(project.run("eval", check=False), "base.jsonl:1: of no conversation; run stage converse again")
