"""Local models behind the OpenAI protocol, on loopback, with a key made for the run.

A folder with a model.gguf is served by llama.cpp inside this process; any other Hugging Face folder by `transformers serve`
in a process of its own, which this module is run as.

Both sample as the request says and in no other way: the frequency penalty, then the temperature, then top_p, as OpenAI's
protocol has it. Defaults of the server, of the GGUF and of generation_config.json (top_k, min_p, greedy decoding) are off.
Templates that can are told not to think. For the penalty llama.cpp counts the last 64 tokens, prompt included.
"""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, one_line
from stages.weights.digest import GGUF, served

_KEY = "LOCAL_SERVER_KEY"  # in the environment of a server process; arguments can be read by every user of the machine


@dataclass
class Engine:
    """A running local server: its base URL, the model's name there and the key it asks for."""

    url: str
    model: str
    key: str = field(repr=False)
    handle: Any = field(repr=False)

    def stop(self) -> None:
        """Stop the server (the embedded one ends with its last reference)."""
        if isinstance(self.handle, subprocess.Popen):
            self.handle.terminate()
            self.handle.wait(10)
        self.handle = None


def start(folder: Path, *, slots: int, context: int, threads: int) -> Engine:
    """Serve the model in `folder`.

    Args:
        slots: requests answered at once.
        context: tokens each of them may hold.
        threads: CPU threads, 0 for all cores.
    """
    first = served(folder)[0]
    return _llama(first, slots, context, threads or os.cpu_count() or 1) if first.name == GGUF else _transformers(folder)


def _llama(path: Path, slots: int, context: int, threads: int) -> Engine:
    import xllamacpp

    key = secrets.token_hex(16)
    p = xllamacpp.CommonParams()
    p.model.path, p.hostnames, p.port, p.api_keys = str(path), ["127.0.0.1"], 0, [key]
    p.n_parallel, p.n_ctx, p.cache_ram_mib = slots, slots * context, 256
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.sampling.samplers, p.sampling.user_sampling_config = "penalties;temperature;top_p", -1  # -1: whatever the GGUF says
    p.sampling.penalty_repeat, p.sampling.penalty_present = 1.0, 0.0
    p.enable_reasoning, p.default_template_kwargs = 0, {"enable_thinking": "false"}
    p.ui, p.verbosity, p.warmup, p.ctx_shift = False, 0, False, False
    try:
        server = xllamacpp.Server(p)
    except Exception as e:
        raise UserError(f"{path}: llama.cpp cannot serve it: {one_line(e)}") from None
    return Engine(f"{server.listening_address}/v1", "model", key, server)


def _transformers(folder: Path) -> Engine:
    key = secrets.token_hex(16)
    command = [sys.executable, "-m", "stages.llm.local", str(folder.resolve())]
    here = Path(__file__).parents[2]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=here, env={**os.environ, _KEY: key}, stdout=subprocess.DEVNULL, stderr=log)
        for _ in range(600):
            told = os.pread(log.fileno(), 1_000_000, 0).decode(errors="replace")
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", told):
                return Engine(f"{found[1]}/v1", str(folder.resolve()), key, process)
            if process.poll() is not None:
                last = (told.strip() or "it says nothing").splitlines()[-1]
                raise UserError(f"{folder}: `transformers serve` ended with code {process.returncode}: {one_line(last)}")
            time.sleep(0.2)
    process.kill()
    raise UserError(f"{folder}: `transformers serve` did not answer within two minutes")


def _plain_sampling() -> None:
    """Have `transformers serve` sample as the request says, whatever the model's generation_config.json holds."""
    import torch
    from transformers import GenerationConfig, GenerationMixin
    from transformers.cli.serving.chat_completion import ChatCompletionHandler

    build, processors = ChatCompletionHandler._build_generation_config, GenerationMixin._get_logits_processor

    def of_request(self: Any, body: Any, of_model: Any, use_cb: bool = False) -> Any:
        ends = {name: value for name, value in of_model.to_dict().items() if name.endswith("token_id")}
        vars(of_model).update(vars(GenerationConfig(**ends, do_sample=True, top_k=0)))  # 0: none; its default is 50
        made = build(self, {**body, "frequency_penalty": None}, of_model, use_cb)  # it would make it a factor
        made.frequency_penalty = body.get("frequency_penalty") or 0.0
        return made

    def with_penalty(self: Any, generation_config: Any, input_ids_seq_length: int = 0, **kwargs: Any) -> Any:
        found = processors(self, generation_config, input_ids_seq_length=input_ids_seq_length, **kwargs)

        def penalised(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            said = ids[:, input_ids_seq_length:]
            lost = torch.full_like(said, -generation_config.frequency_penalty, dtype=scores.dtype)
            return scores.scatter_add(1, said, lost)

        found.insert(0, penalised)
        return found

    ChatCompletionHandler._build_generation_config = of_request
    GenerationMixin._get_logits_processor = with_penalty


def _serve(folder: str, key: str) -> None:
    """`transformers serve` on a free port of 127.0.0.1. It knows no keys itself, so its application is put behind one."""
    from fastapi.responses import JSONResponse
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server

    build = server.build_server

    def guarded(*args: Any, **kwargs: Any) -> Any:
        app = build(*args, **kwargs)

        @app.middleware("http")  # type: ignore[untyped-decorator, unused-ignore]
        async def only_with_the_key(request: Any, answer: Any) -> Any:
            if secrets.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode()):
                return await answer(request)
            return JSONResponse({"error": {"message": "not the key of this run"}}, 401)

        return app

    server.build_server = guarded
    _plain_sampling()
    Serve(force_model=folder, host="127.0.0.1", port=0, chat_template_kwargs='{"enable_thinking": false}')


if __name__ == "__main__":
    _serve(sys.argv[1], os.environ.pop(_KEY))
