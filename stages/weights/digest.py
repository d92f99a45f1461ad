"""Pinned weights: what is loaded has the SHA-256 that params.yaml says."""

import sys
from hashlib import file_digest, sha256
from pathlib import Path

from stages.core.cli import UserError


def check_digest(files: list[Path], expected: str, section: str) -> None:
    """Compare the SHA-256 of a file, or that of several files' (in the order of their names), with `section`.sha256.

    Where none is pinned, say which one it is.

    Raises:
        UserError: another digest is pinned; no file.
    """
    if not files:
        raise UserError(f"{section}: has no safetensors weights; no other format is loaded")
    digests = []
    for file in sorted(files):
        with file.open("rb") as f:
            digests.append(file_digest(f, "sha256").hexdigest())
    name = files[0].name if len(files) == 1 else f"{min(files).name} and {len(files) - 1} more"
    found = digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
    if not expected:
        print(f"{section}.sha256 is not pinned; {name} has {found}", file=sys.stderr)
    elif found != expected:
        raise UserError(
            f"{section}.sha256: {name} has {found}, params.yaml pins {expected}; if the new weights are wanted, pin theirs"
        )


GGUF = "model.gguf"


def _weights(folder: Path) -> list[Path]:
    """The files that are served: the GGUF, else safetensors. Pickled weights count as none."""
    files = [folder / GGUF] if (folder / GGUF).exists() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds neither {GGUF} nor *.safetensors; run the stage that makes it")
    return files


def identity(folder: Path) -> str:
    """SHA-256 of the weights that answer: part of a reply's cache key in place of the folder's name."""
    import hashlib

    total = hashlib.sha256()
    for file in _weights(folder):
        with file.open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()
