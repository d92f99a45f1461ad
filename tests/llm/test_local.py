"""Local servers: on loopback alone, behind a key of the run, and one line where a model cannot be served."""

import pytest

from stages.core.cli import UserError
from stages.llm import local
from stages.weights import digest


def listening(process) -> set[str]:
    """Addresses at which a process waits for connections."""
    return {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}


def answer(served: local.Engine, path: str, body: dict | None, key: str | None) -> int:
    """Status of the answer to a request with `key`."""
    import httpx2

    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = served.url.removesuffix("/v1") + path
    return httpx2.request("GET" if body is None else "POST", url, json=body, headers=headers, timeout=60).status_code


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
