"""External: weights alone, the arms of params.yaml, and a model behind an API."""

import json
import re

import foreign
import pytest
import tiny
from conftest import Project, complains
from tiny import one_thread  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two random Llamas in the place of models, and the made-up benchmarks."""
    project = Project(tmp_path_factory.mktemp("external"), "http://127.0.0.1:1/v1")
    tiny.save(project.folder / "models/base")
    tiny.save(project.folder / "models/dpo", "llama3")
    foreign.prefeval(project.folder / "prefeval")
    foreign.personamem(project.folder / "personamem")
    return project


def alone(project, benchmark, *more, check=True):
    words = ["stages.external", "--benchmark", benchmark, "--folder", benchmark, "--items", "i.jsonl", "--metrics", "m.json"]
    done = project._run([*words, *more], check)
    return done if not check else (json.loads((project.folder / "m.json").read_text()), done.stdout)


def test_alone_it_needs_no_params_and_the_first_weights_are_base(weights):
    for name in ("params.yaml", "dvc.yaml"):
        (weights.folder / name).rename(weights.folder / f"{name}.away")
    try:
        found, said = alone(
            weights, "prefeval", "--weights", "models/base", "models/dpo", "--fillers", "0", "1", "--limit", "2"
        )
    finally:
        for name in ("params.yaml", "dvc.yaml"):
            (weights.folder / f"{name}.away").rename(weights.folder / name)
    forms = {f"{form}/{n}" for form in ("choice-based", "persona-driven") for n in (0, 1)}
    assert found["base"] == "base" and found["arms"]["dpo"] == {"fit": 8, "of": 8}
    for arm in ("base", "dpo"):
        assert set(found["results"][arm]) == {"letters", "likelihood"}
        for cells in found["results"][arm].values():
            assert set(cells) == forms and all(c["items"] == 2 and c["chance"] == 0.25 for c in cells.values())
            assert all(("vs_base" in c) == (arm == "dpo") and len(c["accuracy"]["ci"]) == 2 for c in cells.values())
    rows = weights.rows("i.jsonl")
    assert len(rows) == 2 * 2 * 8
    for row in rows:
        best = max(row["log_probs"]["conversation"])
        assert row["log_probs"]["conversation"]["ABCD".index(row["letter"])] == best
        assert row["right"] in (0.0, 1.0) and row["log_probs"]["conversation"] != row["log_probs"]["other"]
    assert "no conversation" in said and "longest" in said and "2 items, 8 with their forms" in said


def test_what_weights_made_of_the_items_is_kept(weights, monkeypatch):
    first = alone(weights, "prefeval", "--weights", "models/base", "--limit", "2")
    monkeypatch.setattr("stages.training.choices.load", lambda folder: pytest.fail("was read again"))
    assert alone(weights, "prefeval", "--weights", "models/base", "--limit", "2")[0] == first[0]
    (weights.folder / "other").symlink_to("models")
    found, _ = alone(weights, "prefeval", "--weights", "models/base", "other/base", "--limit", "2")
    assert [*found["results"]] == ["models/base", "other/base"] and found["base"] == "models/base"
    assert found["results"]["other/base"]["letters"]["choice-based/0"]["vs_base"]["value"] == 0


def test_items_that_a_model_cannot_read_are_counted_and_left_out(weights):
    folder = tiny.save(weights.folder / "models/short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 320}))
    found, said = alone(weights, "personamem", "--weights", "models/short", "--forms", "snippet", "128k")
    assert found["arms"]["short"] == {"fit": 4, "of": 8} and set(found["results"]["short"]["letters"]) == {"snippet/0"}
    assert "4 items, 8 with their forms; a model can read: short 4" in said


def test_forms_of_the_other_benchmark_and_unknown_ones_are_named(weights):
    complains(
        alone(weights, "prefeval", "--weights", "models/base", "--forms", "32k", check=False), "none of them is a form"
    )
    done = alone(weights, "prefeval", "--weights", "models/base", "--forms", "choice", check=False)
    complains(done, "forms.0: input should be 'choice-based'")


def knows(body):
    """The letter of the option that names what the user said it likes, else A."""
    *before, last = body["messages"]
    lines = dict(re.findall(r"^([A-D])\. (.*)$", last["content"], re.M))
    liked = next((like for like in foreign.LIKES for m in before if f"{like} it is" in m["content"]), "nothing")
    return next((letter for letter, option in lines.items() if liked in option), "A")


def test_arms_of_params_and_a_model_behind_an_api_by_letters(project, server):
    server.reply = knows
    foreign.prefeval(project.folder / "prefeval")
    tiny.save(project.folder / "models/base")
    base = project.params.arms.base
    project.params.arms = {"base": base, "told": {**base, "prompt": "oracle"}, "far": {**base, "model": "scripted:tiny"}}
    project.set(external__folders={"prefeval": "prefeval"}, external__forms=["choice-based"], external__limit=3)
    project.run("external", "prefeval")
    found = json.loads((project.folder / "results/external/prefeval.json").read_text())
    assert set(found["results"]) == {"base", "far"}, "an arm with the weights of another has no other answers"
    assert set(found["results"]["far"]) == {"letters"} and found["arms"]["far"]["unread"] == 0
    far = found["results"]["far"]["letters"]["choice-based/0"]
    assert (far["accuracy"]["value"], far["none"], far["other"]) == (1.0, 0.25, 0.25)
    assert far["vs_base"]["rows"] == 3 and len(server.requests) == 3 * 3 * 4
