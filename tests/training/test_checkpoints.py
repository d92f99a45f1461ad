"""The name of a training's checkpoints: all that shapes rows and weights is in it."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny
from conftest import ROOT

from stages.core.files import digest
from stages.training import checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that names a training: of a model folder and a file, with a copy of the repository's code."""
    package = tmp_path / "stages/training"
    shutil.copytree(checkpoints.PACKAGE, package)
    shutil.copy(checkpoints.PACKAGE.parent / "sft.py", tmp_path / "stages")
    monkeypatch.setattr(checkpoints, "PACKAGE", package)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "base").mkdir()
    for name in ("base/model.safetensors", "base/chat_template.jinja", "rows.jsonl", "mix.jsonl"):
        (tmp_path / name).write_text(name)
    inputs = [tmp_path / name for name in ("base", "rows.jsonl", "mix.jsonl")]
    return lambda **changes: checkpoints.made_from("sft", tiny.params("sft", **changes), *inputs)


def test_the_same_training_has_the_same_name(made):
    assert made() == made()


@pytest.mark.parametrize(
    "file",
    ["stages/training/order.py", "stages/training/dataset.py", "stages/sft.py", "base/model.safetensors",
     "base/chat_template.jinja", "rows.jsonl", "mix.jsonl"],
)  # fmt: skip
def test_a_changed_file_has_another_name(made, tmp_path, file):
    before = made()
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
    assert digest(made()) != digest(before)


def test_a_changed_param_has_another_name(made):
    names = {digest(made(**changes)) for changes in ({}, {"sft__seed": 2}, {"train__lora_r": 2}, {"sft__weight_decay": 0.1})}
    assert len(names) == 4


def test_a_folder_keeps_whole_checkpoints_and_goes_once_the_training_is_done(made):
    with pytest.raises(ZeroDivisionError), checkpoints.checkpoints(made()) as folder:
        for step, file in ((1, "trainer_state.json"), (2, "model.safetensors")):
            (folder / f"checkpoint-{step}").mkdir()
            (folder / f"checkpoint-{step}" / file).touch()
        raise ZeroDivisionError
    with checkpoints.checkpoints(made()) as again:
        assert again == folder and [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not folder.exists()


def test_a_signal_ends_a_call_that_does_not_hear_it():
    long = (
        "import hashlib; from stages.training import checkpoints as c; c.GRACE_S = 0.2\n"
        "with c.ended_by_signals(): print(1, flush=True); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2_000_000_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", long], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
