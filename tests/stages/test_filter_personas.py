"""Filter personas: the stage's command line; the loop and the split are in tests/personas."""

import json

import pytest
from conftest import complains
from fakes import encode

from stages import filter_personas
from stages.personas.persona import facts

pytestmark = pytest.mark.slow


@pytest.fixture
def ready(project, monkeypatch):
    """The project with its seeds, two calls a round, and an encoder to which all texts are new."""
    monkeypatch.setattr(filter_personas, "Encoder", lambda params: encode)
    project.set(filter_personas__profiles__target=26, filter_personas__personalities__target=26, filter_personas__calls=2,
                filter_personas__train=6, filter_personas__eval_profiles=2)  # fmt: skip
    project.run("seed_personas")
    return project


def test_grows_both_pools_and_a_larger_one_pays_only_for_what_is_new(ready, server):
    ready.run("filter_personas")
    pool = ready.rows("data/personas/profiles.jsonl")
    assert len(pool) == 26 and all(5 <= len(facts(r["text"])) <= 8 for r in pool)
    assert len(ready.rows("data/personas/personalities.jsonl")) == 26 and len(server.requests) == 4
    train, held = (ready.rows(f"data/personas/{part}.jsonl") for part in ("train", "eval"))
    assert len(train) == 6 and 1 <= len(held) <= 2 and not {x["profile"] for x in train} & {x["profile"] for x in held}
    metrics = json.loads((ready.folder / "results/filter_personas.json").read_text())
    assert metrics["calls"]["generator"]["calls"] == 4 and (metrics["train"], metrics["eval"]) == (6, len(held))
    assert metrics["nearest_eval_to_train"]["profile"] < 0.75 and metrics["profiles"]["stopped"] == "target"
    for name in filter_personas.PLOTS:
        assert json.loads((ready.folder / f"results/plots/{name}.json").read_text())
    ready.set(filter_personas__profiles__target=30)
    ready.run("filter_personas")
    assert ready.rows("data/personas/profiles.jsonl")[:26] == pool and len(server.requests) == 8


def test_own_texts_are_imported_and_their_faults_named(ready, server):
    own = ready.folder / "data/import/profiles.jsonl"
    own.write_text('"He keeps bees in Lyon. He is sixty."\n{"text": "She repairs organs in Saxony. She has a twin."}\n')
    ready.set(filter_personas__personalities__target=24)
    ready.run("filter_personas")
    assert not server.requests  # seeds and imports fill the pool
    assert [r["category"] for r in ready.rows("data/personas/profiles.jsonl")[24:]] == ["imported"] * 2
    own.write_text('"A text that is long enough."\n"two" "values"\n')
    complains(ready.run("filter_personas", check=False), "profiles.jsonl:2: two JSON values")


def test_an_import_with_a_lone_surrogate_is_kept(ready):
    (ready.folder / "data/import/profiles.jsonl").write_text('"He keeps bees in Lyon \\ud83d. He is sixty."\n')
    ready.set(filter_personas__profiles__target=25, filter_personas__personalities__target=24)
    ready.run("filter_personas")
    assert ready.rows("data/personas/profiles.jsonl")[24]["text"] == "He keeps bees in Lyon \ufffd. He is sixty."


def test_an_endpoint_that_is_not_there(ready):
    ready.params.llm.endpoints.scripted = {"base_url": "http://127.0.0.1:9/v1", "deadline_s": 0.2}
    ready.write()
    complains(ready.run("filter_personas", check=False), "endpoint scripted at http://127.0.0.1:9/v1 is not there")
    assert not (ready.folder / "data/personas/train.jsonl").exists()


def test_a_key_is_asked_for_by_name(ready):
    ready.params.llm.endpoints.scripted.key_env = "SOME_KEY"
    ready.write()
    complains(ready.run("filter_personas", check=False), "set SOME_KEY to its API key")
