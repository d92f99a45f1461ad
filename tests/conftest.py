"""Shared pieces of the tests: a scripted model server on loopback and a small project folder to run stages in."""

import contextlib
import copy
import functools
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import settings
from omegaconf import OmegaConf

from stages.core import cli

ROOT = Path(__file__).parent.parent
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "DVC_STUDIO_TOKEN", "AWS_ACCESS_KEY_ID", "DVC_ROOT", "DVC_EXP_NAME")


def pytest_configure(config):
    """`make quick` draws fewer examples of a property."""
    settings.register_profile("quick", max_examples=20)
    if config.option.markexpr == "not slow":
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path, config):
    """`make quick` does not import files that are slow as a whole: torch alone takes longer than all that it runs."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return "\npytestmark = pytest.mark.slow\n" in collection_path.read_text() or None


def pytest_collection_modifyitems(items):
    """The longest test comes first, then whole pipelines, which take minutes; short files let the workers end together."""
    items.sort(key=lambda item: (item.path.stem != "test_end_to_end", item.path.parent.name != "pipeline"))


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """No key is at hand and no address but loopback can be reached from a test."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else "local"
        assert host in ("127.0.0.1", "localhost", "::1", "local"), f"a test tried to reach {host}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    # loopback has no certificates; every client would read the machine's, 50 ms each
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def reply_to(body: dict) -> str:
    """What the scripted model says: each role is known by its system prompt, the words by the whole request."""
    messages = body["messages"]
    system, last = messages[0]["content"], messages[-1]["content"]
    mark = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:6]
    if system.startswith("You invent people"):
        own = (
            "I own a {} shop in town.",
            "I have {} in my cellar.",
            "My boat {} leaks.",
            "I ride to {} daily.",
            "I fear {}.",
        )
        return " ".join(own).format(*[mark] * 5)
    if system.startswith("You invent characters"):
        return f"I am a{mark}, b{mark}, c{mark}, d{mark}, and e{mark}."
    if system.startswith("You write down"):
        return last
    if system.startswith("You are a person who writes"):
        return last.removeprefix("Fact: ") + f" What about {mark}?"
    if system.startswith("Two replies"):
        return "1" if "Informed" in last.split("Reply 1:")[1].split("Reply 2:")[0] else "2"
    if system.startswith("You rate"):
        return str(1 + int(mark, 16) % 5)
    return ("Informed " if "About me:" in last else "Plain ") + mark


def respond(handler: BaseHTTPRequestHandler, value, status: int = 200) -> None:
    """Answer a request with `value`, as JSON unless it is text already."""
    data = (value if isinstance(value, str) else json.dumps(value)).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


