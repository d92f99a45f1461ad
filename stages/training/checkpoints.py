"""Checkpoints: a training that was killed goes on."""

import contextlib
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from stages.core.files import Record, digest, root, write_json
from stages.core.params import Section
from stages.weights.digest import of_files

PACKAGE = Path(__file__).parent
WEIGHTS = [PACKAGE.parent / "weights" / name for name in ("chat.py", "control_tokens.py", "layers.py")]
GRACE_S = 5.0
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """In the block SIGINT and SIGTERM end the process after GRACE_S at the latest.

    Python hears them between the calls of torch, and one may take minutes; what is to be kept is in the checkpoints.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)

    def watch() -> None:
        while number := os.read(told, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                time.sleep(GRACE_S)
                os._exit(130)
        os.close(told)

    threading.Thread(target=watch, daemon=True).start()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(tell)


def made_from(stage: str, params: Section, *inputs: Path) -> Record:
    """All that determines what a training makes, for the name of its checkpoints: params, inputs, code and versions.

    Args:
        inputs: files, and model folders, every file of which counts (a chat template shapes the rows as weights do).
    """
    code = [*sorted(PACKAGE.glob("*.py")), *WEIGHTS, PACKAGE.parent / f"{stage}.py"]
    return {
        "stage": stage,
        "params": params.model_dump(mode="json"),
        "inputs": [of_files(sorted(f for f in [path, *path.rglob("*")] if f.is_file())) for path in inputs],
        "code": of_files(code),
        "versions": {name: version(name) for name in LIBRARIES},
    }


@contextlib.contextmanager
def checkpoints(made: Record) -> Iterator[Path]:
    """Folder for the checkpoints of a training, shared by all workspaces of this repository; gone once the block ends well.

    A second training of the same waits.

    Args:
        made: see `made_from`; its digest is the folder's name.
    """
    folder = root().absolute() / "ckpt" / made["stage"] / digest(made)[:16]
    if int(os.environ.get("RANK", 0)):
        with ended_by_signals():
            yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # the training that held the lock has removed it
        write_json(folder / "made_from.json", made)
        for part in folder.glob("checkpoint-*"):
            if not (part / "trainer_state.json").exists():  # written last
                shutil.rmtree(part)
        with ended_by_signals():
            yield folder
        shutil.rmtree(folder)
