"""Choose: weights alone, arms of params.yaml, and a model behind an API."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import tiny
from conftest import Project, complains, completion
from scoring import TOPICS, group
from tiny import one_thread  # noqa: F401

pytestmark = pytest.mark.slow

PROMPT = "[system]\nYou know this of the user: {persona}\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random Llama in the place of the base model, and the scripted project."""
    project = Project(tmp_path_factory.mktemp("choose"), "http://127.0.0.1:1/v1")
    tiny.save(project.folder / "models/base")
    project.set(choose__most=2, choose__resamples=100, choose__arms=[])
    (project.folder / "told.txt").write_text(PROMPT)
    return project


def alone(project, groups, *more, check=True):
    (project.folder / "groups.jsonl").write_text("".join(json.dumps(g) + "\n" for g in groups))
    paths = {"weights": "models/base", "groups": "groups.jsonl", "choices": "c.jsonl", "metrics": "m.json"}
    words = ["stages.choose", *(word for name, path in paths.items() for word in (f"--{name}", path))]
    done = project._run([*words, *more], check)
    return done if not check else json.loads((project.folder / "m.json").read_text())


def test_alone_it_needs_no_params(weights):
    for name in ("params.yaml", "dvc.yaml"):
        (weights.folder / name).rename(weights.folder / f"{name}.away")
    try:
        more = ("--exchanges", "--persona-prompt", "told.txt")
        found = alone(weights, [group(0), group(1, "temperament"), group(2)], *more)
    finally:
        for name in ("params.yaml", "dvc.yaml"):
            (weights.folder / f"{name}.away").rename(weights.folder / name)
    assert found["groups"] == 3 and set(found["by_kind"]) == {"both", "temperament"}
    assert set(found["twins"]) == {"no_history", "persona", "persona_and_history", "first_1", "last_1"}
    assert found["twins"]["no_history"]["pair_accuracy"] == {"value": 0.5, "ci": [0.5, 0.5]}, "exactly"
    assert found["twins"]["no_history"]["top1"]["value"] == 0.25
    assert len(found["pair_accuracy"]["ci"]) == 2 == len(found["top1"]["ci"])
    seen = weights.rows("c.jsonl")[0]["log_probs"]
    matrices = [np.array(seen[name]) for name in seen]
    assert all((a != b).any() for n, a in enumerate(matrices) for b in matrices[:n]), "no two readings are the same"


def test_arms_see_their_prompt_and_their_memory(weights):
    arms = {}
    for name in ("base", "base_no_memory", "oracle", "critique"):
        weights.run("choose", name)
        arms[name] = json.loads((weights.folder / f"results/choose/{name}.json").read_text())
    seen = {n: weights.rows(f"data/choices/{n}.jsonl") for n in arms}
    assert len(seen["base"]) == 2 == arms["base"]["groups"]
    none, base, oracle = (np.array(seen[n][0]["log_probs"]["history"]) for n in ("base_no_memory", "base", "oracle"))
    assert (none == none[0]).all() and (base != oracle).any() and (base[0] != base[1]).any()
    assert arms["base_no_memory"]["pair_accuracy"]["value"] == 0.5
    assert not np.ptp(seen["base"][0]["log_probs"]["no_history"], axis=0).any()
    assert np.ptp(seen["oracle"][0]["log_probs"]["no_history"], axis=0).any(), "the persona is in its prompt"
    assert seen["critique"] == [] and "strategy critique" in arms["critique"]["skipped"]


def test_a_persona_that_lacks_is_named(weights):
    people = group()
    del people["users"][2]["persona"]
    done = alone(weights, [people], "--system-prompt", "told.txt", check=False)
    complains(done, "told.txt: wants a persona, but user u2 of group g0 has none")
    assert alone(weights, [people])["groups"] == 1


def test_what_cannot_be_measured_is_named(weights):
    complains(alone(weights, [group()], "--most", "1", check=False), "--most: input should be greater than or equal to 2")
    people = group()
    people["users"][1]["history"] *= 100
    complains(alone(weights, [people], check=False), "user u1 of group g0: models/base cannot read so long a history")


def knows(body):
    """The letter of the reply that names what the user likes; a liking for letter A, too."""
    *before, last = body["messages"]
    liked = next((t for t in TOPICS for m in before if t in m["content"] and m["role"] == "user"), "no topic")
    lines = dict(re.findall(r"^([A-D])\. (.*)$", last["content"], re.M))
    return next((letter for letter, reply in lines.items() if liked in reply), "A")


def served(project, groups=2):
    project.params.arms = {"far": {**project.params.arms.base, "model": "scripted:tiny"}}
    project.set(choose__most=groups, choose__resamples=100, choose__arms=[], choose__groups="groups.jsonl")
    (project.folder / "groups.jsonl").write_text("".join(json.dumps(group(n)) + "\n" for n in range(groups)))
    project.run("choose", "far")
    return json.loads((project.folder / "results/choose/far.json").read_text())


def test_a_served_model_chooses_letters_and_its_calls_are_counted(project, server):
    server.reply = knows
    found = served(project)
    assert found["pair_accuracy"]["value"] == 1.0 == found["top1"]["value"] and found["unread"] == 0
    assert found["twins"]["no_history"]["pair_accuracy"]["value"] == 0.5, "each letter is everybody's once"
    assert len(server.requests) == 2 * 5 * 4 and found["calls"]["choose"]["calls"] == 40, (
        "four users and one without history"
    )
    at_a = Counter(re.search(r"^A\. (.*)$", b["messages"][-1]["content"], re.M)[1] for b in server.requests)
    assert len(at_a) == 4 and len(set(at_a.values())) == 1, "every reply is as often at A"


def test_log_probabilities_of_letters_are_used_where_they_are_told(project, server):
    def reply(body):
        told, answer = knows(body), completion("B", body)
        top = [{"token": t, "logprob": math.log(0.3 if t == told else 0.2)} for t in "ABCD"]
        answer["choices"][0]["logprobs"] = {"content": [{"token": "B", "top_logprobs": top}]}
        return 200, answer

    server.reply = reply
    found = served(project)
    assert found["pair_accuracy"]["value"] == 1.0, "B was said each time, but the probabilities know better"


def test_answers_that_are_no_letter_leave_all_equal(project, server):
    server.reply = lambda body: "I cannot know that"
    found = served(project)
    assert found["unread"] == 2 * 5 * 4 and found["pair_accuracy"]["value"] == 0.5
