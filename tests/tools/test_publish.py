"""Publish: both folders load back, what is missing is named, the Hub's client sends them, it alone gets the token."""

import base64
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, complains, respond
from repository import as_dvc_sees_it, jsonl
from trees import a_tree, planted

from stages.core.params import load_yaml
from stages.evaluation.answer import answer
from stages.tools import publish

pytestmark = pytest.mark.slow

TOKEN = "hf_secret0123"
TREES = [a_tree(0), planted(1), {**planted(2), "ended": [{"id": "u/p/u", "reason": "truncated"}]}]
PAIRS = [
    {"prompt": [{"role": "user", "content": f"Hi {n}."}], "chosen": [{"role": "assistant", "content": "Yes."}],
     "rejected": [{"role": "assistant", "content": "No."}]} | group
    for n, group in enumerate(({}, {"kind": "crossed", "crossed_group": "g1"}, {"kind": "crossed", "crossed_group": "g2"}))
]  # fmt: skip
STAGES = ("filter_personas", "roleplay", "extract_pairs", "dpo", "converse@dpo")


class Hub:
    """In place of the Hub: keeps every request, and the files that are committed."""

    def __init__(self):
        self.requests, self.files, self.refuses = [], {}, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requests.append((self.path, self.headers["Authorization"], body))
                if outer.refuses:
                    return respond(self, {"error": f"no right for {TOKEN}"}, 403)
                return respond(self, outer.answer(self.path, body))

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def answer(self, path, body):
        if path.endswith("/repos/create"):
            return {"url": f"{self.url}/me/{json.loads(body)['name']}"}
        if path.endswith("/validate-yaml"):
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                              for f in json.loads(body)["files"]]}  # fmt: skip
        kind = path.split("/")[2]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[kind, line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {
            "commitUrl": f"{self.url}/{'datasets/' * (kind == 'datasets')}me/tiny/commit/1",
            "commitOid": "1",
            "success": True,
        }

    def stop(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def lock():
    """What the repository's dvc.lock has of some stages."""
    found = load_yaml(str(ROOT / "dvc.lock"))
    return json.dumps({**found, "stages": {name: found["stages"][name] for name in STAGES}})


@pytest.fixture
def made(project, lock, monkeypatch):
    """A folder after a run whose trees the embedded model wrote, and whose groups another; its base names no licence."""
    here = project.folder
    jsonl(here / "data/trees.jsonl", TREES)
    jsonl(here / "data/pairs/train.jsonl", PAIRS[:2])
    jsonl(here / "data/pairs/val.jsonl", PAIRS[2:])
    (here / "results").mkdir()
    (here / "results/roleplay.json").write_text('{"calls": {"user": {"calls": 3}}, "trees": 3}')
    (here / "results/extract_pairs.json").write_text('{"quality": {"length_predicts": 0.52381, "pairs": 3}}')
    (here / "models/dpo").mkdir(parents=True)
    (here / "models/dpo/model.safetensors").write_bytes(b"weights")
    (here / "models/dpo/README.md").write_text("---\nlibrary_name: transformers\ntags:\n- dpo\n---\n\n# Tiny, DPO\n")
    (here / "dvc.lock").write_text(lock)
    monkeypatch.chdir(here)
    monkeypatch.setattr(publish, "missing", lambda *_: iter(()))  # it has tests of its own
    return project


def published(project, *words, check=True):
    return project._run(["stages.tools.publish", "me/tiny", *words], check)


def stripped(value):
    """Without what is null."""
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if v is not None}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def test_folders_load_back(made, tmp_path):
    from datasets import load_dataset
    from huggingface_hub import DatasetCard, ModelCard
    from tiny import save
    from transformers import AutoModelForCausalLM, AutoTokenizer

    card = (made.folder / "models/dpo/README.md").read_text()
    save(made.folder / "models/dpo")
    shutil.copy(ROOT / "results/eval.json", "results")
    (made.folder / "models/dpo/README.md").write_text(card)
    done = published(made, "--license", "mit", "--data-license", "cc0-1.0")
    assert "Nothing was sent" in done.stdout and "missing" not in done.stdout
    folder = str(made.folder / "results/publish/dataset")
    pairs = load_dataset(folder, cache_dir=str(tmp_path / "cache"))
    assert list(pairs["train"]) == [{**PAIRS[0], "kind": "uninformed", "crossed_group": None}, PAIRS[1]]
    assert list(pairs["validation"]) == PAIRS[2:]
    trees = load_dataset(folder, "trees", cache_dir=str(tmp_path / "cache"))
    assert [stripped(t) for t in trees["train"]] == [stripped(t) for t in TREES]
    model = AutoModelForCausalLM.from_pretrained("results/publish/model")
    assert model.num_parameters() > 0 and AutoTokenizer.from_pretrained("results/publish/model").chat_template
    data = DatasetCard.load(f"{folder}/README.md")
    assert data.data.license == "cc0-1.0" and data.data.language == "en"
    turns = publish.Run().params("roleplay")["roleplay"]["turns"]
    for line in (
        "| pairs | train | 2 |", "| pairs | validation | 1 |", "| trees | train | 3 |", "| roleplay.trees | 3 |",
        "| extract_pairs.quality.length_predicts | 0.5238 |", "- user: embedded",
        "| uninformed | 1 | 0 | data/trees.jsonl | a responder with a note on the user, and one without |",
        "| crossed | 1 | 1 | data/crossed/train.jsonl | chosen: for this user;",
        "- data/crossed/train.jsonl: not written by this run (see data/crossed/README.md)",
        f"- roleplay.turns: `{turns}`",
    ):  # fmt: skip
        assert line in data.text, line
    assert re.search(r"data/trees.jsonl: `md5 [0-9a-f]{32}`", data.text) and "calls.user" not in data.text
    ours = ModelCard.load("results/publish/model/README.md")
    assert ours.data.license == "mit" and ours.data.datasets == ["me/tiny"] and "# Tiny, DPO" in ours.text
    found = "\n".join(answer(json.loads(Path("results/eval.json").read_text())))
    assert f"## What this run measured\n\n~~~~text\n{found}\n~~~~\n\nThis model is dpo there" in ours.text
    assert Path("prompts/small/assistant.txt").read_text().strip() in ours.text


def test_an_evaluation_that_is_not_of_the_model_is_not_told(made, monkeypatch):
    run, path = publish.Run(), Path("results/eval.json")
    assert publish.measured(run) == f"Not told: {path} is missing."
    path.write_text("{}")
    assert "is not a result" in publish.measured(run)
    monkeypatch.setattr(publish, "earlier", lambda _: "An earlier run.")
    assert publish.measured(run) == f"Not told: {path} may not be of this model. An earlier run."
    run.stages["dpo"]["outs"] = [{**out, "md5": "another"} for out in run.stages["dpo"]["outs"]]
    assert publish.measured(run) == f"Not told: {path} is not of this model."
    assert "model me/tiny" in published(made).stdout, "it is published without"


def test_push_sends_both_folders_and_the_token_only_to_the_hub(made, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = published(made, "--push", "--private", "--license", "mit", "--data-license", "mit")
    created = [json.loads(body) for path, _, body in hub.requests if path.endswith("/repos/create")]
    assert [(c["name"], c.get("type", "model"), c.get("visibility", c.get("private"))) for c in created] in (
        [("tiny", kind, private) for kind in ("model", "dataset")] for private in (True, "private")
    )
    folder = made.folder / "results/publish"
    here = {(f"{p.parts[0]}s", str(p.relative_to(p.parts[0]))) for p in
            (f.relative_to(folder) for f in folder.rglob("*") if f.is_file())}  # fmt: skip
    assert set(hub.files) == here and ("datasets", "trees/train.parquet") in here
    assert hub.files["models", "model.safetensors"] == b"weights"
    assert {key for path, key, _ in hub.requests if "/validate-yaml" not in path} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr and "sent: " in done.stdout
    assert not [p for p in made.folder.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert not [body for _, _, body in hub.requests if TOKEN in body]
    hub.refuses = True
    refused = published(made, "--push", "--license", "mit", "--data-license", "mit", check=False)
    complains(refused, "model me/tiny", "403")
    assert TOKEN not in refused.stdout + refused.stderr


def test_what_is_not_there_is_named_and_the_rest_is_written(made, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (made.folder / "data/pairs/val.jsonl").unlink()
    assert "missing: data/pairs/val.jsonl" in (done := published(made)).stdout
    assert "model me/tiny" in done.stdout and "dataset me/tiny" not in done.stdout
    complains(published(made, "--push", check=False), "data/pairs/val.jsonl", "not published")
    assert not hub.requests


def test_without_a_token_nothing_is_sent(made, hub):
    complains(published(made, "--push", check=False), "HF_TOKEN")
    assert not hub.requests


def test_a_run_that_is_not_there(project):
    complains(project._run(["stages.tools.publish", "me"], check=False), "REPO=owner/name")
    (project.folder / "dvc.lock").write_text("stages: {}\n")
    complains(published(project, check=False), "dvc.lock", "make repro")


def test_missing(made, monkeypatch):
    """Licences, files that are not those of dvc.lock, a run that is not committed."""
    monkeypatch.undo()
    monkeypatch.chdir(made.folder)
    as_dvc_sees_it(made)
    run = publish.Run()
    stale, uncommitted, model, data = publish.missing(run, None, None)
    assert "dpo" in stale and "roleplay" in stale and "git commit" in uncommitted
    assert "LICENSE=" in model and "data/crossed/train.jsonl not written by this run" in data
    jsonl(made.folder / "data/pairs/train.jsonl", PAIRS[:1])
    jsonl(made.folder / "data/pairs/val.jsonl", PAIRS[:1])
    run = publish.Run()
    assert set(run.writers.values()) == {"embedded"} and run.kinds == {"uninformed": [1, 1]} and "kind" not in str(run.rows)
    *_, data = publish.missing(run, "mit", None)
    assert "a model without a licence" in data
    run.stages["roleplay"]["params"]["params.yaml"]["roles"]["preferred_model"] = "openai:gpt-4o"
    *_, data = publish.missing(run, "mit", None)
    assert "preferred openai:gpt-4o" in data and "DATA_LICENSE=" in data
    run = publish.Run()
    run.stages["dpo"]["cmd"] = run.stages["dpo"]["cmd"].replace("data/pairs", "data/mine")
    jsonl(made.folder / "data/mine/train.jsonl", PAIRS[:1])
    assert "data/mine/train.jsonl" in run.writers and run.kinds == {"-": [1, 0]}, "pairs of one's own"
    assert len(list(publish.missing(run, "mit", "mit"))) == 2