class Server:
    """An OpenAI-compatible server that answers with `reply(body)` and keeps every request it got.

    To misbehave, `reply` may return (status, JSON body), or a function of the request handler that answers in its place.
    """

    def __init__(self, port=0):
        self.reply = reply_to
        self.requests: list[dict] = []
        self.keys: set[str | None] = set()  # what the requests came with
        self.models: list[str] | None = None  # that it lists; None: it has no list
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.keys.add(self.headers["Authorization"])
                said = outer.reply(body)
                if callable(said):
                    said(self)
                    return
                status, answer = said if isinstance(said, tuple) else (200, completion(said, body))
                respond(self, answer, status)

            def do_GET(self):
                listed = outer.models if self.path.endswith("/models") else None
                respond(self, {"object": "list", "data": [{"id": m} for m in listed or []]}, 404 if listed is None else 200)

            def log_message(self, *_):
                pass

        class Http(ThreadingHTTPServer):
            def handle_error(self, *about):
                if not isinstance(sys.exc_info()[1], ConnectionError):  # clients that are killed are part of the tests
                    super().handle_error(*about)

        self._http = Http(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        # looks for `stop` every 10 ms: by default a test waits up to half a second for its server
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()


def completion(text: str, body: dict, finish: str = "stop") -> dict:
    """A chat completion as the protocol shapes it."""
    return {
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The pinned base model: the repository's where it is made, else made for the tests."""
    made = ROOT / "models/base"
    if not (made / "model.gguf").exists():
        made = tmp_path_factory.mktemp("base") / "base"
        subprocess.run([sys.executable, "-m", "stages.base_model", "--model", str(made)], cwd=ROOT, check=True)
    return made


@pytest.fixture
def server():
    s = Server()
    yield s
    s.stop()


def a_round(policy: str = "dpo", roleplay: dict | None = None, extract_pairs: dict | None = None, **dpo) -> dict:
    """A line of section rounds, with changes to three sections."""
    given = {"more_trees": "data/import/trees", "groups": "data/import/groups"}
    return {
        "policy": policy,
        "roleplay": roleplay or {},
        "extract_pairs": {**given, **(extract_pairs or {})},
        "dpo": {"start": "sft", **dpo},
    }


@dataclass
class Done:
    """What a stage run left behind."""

    returncode: int
    stdout: str
    stderr: str


def filled(text: str, params, key: str | None = None, item=None) -> str:
    """A text of dvc.yaml with its ${...} filled in as DVC does, from the foreach item and the params."""

    def value(match):
        first, _, rest = match[1].partition(".")
        if first == "key":
            return key
        if first == "item":
            return str(OmegaConf.select(item, rest)) if rest else item
        return str(OmegaConf.select(params, match[1]))

    return re.sub(r"\$\{([\w.]+)\}", value, text)


@functools.cache
def parsed(yaml: str):
    """A YAML text; hundreds of tests parse the same two."""
    return OmegaConf.create(yaml)


class Project:
    """A folder with the repository's dvc.yaml, prompts and params, every role on the scripted server."""

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        shutil.copy(ROOT / "dvc.yaml", folder)
        shutil.copytree(ROOT / "prompts", folder / "prompts")
        for given in ("data/seeds", "data/import", "data/mix", "data/calibration", "data/crossed", "data/probes"):
            shutil.copytree(ROOT / given, folder / given)
        params = copy.deepcopy(parsed((ROOT / "params.yaml").read_text()))
        for key in params.roles:
            if key.endswith("_model"):
                params.roles[key] = "scripted:tiny"
        for section in ("generator", "user", "judge"):
            params[section].model = "scripted:tiny"
        paper = parsed((ROOT / "presets/paper.yaml").read_text()).arms
        params.arms.update({name: paper[name] for name in ("critique", "fewshot")})  # the strategies but plain replies
        params.extract_pairs.groups = "data/import/groups"  # none
        params.converse.probes = 0  # tests count what conversations ask
        params.extract_pairs.filters.recalled = None  # the scripted replies speak of nothing
        params.llm.endpoints = {"scripted": {"base_url": url, "deadline_s": 5.0}}
        self.params = params
        self.write()

    def write(self) -> None:
        OmegaConf.save(self.params, self.folder / "params.yaml")

    def with_code(self) -> None:
        """The code dependencies are there, as far as DVC asks for them."""
        spec = OmegaConf.to_container(parsed((self.folder / "dvc.yaml").read_text()), resolve=False)
        for stage in spec["stages"].values():
            for path in stage.get("do", stage)["deps"]:
                if path.startswith("stages/"):
                    (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (self.folder / path).touch()

    def set(self, **values) -> None:
        """Change parameters: `set(roleplay__turns=3)`."""
        for key, value in values.items():
            OmegaConf.update(self.params, key.replace("__", "."), value)
        self.write()

    def words(self, stage: str, *more: str, **replaced: str) -> list[str]:
        """A stage's line of dvc.yaml, filled in as DVC does. `replaced`: other paths for its arguments."""
        spec = OmegaConf.to_container(parsed((self.folder / "dvc.yaml").read_text()).stages[stage], resolve=False)
        item = OmegaConf.select(self.params, spec["foreach"][2:-1])[more[0]] if more else None  # foreach: ${section}
        words = shlex.split(filled(spec.get("do", spec)["cmd"], self.params, more[0] if more else None, item))
        for name, value in replaced.items():
            words[words.index("--" + name.replace("_", "-")) + 1] = value
        return words

    def command(self, stage: str, *more: str, **replaced: str) -> list[str]:
        """The words after `-m` in a stage's line (see `words`)."""
        words = self.words(stage, *more, **replaced)
        return words[words.index("-m") + 1 :]

    def run(self, stage: str, *more: str, check: bool = True, **replaced: str) -> "Done":
        """Run a stage as dvc.yaml says (see `command`)."""
        return self._run(self.command(stage, *more, **replaced), check)

    def _run(self, command: list[str], check: bool) -> "Done":
        """`python -m stages.x` inside this process, which saves importing torch in every test."""
        out, err = io.StringIO(), io.StringIO()
        code, argv, here = 0, sys.argv, os.getcwd()
        sys.argv = command
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.run(importlib.import_module(command[0]).main)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
            err.write(f"{e.code}\n")
        finally:
            sys.argv = argv
            os.chdir(here)
        done = Done(code, out.getvalue(), err.getvalue())
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def rows(self, path: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / path).read_text().splitlines()]


@pytest.fixture
def project(tmp_path, server):
    return Project(tmp_path, server.url)


@pytest.fixture(scope="module")
def chrome():
    """Chromium without a window; a test that asks for it is skipped where there is none."""
    pytest.importorskip("selenium", reason="no selenium: the page was not opened")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromium-driver here: the page was not opened")
    from benchmarks.browse import browser

    driver = browser()
    yield driver
    driver.quit()


def complains(done, *parts: str) -> None:
    """A fault the user can mend: exit code 1, one line, no traceback, and the line says what."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for part in parts:
        assert part in lines[0], lines[0]
