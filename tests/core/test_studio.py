"""DVC Studio and the VS Code extension: what is posted live, once an experiment, and what their views read afterwards."""

import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, Server
from omegaconf import OmegaConf
from repository import commit, jsonl, repository, sh

TOKEN = "isat_recorded_0123456789"  # no token of anybody's


class Recorder:
    """Studio's side of `POST /api/live`: keeps what it was told and by whom."""

    def __init__(self):
        self.events: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.events.append({**body, "path": self.path, "token": self.headers["Authorization"]})
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def env(self) -> dict[str, str]:
        return {"DVC_STUDIO_TOKEN": TOKEN, "DVC_STUDIO_URL": self.url, "DVC_STUDIO_REPO_URL": "git@example.org:me/ours.git"}

    def stop(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def recorder():
    made = Recorder()
    yield made
    made.stop()


def tiny_model(folder: Path) -> None:
    """A model of a few thousand weights with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "user", "assistant", "I", "mend", "boats", "Rest", "your", "knee", "."]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}<s> {{ m.role }} {{ m.content }} </s> {% endfor %}"
        "{% if add_generation_prompt %}<s> assistant {% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, recorder):
    """A repository with a generating stage (judge@base) and a training one (sft); `dvc exp run` went through it once."""
    server = Server()
    project = repository(
        tmp_path_factory.mktemp("studio") / "repo", server.url, "judge", "sft",
        train__lora_layers=1, train__lora_r=2, train__dtype="float32", sft__learning_rate=0.001,
    )  # fmt: skip
    here = project.folder
    plots = OmegaConf.load(ROOT / "results/dvc.yaml").plots
    (here / "results").mkdir(exist_ok=True)
    OmegaConf.save({"plots": [p for p in plots if next(iter(p)) == "SFT loss"]}, here / "results/dvc.yaml")
    tiny_model(here / "models/base")
    said = [{"role": "user", "content": "I mend boats"}]
    rows = [
        {"prompt": said, "completion": [{"role": "assistant", "content": f"Rest your knee {'.' * n}"}]} for n in range(1, 4)
    ]
    jsonl(here / "data/sft/train.jsonl", rows)
    jsonl(here / "data/sft/val.jsonl", rows[:1])
    commit(here, "stages")
    sh(
        here,
        "dvc",
        "exp",
        "run",
        "--name",
        "first",
        "-S",
        "sft.num_train_epochs=3",
        "-S",
        "sft.learning_rate=0.002",
        **recorder.env,
    )
    yield project, list(recorder.events)
    server.stop()


def commit_of(here: Path, experiment: str) -> str:
    """The commit of an experiment by its name."""
    return sh(here, "git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{experiment}").strip()


@pytest.mark.slow
def test_start_data_and_done_arrive_in_order_once_an_experiment(ours):
    project, events = ours
    assert [e["type"] for e in events if e["type"] != "data"] == ["start", "done"]
    assert events[0]["type"] == "start" and events[-1]["type"] == "done" and len(events) > 4
    assert {(e["name"], e["baseline_sha"], e["repo_url"], e["path"], e["token"]) for e in events} == {
        ("first", sh(project.folder, "git", "rev-parse", "HEAD").strip(), "git@example.org:me/ours.git", "/api/live",
         f"token {TOKEN}")
    }  # fmt: skip
    assert events[0]["params"]["params.yaml"]["sft"]["learning_rate"] == 0.002
    assert "sft" in events[-1]["metrics"]["results/sft.json"]["data"]["val"]["loss"]
    assert events[-1]["experiment_rev"] == commit_of(project.folder, "first")


@pytest.mark.slow
def test_training_and_generating_are_seen_live(ours):
    _, events = ours
    plots = [(name, point) for e in events for name, p in e.get("plots", {}).items() for point in p["data"]]
    losses = [float(p["loss"]) for name, p in plots if name == "results/sft_live/plots/metrics/train/loss.tsv"]
    assert len(losses) == 3
    steps = [int(p["step"]) for name, p in plots if name == "results/sft_live/plots/metrics/train/loss.tsv"]
    assert steps == sorted(set(steps))
    asked = [p for name, p in plots if name == "results/live/judge_base.tsv"]
    assert asked and asked[-1]["done"] == 8 and asked[-1]["calls"] == 24 and "stored" in asked[-1]
    last = [e for e in events if "results/live/judge_base.json" in e.get("metrics", {})][-1]
    assert last["metrics"]["results/live/judge_base.json"]["data"]["total"] == 8  # beside the own persona and a wrong one


@pytest.mark.slow
def test_plain_repro_posts_nothing(ours, recorder):
    project, _ = ours
    before = len(recorder.events)
    project.params.sft.learning_rate = 0.003
    project.write()
    ran = sh(project.folder, "dvc", "repro", **recorder.env)
    assert "Running stage 'sft'" in ran
    assert len(recorder.events) == before


@pytest.mark.slow
def test_the_views_find_params_metrics_and_plots(ours):
    project, _ = ours
    here = project.folder
    shown = json.loads(sh(here, "dvc", "exp", "show", "--json", "--rev", "HEAD"))
    runs = [e for row in shown for e in (row.get("experiments") or [])]
    (first,) = [r for e in runs for r in e["revs"] if e.get("name") == "first" or r.get("name") == "first"]
    data = first["data"]
    assert data["params"]["params.yaml"]["data"]["sft"]["learning_rate"] == 0.002
    assert "sft" in data["metrics"]["results/sft.json"]["data"]["val"]["loss"]
    assert {"models/sft", "results/sft_live", "data/judgements/base.jsonl"} <= set(data["outs"])
    text = sh(here, "dvc", "plots", "diff", "--json", "first", "workspace")  # HEAD has none: nothing was run for it
    (plot,) = json.loads(text[text.index("{") :])["data"]["SFT loss"]
    assert plot["type"] == "vega" and set(plot["revisions"]) == {"first", "workspace"}
    points = plot["datapoints"] if "datapoints" in plot else plot["content"]["data"]["values"]
    assert json.dumps(points).count('"step"') >= 6


def leaked(here: Path, *revs: str) -> bool:
    """Whether the token is in git's objects: all of them, also those that nothing names any more, or those of `revs`."""
    if revs:
        names = [line.split()[0] for line in sh(here, "git", "rev-list", "--objects", *revs).splitlines()]
        feed, which = "\n".join(names), ["--batch"]
    else:
        feed, which = "", ["--batch", "--batch-all-objects"]
    done = subprocess.run(["git", "cat-file", *which], cwd=here, input=feed.encode(), capture_output=True, check=True)
    assert len(done.stdout) > 10_000
    return TOKEN.encode() in done.stdout


@pytest.mark.slow
def test_where_the_token_gets_to_and_how_it_does_not(ours, recorder):
    """docs/experiments.md, The token, says what is held here."""
    project, _ = ours
    here = project.folder
    sh(here, "git", "checkout", "-q", ".")
    assert leaked(here), "dvc exp run keeps the token in git's object store no more: say so in docs/experiments.md"
    assert not leaked(here, commit_of(here, "first")), "what is pushed with an experiment holds the token"
    sh(here, "git", "reflog", "expire", "--expire=now", "--all")
    sh(here, "git", "gc", "-q", "--prune=now")
    assert not leaked(here)

    # DVC posts no end of an experiment that lacks a metrics file; in a repository that has results in git none does
    sh(here, "dvc", "exp", "apply", "first")
    commit(here, "results")
    sh(here, "dvc", "config", "--local", "studio.token", TOKEN)
    sh(here, "dvc", "config", "--local", "studio.url", recorder.url)
    sh(here, "dvc", "config", "--local", "studio.repo_url", "git@example.org:me/ours.git")
    sh(here, "dvc", "exp", "run", "--queue", "--name", "open", "-S", "judge.seed=2", "judge@base")
    assert leaked(here), "the queue keeps the token of the config no more: say so in docs/experiments.md"
    sh(here, "dvc", "queue", "remove", "--all")
    sh(here, "git", "reflog", "expire", "--expire=now", "--all")
    sh(here, "git", "gc", "-q", "--prune=now")
    assert not leaked(here)

    sh(
        here,
        "dvc",
        "exp",
        "run",
        "--queue",
        "--name",
        "quiet",
        "-S",
        "judge.seed=3",
        "judge@base",
        DVC_STUDIO_OFFLINE="true",
    )
    assert not leaked(here)
    before = len(recorder.events)
    sh(here, "dvc", "exp", "run", "--run-all")
    end = time.monotonic() + 120
    while recorder.events[-1]["type"] != "done" and time.monotonic() < end:
        time.sleep(0.1)  # the worker goes on for a moment after its log has ended
    seen = recorder.events[before:]
    assert [e["type"] for e in seen if e["type"] != "data"] == ["start", "done"] and {e["name"] for e in seen} == {"quiet"}
    assert any("results/live/judge_base.json" in e.get("metrics", {}) for e in seen)
    assert not leaked(here)
