"""Local servers: on loopback alone, behind a key of the run, and one line where a model cannot be served."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import tiny
from calls import CHAT, ROLE
from conftest import ROOT

from stages.core.cli import UserError
from stages.llm import local
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import Embedded, Llm
from stages.weights import digest

THINKS = tiny.CHATML.replace(
    "assistant\n{% endif %}", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def listening(process) -> set[str]:
    """Addresses at which a process waits for connections."""
    return {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}


def answer(served: local.Engine, path: str, body: dict | None, key: str | None) -> int:
    """Status of the answer to a request with `key`."""
    import httpx2

    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = served.url.removesuffix("/v1") + path
    return httpx2.request("GET" if body is None else "POST", url, json=body, headers=headers, timeout=60).status_code


@pytest.mark.parametrize(
    ("environment", "spins"),
    [({}, local.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_that_wait_sleep_soon_unless_they_are_told_otherwise(tmp_path, monkeypatch, environment, spins):
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setitem(sys.modules, "xllamacpp", MagicMock(Server=MagicMock(side_effect=RuntimeError("no"))))
    with pytest.raises(UserError, match=r"llama\.cpp cannot serve it: no"):
        local._llama(tmp_path / "model.gguf", 1, 64, 1)
    assert environment.get("GOMP_SPINCOUNT") == spins


@pytest.mark.slow
def test_llama_cpp_listens_on_loopback_and_asks_for_the_key_of_the_run(base):
    import psutil

    before = listening(psutil.Process())
    served = [local.start(base, slots=1, context=256, threads=1) for _ in range(2)]
    assert listening(psutil.Process()) | before == {"127.0.0.1"}
    assert served[0].key != served[1].key and len(served[0].key) == 32 and served[0].key not in repr(served[0])
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt": "Hi", "content": "Hi"}
    paths = {"/v1/chat/completions": asked, "/completion": asked, "/tokenize": asked, "/v1/models": None, "/slots": None}
    for path, body in paths.items():
        for key in (None, "none", served[1].key):
            assert answer(served[0], path, body, key) == 401, (path, key)
        assert answer(served[0], path, body, served[0].key) == 200, path
    for one in served:
        one.stop()


@pytest.mark.slow
def test_transformers_serve_listens_on_loopback_and_asks_for_the_key_of_the_run(base, tmp_path):
    import psutil

    for file in base.iterdir():
        if file.name != digest.GGUF:
            (tmp_path / file.name).symlink_to(file)
    served = local.start(tmp_path, slots=1, context=256, threads=1)
    process = psutil.Process(served.handle.pid)
    assert listening(process) == {"127.0.0.1"}
    assert served.key not in " ".join(process.cmdline()) and served.key not in repr(served)
    asked = {"model": served.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for path, body in {
        "/v1/chat/completions": asked,
        "/load_model": {"model": "x/y"},
        "/reset": {},
        "/health": None,
    }.items():
        assert answer(served, path, body, None) == answer(served, path, body, "none") == 401, path
    assert answer(served, "/v1/chat/completions", asked, served.key) == 200
    served.stop()
    assert not process.is_running()


@pytest.mark.slow
def test_a_model_that_transformers_cannot_serve_is_one_line(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"`transformers serve` ended with code 1: \w+"):
        local.start(tmp_path, slots=1, context=256, threads=1)


# Stands in for `vllm serve` and `sglang serve`: takes the options that the engines document, no others, and puts up the
# middleware as vLLM does. It answers with its own command line.
STAND_IN = """#!{python}
import argparse, importlib, os, sys
import fastapi, uvicorn, yaml
p = argparse.ArgumentParser(allow_abbrev=False)
p.add_argument("verb", choices=["serve"])
p.add_argument("model")
both = ["host", "port", "served-model-name", "load-format", "default-chat-template-kwargs"]
vllm = ["generation-config", "max-model-len", "gpu-memory-utilization", "middleware", "uvicorn-log-level"]
sglang = ["sampling-defaults", "mem-fraction-static", "log-level", "config"]
for name in [*both, *(vllm if sys.argv[0].endswith("vllm") else sglang)]:
    p.add_argument("--" + name, required=True)
