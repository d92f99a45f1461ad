"""SHA-256 of files and of model folders: pins in params.yaml, reply keys, model cards, checkpoints."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from stages.core.cli import UserError

GGUF = "model.gguf"


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def of_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the SHA-256 of each file in the given order, in hex; their names do not count."""
    return hashlib.sha256(b"".join(bytes.fromhex(of_file(path)) for path in paths)).hexdigest()


def served(folder: Path, gguf: bool = True) -> list[Path]:
    """The weights that are served: the GGUF, unless `gguf` is off, else safetensors.

    Raises:
        UserError: there are none, or pickled ones alone.
    """
    files = [folder / GGUF] if gguf and (folder / GGUF).exists() else sorted(folder.glob("*.safetensors"))
    if not files:
        kinds = f"neither {GGUF} nor *.safetensors" if gguf else "no *.safetensors"
        raise UserError(f"{folder}: holds {kinds}; run the stage that makes it")
    return files


def identity(folder: Path, gguf: bool = True) -> str:
    """SHA-256 of the weights that are served (`served`): it stands in a reply's key in place of the folder's name."""
    return of_files(served(folder, gguf))


def check_digest(files: Sequence[Path], expected: str, section: str) -> None:
    """Compare the SHA-256 of a file, or that of several (`of_files`, in the order of their names), with `section`.sha256.

    Where none is pinned, stderr says which one it is.

    Raises:
        UserError: another digest is pinned; no file.
    """
    if not files:
        raise UserError(f"{section}: has no safetensors weights; no other format is loaded")
    first, *more = sorted(files)
    name = f"{first.name} and {len(more)} more" if more else first.name
    found = of_files([first, *more]) if more else of_file(first)
    if not expected:
        print(f"{section}.sha256 is not pinned; {name} has {found}", file=sys.stderr)
    elif found != expected:
        raise UserError(
            f"{section}.sha256: {name} has {found}, params.yaml pins {expected}; if the new weights are wanted, pin theirs"
        )
