"""Local models behind the OpenAI protocol, on loopback, with a key made for the run.

A folder with a model.gguf is served by llama.cpp inside this process; any other Hugging Face folder by `transformers serve`
in a process of its own, which this module is run as. Where there is a GPU, and vLLM or SGLang in any environment on the
PATH, that one serves the folder's safetensors, in a process of its own too.

All sample as the request says and in no other way: the frequency penalty, then the temperature, then top_p, as OpenAI's
protocol has it. Defaults of the server, of the GGUF and of generation_config.json (top_k, min_p, greedy decoding) are off.
Templates that can are told not to think. For the penalty llama.cpp counts the last 64 tokens, prompt included.
"""

import http.client
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, one_line
from stages.llm.guard import KEY, only_with_the_key
from stages.weights import digest
from stages.weights.digest import GGUF, served

SPINS = "1000"  # of a thread before it sleeps (LOG.md, 2026-11-26)
_HERE = Path(__file__).parents[2]
# runs a command that ends when this process does, also killed (PR_SET_PDEATHSIG, SIGTERM): it holds a GPU's memory
_BOUND = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])"""
_NO_THOUGHTS = '{"enable_thinking": false}'


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
            try:
                self.handle.wait(30)
            except subprocess.TimeoutExpired:
                self.handle.kill()
                self.handle.wait()
        self.handle = None


def _program(name: str) -> str | None:
    """The command `name` of this environment, or of another one on the PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _gpu() -> bool:
    """Whether there is a GPU that is not hidden. torch would know, but it takes seconds and may be a build for CPUs."""
    devices = ("nvidiactl", "dxg", "kfd")  # NVIDIA, NVIDIA under WSL, AMD
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev", name).exists() for name in devices)


def choose(folder: Path, asked: str = "auto") -> str:
    """The engine that serves `folder`: llamacpp, transformers, vllm or sglang. `asked`: one of them, or auto."""
    if asked != "auto":
        return asked
    fast = ("vllm", "sglang") if any(folder.glob("*.safetensors")) and _gpu() else ()
    return next(filter(_program, fast), "llamacpp" if (folder / GGUF).exists() else "transformers")


def identity(folder: Path, asked: str = "auto") -> str:
    """SHA-256 of the weights that the chosen engine serves."""
    return digest.identity(folder, gguf=choose(folder, asked) == "llamacpp")


def start(
    folder: Path, *, slots: int, context: int, threads: int, engine: str = "auto", share: float = 0.9,
    opened: list[Engine] | None = None,
) -> Engine:  # fmt: skip
    """Serve the model in `folder`.

    Args:
        slots: requests answered at once, by llama.cpp.
        context: tokens each of them may hold, in llama.cpp.
        threads: CPU threads of llama.cpp, 0 for all cores.
        engine: llm.local_engine.
        share: of a GPU's memory that vLLM or SGLang takes.
        opened: list that the engine is added to as soon as its process runs.
    Raises:
        UserError: the engine is not there or cannot serve the model.
    """
    name, opened = choose(folder, engine), [] if opened is None else opened
    first = served(folder, gguf=name == "llamacpp")[0]
    if name == "llamacpp":
        if first.name != GGUF:
            raise UserError(f"{folder}: holds no {GGUF}, which llm.local_engine: llamacpp serves")
        opened.append(_llama(first, slots, context, threads or os.cpu_count() or 1))
        return opened[-1]
    key = secrets.token_hex(16)
    return _transformers(folder, key, opened) if name == "transformers" else _fast(name, folder, key, share, opened)


def _llama(path: Path, slots: int, context: int, threads: int) -> Engine:
    # OpenMP's threads wait for each other many times a token. By default they spin so long that beside another job on the
    # same cores they do little else; asleep at once, they take more than twice as long where they are alone
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
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


def _process(
    name: str, folder: Path, command: list[str], engine: Engine, url: Callable[[str], str], minutes: int,
    opened: list[Engine], **environment: str,
) -> Engine:  # fmt: skip
    """Start a server in a process of its own and wait. `url`: of what it has said so far, its address once it answers."""
    environment = {**os.environ, KEY: engine.key, **environment}
    with tempfile.TemporaryFile() as log:
        bound = [sys.executable, "-I", "-c", _BOUND, str(os.getpid())] if sys.platform == "linux" else []
        process = subprocess.Popen([*bound, *command], cwd=_HERE, env=environment, stdout=log, stderr=subprocess.STDOUT)
        engine.handle = process
        opened.append(engine)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            told = os.pread(log.fileno(), 1_000_000, 0).decode(errors="replace")
            if found := url(told):
                engine.url = found
                return engine
            if process.poll() is not None:
                why = re.search(r"\w*Error: .*", told)  # the first is the cause of the others
                last = why[0] if why else (told.strip() or "it says nothing").splitlines()[-1]
                raise UserError(f"{folder}: `{name} serve` ended with code {process.returncode}: {one_line(last)}")
            time.sleep(0.2)
    engine.stop()
    raise UserError(f"{folder}: `{name} serve` did not answer within {minutes} minutes")


def _transformers(folder: Path, key: str, opened: list[Engine]) -> Engine:
    def url(told: str) -> str:
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", told)
        return f"{found[1]}/v1" if found else ""

    model = str(folder.resolve())
    command = [sys.executable, "-m", "stages.llm.local", model]
    return _process("transformers", folder, command, Engine("", model, key, None), url, 2, opened)


def _fast(name: str, folder: Path, key: str, share: float, opened: list[Engine]) -> Engine:
    """vLLM or SGLang, at a port that was free just before."""
    program = _program(name)
    if program is None:
        raise UserError(f"llm.local_engine: {name} is not installed here: no command `{name}` on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def url(_: str) -> str:
        return f"http://127.0.0.1:{port}/v1" if _answers(port, key) else ""

    given = {"host": "127.0.0.1", "port": port, "served-model-name": "model", "load-format": "safetensors"}
    given["default-chat-template-kwargs"] = _NO_THOUGHTS
    environment = {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as private:  # that only this user may read
        if name == "vllm":
            given |= {"generation-config": "vllm", "max-model-len": "auto", "gpu-memory-utilization": round(share, 2)}
            given |= {"middleware": f"{only_with_the_key.__module__}.only_with_the_key", "uvicorn-log-level": "warning"}
            path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
            environment |= {"PYTHONPATH": path, "VLLM_API_KEY": key, "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
        else:
            given |= {"sampling-defaults": "openai", "mem-fraction-static": round(share, 2), "log-level": "warning"}
            given["config"] = Path(private, "key.yaml")
            given["config"].write_text(f"api-key: {key}\n")
        words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
        command = [program, "serve", str(folder.resolve()), *words]
        return _process(name, folder, command, Engine("", "model", key, None), url, 15, opened, **environment)


def _answers(port: int, key: str) -> bool:
    """Whether the server of this run answers: another one does not know its key."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


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


def _serve(folder: str) -> None:
    """`transformers serve` on a free port of 127.0.0.1. It knows no keys itself, so its application is put behind one."""
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server

    build = server.build_server

    def guarded(*args: Any, **kwargs: Any) -> Any:
        app = build(*args, **kwargs)
        app.middleware("http")(only_with_the_key)
        return app

    server.build_server = guarded
    _plain_sampling()
    Serve(force_model=folder, host="127.0.0.1", port=0, chat_template_kwargs=_NO_THOUGHTS)


if __name__ == "__main__":
    _serve(sys.argv[1])