a = p.parse_args()
if not os.path.exists(a.model + "/config.json"):
    sys.exit("(Core pid=1) ValueError: no config\\nRuntimeError: Engine core initialization failed. See root cause above.")
app = fastapi.FastAPI()
if sys.argv[0].endswith("vllm"):
    module, _, name = a.middleware.rpartition(".")
    app.middleware("http")(getattr(importlib.import_module(module), name))
else:
    key = yaml.safe_load(open(a.config))["api-key"]
    from stages.llm.guard import KEY
    assert key == os.environ[KEY] and os.stat(os.path.dirname(a.config)).st_mode & 0o077 == 0

@app.get("/v1/models")
def models():
    return {{"data": [{{"id": a.served_model_name}}]}}

@app.post("/v1/chat/completions")
def chat(body: dict):
    message = {{"role": "assistant", "content": " ".join(sys.argv[1:])}}
    return {{"model": body["model"], "choices": [{{"index": 0, "finish_reason": "stop", "message": message}}]}}

uvicorn.run(app, host=a.host, port=int(a.port), log_level="warning")
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Commands `vllm` and `sglang` on the PATH, a GPU, and a folder with both kinds of weights."""
    for name in ("vllm", "sglang"):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(STAND_IN.format(python=sys.executable))
        file.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(local, "_gpu", lambda: True)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / digest.GGUF).write_bytes(b"gguf")
    return folder


def test_which_engine_serves_a_folder(stand_in, monkeypatch):
    assert local.choose(stand_in) == "vllm" and local.choose(stand_in, "llamacpp") == "llamacpp"
    (stand_in.parent / "bin/vllm").unlink()
    assert local.choose(stand_in) == "sglang"
    tensors, gguf = local.identity(stand_in), local.identity(stand_in, "llamacpp")
    assert tensors == local.identity(stand_in, "transformers") != gguf, "a key holds what is served"
    monkeypatch.setattr(local, "_gpu", lambda: False)
    assert local.choose(stand_in) == "llamacpp" and local.identity(stand_in) == gguf
    with pytest.raises(UserError, match="vllm is not installed here"):
        local.start(stand_in, slots=1, context=256, threads=1, engine="vllm")
    (stand_in / digest.GGUF).unlink()
    assert local.choose(stand_in) == "transformers" and local.identity(stand_in) == tensors
    with pytest.raises(UserError, match=r"holds no model\.gguf, which llm\.local_engine: llamacpp"):
        local.start(stand_in, slots=1, context=256, threads=1, engine="llamacpp")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_in_an_environment_of_its_own_is_started_asked_and_stopped(stand_in, name, monkeypatch):
    import psutil

    monkeypatch.setenv("DVC_ROOT", str(stand_in.parent))
    llm = Llm(conversations_in_flight=1, embedded=Embedded(), endpoints={}, local_engine=name)
    seen = []

    async def work():
        async with Client(PaidCalls("test", llm, {"embedded": stand_in})) as client:
            said = await client.ask(ROLE.model_copy(update={"model": "embedded"}), CHAT, 7, str.strip)
            (engine,) = client.servers._engines
            process = psutil.Process(engine.handle.pid)
            seen.extend(
                [engine, process, listening(process), [answer(engine, "/v1/models", None, k) for k in (None, engine.key)]]
            )
            return said.text

    words = asyncio.run(work())
    engine, process, addresses, statuses = seen
    assert str(stand_in) in words and engine.key not in words and addresses == {"127.0.0.1"}
    assert "--load-format safetensors" in words and not process.is_running()
    if name == "vllm":
        assert statuses == [401, 200] and "--gpu-memory-utilization 0.9 " in words


@pytest.mark.slow
def test_an_engine_that_cannot_serve_the_model_says_why_in_one_line(stand_in):
    (stand_in / "config.json").unlink()
    opened = []
    with pytest.raises(UserError, match=r"model: `vllm serve` ended with code 1: ValueError: no config$"):
        local.start(stand_in, slots=1, context=256, threads=1, opened=opened)
    assert opened[0].handle.poll() == 1, "whoever closes the servers meanwhile stops it"


def first_tokens(served: local.Engine, number: int, **more) -> set[str]:
    """First tokens of replies drawn with as many seeds at temperature 2."""
    import httpx2

    asked = {"model": served.model, "messages": [{"role": "user", "content": "Tell me something."}], "max_tokens": 1}
    asked |= {"temperature": 2.0, "top_p": 1.0, **more}
    with httpx2.Client(headers={"Authorization": f"Bearer {served.key}"}, timeout=60) as client:
        replies = [client.post(f"{served.url}/chat/completions", json={**asked, "seed": n}).json() for n in range(number)]
    return {reply["choices"][0]["message"]["content"] for reply in replies}


@pytest.mark.slow
def test_llama_cpp_adds_no_sampling_of_its_own(base):
    served = local.start(base, slots=4, context=256, threads=1)
    assert len(first_tokens(served, 60)) > 50  # 25 with top_k 40 and min_p 0.05
    assert len(first_tokens(served, 10, temperature=0.0)) == 1
    served.stop()


@pytest.mark.slow
def test_llama_cpp_takes_no_sampling_from_the_gguf_and_does_not_think(tmp_path):
    import httpx2

    tiny.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(THINKS)
    tiny.gguf(tmp_path, general__sampling__top_k=1)
    served = local.start(tmp_path, slots=1, context=256, threads=1)
    assert len(first_tokens(served, 20)) > 5
    asked, key = {"messages": [{"role": "user", "content": "Hi"}]}, {"Authorization": f"Bearer {served.key}"}
    url = served.url.removesuffix("/v1") + "/apply-template"
    assert httpx2.post(url, json=asked, headers=key).json()["prompt"].endswith("<think>\n\n</think>\n\n")
    served.stop()


@pytest.mark.slow
def test_transformers_serve_takes_no_sampling_from_the_folder(tmp_path, monkeypatch):
    from transformers import GenerationMixin
    from transformers.cli.serving.chat_completion import ChatCompletionHandler

    for kind, name in ((ChatCompletionHandler, "_build_generation_config"), (GenerationMixin, "_get_logits_processor")):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # put back after the test
    local._plain_sampling()
    words = tiny.tokenizer()
    model, handler = tiny.model(words), ChatCompletionHandler.__new__(ChatCompletionHandler)
    handler.generation_state = SimpleNamespace(_compile=False)
    for name, value in {"do_sample": False, "top_k": 1, "min_p": 0.5, "repetition_penalty": 9.0}.items():
        setattr(model.generation_config, name, value)

    def drawn(number, **body):
        given = words("Hi hi hi", return_tensors="pt")
        replies = []
        for seed in range(number):
            config = handler._build_generation_config({"max_tokens": 12, "seed": seed, **body}, model.generation_config)
            whole = model.generate(**given, generation_config=config)[0].tolist()
            replies.append(whole[given["input_ids"].shape[1] :])
        return replies

    assert len({reply[0] for reply in drawn(40, temperature=2.0, top_p=1.0)}) > 30
    (greedy,), (penalised,) = (drawn(1, temperature=0.0, max_tokens=60, frequency_penalty=x) for x in (0.0, 9.0))
    assert len(set(greedy)) < len(greedy) == 60, "the greedy reply repeats itself, and no penalty is asked for"
    assert len(set(penalised)) == len(penalised) > 4


ORPHAN = """
import asyncio, time
from pathlib import Path
from stages.llm import local
engine = local.Engine("", "m", "k", None)
told = lambda _: print(engine.handle.pid, flush=True) or time.sleep(60)
asyncio.run(asyncio.to_thread(local._process, "x", Path(), ["sleep", "60"], engine, told, 1, []))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a server outlives a stage that is killed")
def test_the_server_of_a_stage_that_is_killed_ends_too():
    import psutil

    with subprocess.Popen([sys.executable, "-c", ORPHAN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as stage:
        server = psutil.Process(int(stage.stdout.readline()))
        stage.kill()
    gone, _ = psutil.wait_procs([server], timeout=5)
    assert gone or server.status() == psutil.STATUS_ZOMBIE  # nobody may be there to take it away
