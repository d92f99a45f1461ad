"""SFT and DPO as stages, on a tiny model: killed and continued, on two processes, and what they say of faults."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
from conftest import ROOT, Project, a_round, complains
from tiny import one_thread  # noqa: F401

pytestmark = pytest.mark.slow

STEPS = 12  # 24 rows in batches of 2
TWO = (ROOT / "presets/accelerate/cpu2.yaml").read_text()
LAUNCH = "env ACCELERATE_USE_CPU=true accelerate launch --config_file two.yaml -m"


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
    made.set(train__lora_layers=0, train__lora_r=4, train__save_steps=1, **settings("sft"), **settings("dpo"))
    return made


def settings(stage):
    short = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_train_epochs": 1, "learning_rate": 0.01
    }  # fmt: skip
    return {f"{stage}__{key}": value for key, value in short.items()}


def out(stage):
    """Arguments that put what a stage writes beside what it reads."""
    return {"model": f"made/{stage}", "live": f"made/{stage}_live", "metrics": f"made/{stage}.json"}


def results(folder, stage):
    """Every file that a stage wrote, but for the GGUF that a tiny model has none of."""
    files = [p for p in (folder / "made").rglob("*") if p.is_file()]
    assert {"model.safetensors", "loss.tsv"} <= {p.name for p in files}
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def start(project, stage):
    """The stage as processes of its own, started as dvc.yaml says."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.Popen(
        project.words(stage, **out(stage)), cwd=project.folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
    )  # fmt: skip


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
    project.set(train__lora_r=lora)
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


def test_sigterm_ends_a_training_and_keeps_its_checkpoint(project):
    process, kept = start(project, "sft"), project.folder / ".cache/ckpt/sft"
    while not steps(kept):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in errors and steps(kept)
    assert "sft: continues from checkpoint-" in project.run("sft", **out("sft")).stderr


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_processes_give_the_curve_of_one_at_the_same_batch(project, stage, tmp_path):
    project.set(**{f"{stage}__gradient_accumulation_steps": 2})
    project.run(stage, **out(stage))
    one = results(project.folder, stage)
    (tmp_path / "two.yaml").write_text(TWO)
    project.set(train__launch=LAUNCH)
    process = start(project, stage)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    two = results(project.folder, stage)
    assert two.keys() == one.keys()
    name = f"made/{stage}_live/plots/metrics/train/loss.tsv"
    curves = [[float(line.split("\t")[1]) for line in r[name].decode().splitlines()[1:]] for r in (one, two)]
    assert len(curves[0]) == STEPS / 2 and curves[0][0] != curves[0][-1]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize(
    "kind, launch",
    [("MULTI_CPU", LAUNCH),  # which accelerate would start with mpirun: it starts one process and says nothing
     ("MULTI_GPU", LAUNCH.replace("env ACCELERATE_USE_CPU=true ", ""))],  # two processes that know nothing of each other
)  # fmt: skip
def test_one_process_instead_of_two_is_noticed(project, tmp_path, kind, launch):
    (tmp_path / "two.yaml").write_text(TWO.replace("MULTI_GPU", kind))
    project.set(train__launch=launch, sft__gradient_accumulation_steps=2)
    process = start(project, "sft")
    _, errors = process.communicate(timeout=300)
    assert process.returncode and "error: sft: several processes were to be started, but this one trains alone" in errors


def test_a_training_of_one_step_is_not_all_warm_up(project, base):
    project.set(sft__per_device_train_batch_size=24, sft__num_train_epochs=0.5, sft__warmup_steps=0.1)
    project.run("sft", **out("sft"))
    made = project.folder / "made"
    assert (made / "sft_live/plots/metrics/train/loss.tsv").read_text().count("\n") == 2
    assert (made / "sft/model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_another_setting_of_trl_is_followed(project, stage):
    project.set(**{f"{stage}__max_steps": 3})
    project.run(stage, **out(stage))
    assert json.loads((project.folder / f"made/{stage}.json").read_text())["steps"] == 3


def test_a_later_round_trains_the_model_that_it_names_with_its_own_settings(project):
    project.set(rounds={"2": a_round(max_steps=2)})
    rows = tiny.conversations(4, 2)
    for part in ("train", "val"):
        path = project.folder / f"data/rounds/2/pairs_{part}.jsonl"
        write_rows(path, [{**row, "kind": kind} for row, kind in zip(rows, ("misinformed", "uninformed") * 4, strict=True)])
    project.run("dpo_round", "2")
    found = json.loads((project.folder / "results/rounds/2/dpo.json").read_text())
    assert found["steps"] == 2 and set(found["val"]["reward"]["accuracy"]) == {"sft", "dpo_2"}
    assert {kind: k["rows"] for kind, k in found["val"]["kinds"].items()} == {"misinformed": 4, "uninformed": 4}
    card = (project.folder / "models/dpo_2/README.md").read_text()
    assert "- dpo.start: `sft`" in card and "- dpo.max_steps: `2`" in card and "kinds.misinformed.reward.accuracy" in card


@pytest.mark.parametrize(
    "stage, key, value, text",
    [("sft", "weight_decy", 0.1, "params.yaml: sft.weight_decy: unknown (did you mean weight_decay?)"),
     ("dpo", "loss_type", "sigmid", "params.yaml: dpo.loss_type: 'sigmid' is none of sigmoid, ")],
)  # fmt: skip
def test_what_trl_has_not_is_named_before_a_model_is_loaded(project, stage, key, value, text):
    for name in ("base", "sft"):
        (project.folder / "models" / name).unlink()
    project.set(**{f"{stage}__{key}": value})
    complains(project.run(stage, check=False, **out(stage)), text)


def test_rows_that_are_not_there(project):
    (project.folder / "data/sft/train.jsonl").write_text("")
    complains(project.run("sft", check=False, **out("sft")), "data/sft/train.jsonl: no row to train on")


def test_a_loss_that_is_no_number_ends_the_training(project):
    project.set(train__lora_r=0, sft__learning_rate=1e30)
    done = project.run("sft", check=False, **out("sft"))
    complains(done, "sft: the loss is nan at step", "lower sft.learning_rate")
    assert not (project.folder / "made/sft/model.safetensors").exists()


def test_out_of_memory_says_what_to_lower(project, monkeypatch):
    import torch
    from trl import SFTTrainer

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(SFTTrainer, "training_step", full)
    complains(project.run("sft", check=False, **out("sft")), "sft: out of memory; lower sft.per_device_train_batch_size")


def test_other_params_start_anew_and_checkpoints_in_pieces_are_named(project):
    kept = kill(project, "sft", 2)
    project.set(sft__learning_rate=0.02)
    assert "continues" not in project.run("sft", **out("sft")).stderr
    project.set(sft__learning_rate=0.01)
    for file in kept.glob("*/checkpoint-*/*.safetensors"):
        file.write_bytes(b"broken")
    complains(project.run("sft", check=False, **out("sft")), "cannot be continued from", "delete the folder")
