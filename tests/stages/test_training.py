"""SFT and DPO as stages, on a tiny model: killed and continued, on two processes, and what they say of faults."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
from conftest import ROOT, Project, complains
from tiny import one_thread  # noqa: F401

STEPS = 12  # 24 rows in batches of 2
TWO = (ROOT / "presets/accelerate/cpu2.yaml").read_text()


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def project(tmp_path, base):
    """A project whose base model (and SFT model) is tiny, with six conversations of four turns to train on."""
    made = Project(tmp_path, "http://127.0.0.1:9/v1")
    for name in ("base", "sft"):
        (tmp_path / "models").mkdir(exist_ok=True)
        os.symlink(base, tmp_path / "models" / name)
    for part, rows in (("train", tiny.conversations(6, 4)), ("val", tiny.conversations(2, 3, "Be quick."))):
        write_rows(tmp_path / f"data/sft/{part}.jsonl", rows)
        write_rows(tmp_path / f"data/pairs/{part}.jsonl", rows)
    made.set(train__lora_layers=0, train__lora_rank=4, train__save_steps=1, **settings("sft"), **settings("dpo"))
    return made


def settings(stage):
    return {f"{stage}__{k}": v for k, v in (("batch_size", 2), ("accumulation", 1), ("epochs", 1), ("learning_rate", 0.01))}


def out(stage):
    """Arguments that put what a stage writes beside what it reads."""
    return {"model": f"made/{stage}", "live": f"made/{stage}_live", "metrics": f"made/{stage}.json"}


def results(folder, stage):
    """Every file that a stage wrote, but for the GGUF that a tiny model has none of."""
    files = [p for p in (folder / "made").rglob("*") if p.is_file()]
    assert {"model.safetensors", "loss.tsv"} <= {p.name for p in files}
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def start(project, stage, **env):
    """The stage as a process of its own."""
    command = [sys.executable, "-m", *project.command(stage, **out(stage))]
    paths = os.pathsep.join([str(ROOT)])
    return subprocess.Popen(
        command, cwd=project.folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths, **env}
    )


def kill(project, stage, step):
    """Run the stage and kill it once it has a checkpoint of that step or a later one; returns where its checkpoints are."""
    kept = project.folder / ".cache/ckpt" / stage
    process = start(project, stage)
    while max(steps(kept), default=0) < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return kept


def steps(kept):
    """Steps of the whole checkpoints."""
    return {int(p.parent.name.rpartition("-")[2]) for p in kept.glob("*/checkpoint-*/trainer_state.json")}


@pytest.mark.parametrize("stage, lora", [("sft", 4), ("dpo", 0)])
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(project, stage, lora):
    project.set(train__lora_rank=lora)
    (project.folder / "made").mkdir()
    project.run(stage, **out(stage))
    undisturbed = results(project.folder, stage)
    for path in undisturbed:
        (project.folder / path).unlink()
    kept = project.folder / ".cache/ckpt" / stage
    assert not list(kept.glob("*/checkpoint-*")), "checkpoints of a training that is done are gone"

    kill(project, stage, 3)
    assert 3 <= max(steps(kept)) < STEPS and not (project.folder / "made" / stage / "model.safetensors").exists()

    done = project.run(stage, **out(stage))
    assert f"{stage}: continues from checkpoint-" in done.stderr
    again = results(project.folder, stage)
    assert again.keys() == undisturbed.keys()
    assert [path for path in again if again[path] != undisturbed[path]] == []
    curve = (project.folder / f"made/{stage}_live/plots/metrics/train/loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in curve] == ["step", *map(str, range(1, STEPS + 1))]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_processes_give_the_curve_of_one_at_the_same_batch(project, stage, tmp_path):
    project.set(**{f"{stage}__accumulation": 2})
    project.run(stage, **out(stage))
    one = results(project.folder, stage)
    (tmp_path / "two.yaml").write_text(TWO)
    project.set(train__accelerate_config="two.yaml")
    process = start(project, stage)
    assert process.wait(300) == 0, process.stderr.read()
    two = results(project.folder, stage)
    assert two.keys() == one.keys()
    name = f"made/{stage}_live/plots/metrics/train/loss.tsv"
    curves = [[float(line.split("\t")[1]) for line in r[name].decode().splitlines()[1:]] for r in (one, two)]
    assert len(curves[0]) == STEPS / 2 and curves[0][0] != curves[0][-1]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_training_of_one_step_is_not_all_warm_up(project, base, stage):
    project.set(**{f"{stage}__batch_size": 24, f"{stage}__epochs": 0.5, f"{stage}__warmup_share": 0.1})
    project.run(stage, **out(stage))
    made = project.folder / "made"
    assert (made / f"{stage}_live/plots/metrics/train/loss.tsv").read_text().count("\n") == 2
    assert (made / stage / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()


def test_accumulation_must_be_shared_out_evenly(project, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO)
    project.set(train__accelerate_config="two.yaml", sft__accumulation=3)
    process = start(project, "sft")
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert [line for line in told.splitlines() if line.startswith("error: ")] == [
        "error: sft.accumulation: 3 is not a multiple of the 2 processes"
    ]
    assert "Traceback" not in told


def test_one_process_instead_of_two_is_noticed(project, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO.replace("MULTI_GPU", "MULTI_CPU"))  # which accelerate would start with mpirun
    project.set(train__accelerate_config="two.yaml")
    process = start(project, "sft")
    _, told = process.communicate(timeout=300)
    assert "error: two.yaml: num_processes is 2, accelerate started 1" in told and "Traceback" not in told


def test_a_missing_accelerate_config_is_named(project):
    project.set(train__accelerate_config="no.yaml")
    complains(project.run("sft", check=False, **out("sft")), "train.accelerate_config: no.yaml: no such file")


def test_rows_that_are_not_there(project):
    (project.folder / "data/sft/train.jsonl").write_text("")
    complains(project.run("sft", check=False, **out("sft")), "data/sft/train.jsonl: no row to train on")


def test_a_loss_that_is_no_number_ends_the_training(project):
    project.set(train__lora_rank=0, sft__learning_rate=1e30)
    done = project.run("sft", check=False, **out("sft"))
    complains(done, "sft: the loss is nan at step", "lower sft.learning_rate")
    assert not (project.folder / "made/sft/model.safetensors").exists()


def test_out_of_memory_says_what_to_lower(project, monkeypatch):
    import torch
    from trl import SFTTrainer

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(SFTTrainer, "training_step", full)
    complains(project.run("sft", check=False, **out("sft")), "sft: out of memory; lower sft.batch_size")


def test_checkpoints_of_something_else_or_in_pieces_are_named(project):
    kept = kill(project, "sft", 2)
    folder = next(kept.glob("*/made_from.json")).parent
    for part in folder.glob("checkpoint-*"):
        for file in part.glob("*.safetensors"):
            file.write_bytes(b"broken")
    done = project.run("sft", check=False, **out("sft"))
    complains(done, "cannot be continued from", "delete the folder")
    note = json.loads((folder / "made_from.json").read_text())
    note["params"]["sft"]["learning_rate"] = 1.0
    (folder / "made_from.json").write_text(json.dumps(note))
    complains(project.run("sft", check=False, **out("sft")), "holds checkpoints of other params or inputs")


def test_other_params_start_anew(project):
    kill(project, "sft", 2)
    project.set(sft__learning_rate=0.02)
    assert "continues" not in project.run("sft", **out("sft")).stderr
