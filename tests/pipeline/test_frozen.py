"""What a move of the code must not change: keys of stored replies, and the bytes that a small pipeline makes of them.

A changed key pays for every reply again. Change a digest here only with a line in LOG.md that says what it costs.
"""

import hashlib
import json
from pathlib import Path

import pytest
from conftest import Project, Server

from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import Embedded, Llm, Role

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Qué tal, 你好?"}]
SCHEMA = {"type": "object", "properties": {"items": {"type": "array"}}}
FROZEN = json.loads((Path(__file__).parent / "frozen.json").read_text())
ARMS = ("base", "critique", "fewshot")
OUTPUTS = (
    "data/personas/profiles.jsonl", "data/personas/personalities.jsonl", "data/personas/train.jsonl",
    "data/personas/eval.jsonl", "data/trees.jsonl", "data/sft/train.jsonl", "data/sft/val.jsonl", "data/pairs/train.jsonl",
    "data/pairs/val.jsonl", "data/pairs/decisions.jsonl", "data/conversations/base.jsonl",
    "data/conversations/critique.jsonl",
    "data/conversations/fewshot.jsonl", "data/judgements/base.jsonl",
)  # fmt: skip


def role(name, model, temp, top_p, penalty, tokens, **more):
    return Role(name=name, model=model, temp=temp, top_p=top_p, penalty=penalty, tokens=tokens, **more)


def test_keys_of_calls(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.gguf").write_text("weights")
    settings = Llm(conversations_in_flight=1, embedded=Embedded(), endpoints={})
    client = Client(PaidCalls("frozen", settings, {"embedded": folder}))
    calls = {
        "embedded": (role("user", "embedded", 0.5, 0.9, 0.0, 60, stop=("\n",)), None),
        "endpoint": (role("inducer", "openai:gpt-4o-mini", 0.0, 1.0, 0.25, 48), None),
        "schema": (role("inducer", "openai:gpt-4o-mini", 0.7, 1.0, 0.0, 48), SCHEMA),
        "logprobs": (role("judge", "embedded", 0.0, 1.0, 0.0, 4, stop=("\n",), logprobs=20), None),
    }
    assert {name: client.request(role, CHAT, 7, schema).key for name, (role, schema) in calls.items()} == FROZEN["keys"]
    client.backend.cache.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The stages that ask models, two personas, every reply by the scripted server, which answers by the whole request."""
    server = Server()
    project = Project(tmp_path_factory.mktemp("frozen"), server.url)
    project.set(
        filter_personas__profiles__target=26, filter_personas__personalities__target=26, filter_personas__calls=2,
        filter_personas__train=4, filter_personas__eval_profiles=2, roleplay__turns=3, converse__turns=3,
        **{f"arms__{arm}__model": "scripted:tiny" for arm in ARMS},
        extract_pairs__require=dict.fromkeys(
            ("min_pairs", "min_order_agreement", "min_informed_wins", "max_length_predicts", "max_unrevealed")
        ),
    )  # fmt: skip
    (project.folder / "models/base").mkdir(parents=True)
    (project.folder / "models/base/model.safetensors").write_text("weights")
    for stage in ("seed_personas", "filter_personas", "roleplay", "extract_pairs"):
        project.run(stage)
    for arm in ARMS:
        project.run("converse", arm)
    project.run("judge", "base")
    server.stop()
    return project.folder


@pytest.mark.slow
def test_outputs_of_a_small_pipeline(small):
    found = {name: hashlib.sha256((small / name).read_bytes()).hexdigest() for name in OUTPUTS}
    assert found == FROZEN["outputs"]
    assert all((small / name).stat().st_size for name in OUTPUTS)
