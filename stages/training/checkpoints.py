"""Checkpoints: a training that was killed goes on."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError
from stages.core.files import Record, digest, read_text, root, write_json

if TYPE_CHECKING:
    from stages.core.statistics import Array

    LogProbs = list[Array]


def made_from(stage: str, settings: Any, *inputs: Path) -> Record:
    """All that determines what training makes, for the name of its checkpoints: params, inputs, code and versions."""

    def sha256(*files: Path) -> str:
        total = hashlib.sha256()
        for file in files:
            with file.open("rb") as f:
                total.update(hashlib.file_digest(f, "sha256").digest())
        return total.hexdigest()

    here = Path(__file__).parent
    code = [here / f"{name}.py" for name in ("training", "prefix", "rows")]
    return {
        "stage": stage,
        "params": asdict(settings),
        "inputs": [sha256(*(sorted(p.glob("*.safetensors")) if p.is_dir() else [p])) for p in inputs],
        "code": sha256(*code, here.parent / f"{stage}.py"),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")},
    }


@contextlib.contextmanager
def checkpoints(made: Record) -> Iterator[Path]:
    """Folder for the checkpoints of a training, shared by all workspaces of this repository; gone once the block ends well.

    A second process that trains the same waits.

    Raises:
        UserError: the folder holds checkpoints of something else.
    """
    folder = root().absolute() / "ckpt" / made["stage"] / digest(made)[:16]
    if int(os.environ.get("RANK", 0)):
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = folder / "made_from.json"
        folder.mkdir(exist_ok=True)  # whoever was waited for has removed it
        if note.exists() and json.loads(read_text(note)) != made:
            raise UserError(f"{folder}: holds checkpoints of other params or inputs; delete the folder")
        write_json(note, made)
        for part in folder.glob("checkpoint-*"):
            if not (part / "trainer_state.json").exists():  # written last
                shutil.rmtree(part)
        yield folder
        shutil.rmtree(folder)
