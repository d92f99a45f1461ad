"""Local models behind the OpenAI protocol, on loopback, with a key made for the run.

A folder with a model.gguf is served by llama.cpp inside this process; any other Hugging Face folder by `transformers serve`.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import UserError, one_line

GGUF = "model.gguf"


@dataclass
class Engine:
    """A running local server: its base URL, the model's name there and the key it asks for."""

    url: str
    model: str
    key: str
    handle: Any

    def stop(self) -> None:
        """Stop the server (the embedded one ends with its last reference)."""
        if isinstance(self.handle, subprocess.Popen):
            self.handle.terminate()
            self.handle.wait(10)
        self.handle = None


def identity(folder: Path) -> str:
    """SHA-256 of the weights that answer: part of a reply's cache key in place of the folder's name."""
    import hashlib

    files = [folder / GGUF] if (folder / GGUF).exists() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds neither {GGUF} nor *.safetensors; run the stage that makes it")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()


def start(folder: Path, *, slots: int, context: int, threads: int) -> Engine:
    """Serve the model in `folder`.

    Args:
        slots: requests answered at once.
        context: tokens each of them may hold.
        threads: CPU threads, 0 for all cores.
    """
    if (folder / GGUF).exists():
        return _llama(folder / GGUF, slots, context, threads or os.cpu_count() or 1)
    return _transformers(folder)


def _llama(path: Path, slots: int, context: int, threads: int) -> Engine:
    import xllamacpp

    key = secrets.token_hex(16)
    p = xllamacpp.CommonParams()
    p.model.path, p.hostnames, p.port, p.api_keys = str(path), ["127.0.0.1"], 0, [key]
    p.n_parallel, p.n_ctx, p.cache_ram_mib = slots, slots * context, 256
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.ui, p.verbosity, p.warmup, p.ctx_shift = False, 0, False, False
    try:
        server = xllamacpp.Server(p)
    except Exception as e:
        raise UserError(f"{path}: llama.cpp cannot serve it: {one_line(e)}") from None
    return Engine(f"{server.listening_address}/v1", "model", key, server)


def _transformers(folder: Path) -> Engine:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--force-model", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if process.poll() is not None:
            raise UserError(f"{folder}: `transformers serve` ended with code {process.returncode}; is it installed?")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return Engine(f"{url}/v1", str(folder), "none", process)
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise UserError(f"{folder}: `transformers serve` did not answer within two minutes")
