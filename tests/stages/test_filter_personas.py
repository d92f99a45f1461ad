"""Filter personas: the loop, its stops, and the split."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import complains

from stages.core.cli import UserError
from stages.core.files import digest
from stages.personas.persona import facts
from stages.personas.pool import compose
from stages.personas.settings import FilterPersonas, Pool
from stages.personas.split import split

POOL = Pool(target=4, threshold=0.8, min_items=3, items=8, item_chars=40)


def settings(**changes):
    values = dict(
        seed=1, profiles=POOL, personalities=POOL, examples=1, per_call=1, calls=1, min_acceptance=0.1, patience=1,
        max_rounds=1, train=6, eval_profiles=2, eval_personalities=2, split_threshold=0.75, language="en",
        import_profiles="", import_personalities="",
    )  # fmt: skip
    return FilterPersonas(**{**values, **changes})


def test_items_that_cannot_stand_are_dropped_and_counted():
    dropped = Counter()
    items = ["I fish.", "I FISH!", "I bake bread", "x" * 41, "...", "My cat is old."]
    assert compose("profiles", items, POOL, dropped) == ("I fish. I bake bread. My cat is old.", "")
    assert dropped == {"repeated": 1, "too_long": 1, "empty": 1}
    assert compose("profiles", items[:2], POOL, Counter())[1] == "too_few_items"
    assert (
        compose("personalities", ["I am shy.", "bold", "and kind."], POOL, Counter())[0] == "I am shy, bold, and and kind."
    )


def spots(texts):
    """An encoder for texts like `p3`: each its own axis, `p3x` near `p3`."""
    axes = np.eye(64, dtype=np.float32)
    near = 0.9 * axes + np.sqrt(1 - 0.81) * axes[::-1]
    return np.stack([(near if t.endswith("x") else axes)[int(t.strip("pqx")) + 20 * (t[0] == "q")] for t in texts])


def test_split_shares_nothing_and_repeats_no_pair():
    profiles, personalities = [f"p{i}" for i in range(6)], [f"q{i}" for i in range(5)]
    train, held = split(profiles, personalities, settings(train=12), spots)
    assert len(train) == 12 and len({x.id for x in train}) == 12 and len(held) == 4
    assert not {x.profile for x in train} & {x.profile for x in held}
    assert not {x.personality for x in train} & {x.personality for x in held}
    assert split(profiles, personalities, settings(train=5), spots)[0] == train[:5]
    with pytest.raises(UserError, match="fewer than train = 13"):
        split(profiles, personalities, settings(train=13), spots)


def test_grows_to_target_and_pays_for_a_larger_one_only_what_is_new(project, server):
    project.set(filter_personas__profiles__threshold=1.0, filter_personas__personalities__threshold=1.0,
                filter_personas__profiles__target=26, filter_personas__personalities__target=26,
                filter_personas__calls=2)  # fmt: skip
    project.run("seed_personas")
    project.run("filter_personas")
    pool = project.rows("data/personas/profiles.jsonl")
    assert len(pool) == 26 and all(5 <= len(facts(r["text"])) <= 8 for r in pool)
    assert len(server.requests) == 4
    for name, least in {"pool_growth": 2, "nearest_cosine": 20, "lengths": 20, "persona_map": 52}.items():
        drawn = json.loads((project.folder / f"results/plots/{name}.json").read_text())
        assert len(drawn) >= least and len({tuple(row) for row in drawn}) == 1, "DVC wants every field in every row"
    first = [digest(r) for r in pool]
    project.set(filter_personas__profiles__target=30)
    project.run("filter_personas")
    assert [digest(r) for r in project.rows("data/personas/profiles.jsonl")][:26] == first
    assert len(server.requests) == 8
    assert server.requests[0]["messages"][0]["content"].startswith("You invent people")


def test_examples_and_instructions_reach_every_round(project, server):
    project.set(filter_personas__profiles__target=27, filter_personas__calls=1, filter_personas__profiles__threshold=1.0,
                filter_personas__personalities__target=24)  # fmt: skip
    project.run("seed_personas")
    project.run("filter_personas")
    assert len(server.requests) == 3
    pool = {r["text"] for r in project.rows("data/personas/profiles.jsonl")}
    for body in server.requests:
        roles = [m["role"] for m in body["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        assert {m["content"] for m in body["messages"] if m["role"] == "assistant"} <= pool


def test_many_texts_of_one_call_are_asked_for_as_many_and_all_taken(project, server):
    def reply(body):
        asked = body["messages"][-1]["content"]
        assert asked.startswith("Invent 3 more") and "8 " in asked and body.get("stop") != ["\n"]
        thing = "fact" if "people" in asked else "trait"
        verbs = ("mend", "bake", "sing", "row", "nap")
        return "\n".join(" ".join(f"I {verb} the {thing}{n}{verb}." for verb in verbs) for n in "abc")

    server.reply = reply
    project.set(filter_personas__profiles__target=27, filter_personas__calls=1, filter_personas__per_call=3,
                filter_personas__profiles__threshold=1.0, filter_personas__personalities__target=24)  # fmt: skip
    project.run("seed_personas")
    project.run("filter_personas")
    assert len(server.requests) == 1
    assert [r["text"] for r in project.rows("data/personas/profiles.jsonl")[24:]] == reply(server.requests[0]).split("\n")


def test_saturation_is_the_reason_recorded(project, server):
    server.reply = lambda body: "I fish. I bake. I sing. I row. I nap."
    project.set(filter_personas__profiles__target=40, filter_personas__personalities__target=24, filter_personas__patience=2)
    project.run("seed_personas")
    project.run("filter_personas")
    result = json.loads((project.folder / "results/filter_personas.json").read_text())
    assert result["profiles"]["stopped"] == "saturated"
    assert result["profiles"]["rejected"]["duplicate"] >= 8
    assert result["profiles"]["pool"] == 25


def test_endpoint_that_is_not_there(project):
    project.run("seed_personas")
    project.params.llm.endpoints.scripted = {"base_url": "http://127.0.0.1:9/v1", "deadline_s": 1.0}
    project.write()
    complains(project.run("filter_personas", check=False), "endpoint scripted at http://127.0.0.1:9/v1 is not there")
    assert not (project.folder / "data/personas/train.jsonl").exists()


def test_key_is_asked_for_by_name(project):
    project.run("seed_personas")
    project.params.llm.endpoints.scripted.key_env = "SOME_KEY"
    project.write()
    complains(project.run("filter_personas", check=False), "set SOME_KEY to its API key")


def test_nearest_rank_counts_ties_in_the_middle():
    from stages.text.encoder import nearest_rank

    pool = np.eye(3, dtype=np.float32)
    assert nearest_rank(np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32), pool, [0, 1]) == [1, 2]


def test_no_near_duplicate_of_an_eval_text_is_trained_on():
    profiles, personalities = [f"p{i}" for i in range(6)], [f"q{i}" for i in range(5)]
    _, held = split(profiles, personalities, settings(train=1), spots)
    near = f"{held[0].profile}x"
    train, again = split([*profiles, near], personalities, settings(train=1, eval_profiles=6), spots)
    if near not in {x.profile for x in again}:
        assert near not in {x.profile for x in train}
    train, _ = split([*profiles, near], personalities, settings(train=9), spots)
    assert near not in {x.profile for x in train}
    loose, held_loose = split([*profiles, near], personalities, settings(train=9, split_threshold=1.0), spots)
    assert near in {x.profile for x in [*loose, *held_loose]}


def test_pronouns_agree_in_every_pair():
    profiles = ["He mends nets.", "She farms.", "I bake bread.", "He drives a tram.", "She sings.", "He paints."]
    personalities = ["She is shy, bold, and kind.", "He is vain, dry, and warm.", "I am slow, calm, and fair.",
                     "Shy, bold, and calm.", "He is loud, rude, and sly."]  # fmt: skip
    encode = lambda texts: np.eye(64, dtype=np.float32)[[(profiles + personalities).index(t) for t in texts]]  # noqa: E731
    train, held = split(profiles, personalities, settings(train=5, eval_profiles=2, eval_personalities=2), encode)
    assert train and held
    for x in [*train, *held]:
        assert {x.profile.split()[0], x.personality.split()[0]} in (
            {"He"}, {"She"}, {"I"}, {"He", "Shy,"}, {"She", "Shy,"}, {"I", "Shy,"}
        )  # fmt: skip


def test_own_texts_pass_the_same_rule_before_anything_is_generated(project, server):
    (project.folder / "data/import/profiles.jsonl").write_text(
        '"He keeps bees on the roof of a bank in Lyon. He is sixty. He never learnt to swim."\n'
        '"He keeps bees on the roof of a bank in Lyon. He is sixty. He never learnt to swim, ever."\n'
        '{"text": "She repairs church organs across Saxony. She is allergic to dust. She has a twin."}\n'
    )
    project.set(filter_personas__profiles__target=26, filter_personas__personalities__target=24)
    project.run("seed_personas")
    project.run("filter_personas")
    assert not server.requests  # seeds and imports fill the pool
    pool = project.rows("data/personas/profiles.jsonl")
    assert [r["category"] for r in pool[24:]] == ["imported"] * 2 and "Saxony" in pool[25]["text"]
    (project.folder / "data/import/profiles.jsonl").write_text('"A text that is long enough."\n"two" "values"\n')
    complains(project.run("filter_personas", check=False), "profiles.jsonl:2: two JSON values")
