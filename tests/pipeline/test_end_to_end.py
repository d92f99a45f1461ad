"""The whole pipeline with the real embedded model at the smallest scale, in a clone of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

SMALL = {
    "filter_personas.profiles.target": 25,
    "filter_personas.personalities.target": 25,
    "filter_personas.calls": 2,
    "filter_personas.train": 2,
    "filter_personas.eval_profiles": 1,
    "filter_personas.eval_personalities": 1,
    "roles.inducer_tokens": 24,
    "roleplay.turns": 2,
    "extract_pairs.val_share": 0.5,
    "extract_pairs.balance_length": None,
    # four pairs at the most, and the engine says other things on every machine: none shall be dropped for how it is said
    **{f"extract_pairs.filters.{name}": None for name in ("length_ratio", "similarity", "repetition", "loops", "recalled")},
    "extract_pairs.filters.confused": False,
    "extract_pairs.most_groups": 2,
    "extract_pairs.require.min_pairs": 2,
    "extract_pairs.require.max_length_predicts": None,
    "train.lora_layers": 2,
    "train.resamples": 50,
    "sft.num_train_epochs": 1,
    "dpo.num_train_epochs": 1,
    "converse.turns": 2,
    "converse.tokens": 24,  # a reply that is cut is taken as it is
    "converse.probes": 1,
    "choose.most": 2,
    "choose.arms": ["base", "dpo"],
    "eval.resamples": 50,
    "llm.embedded.threads": 1,  # two that wait for each other on a busy core take many times as long
}


ARMS = ("base", "dpo", "dpo_no_memory")  # more only take longer; tests of the stages try every kind on scripted servers


def dvc(folder: Path, *words: str) -> str:
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("DVC")}, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["dvc", *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the working tree (committed or not), with the small params; the base model is taken over if it is there."""
    folder = tmp_path_factory.mktemp("clone") / "repo"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in files.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    items = (folder / "data/calibration/items.jsonl").read_text().splitlines(keepends=True)
    (folder / "data/calibration/items.jsonl").write_text("".join(items[:10]))  # two contexts
    for path in (folder / "data/crossed").glob("*.jsonl"):  # a sixth of the pairs of a group, and short ones
        groups = [json.loads(line) for line in path.read_text().splitlines()]
        for g in groups:
            g["users"] = [u | {"history": u["history"][-2:]} for u in g["users"][:2]]
        path.write_text("".join(json.dumps(g) + "\n" for g in groups))
    params = OmegaConf.load(folder / "params.yaml")
    for key, value in SMALL.items():
        OmegaConf.update(params, key, value)
    params.arms = {arm: params.arms[arm] for arm in ARMS}
    OmegaConf.save(params, folder / "params.yaml")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_the_pipeline_runs_and_repeats(clone):
    output = dvc(clone, "repro")
    assert len(ran(output)) == 18, output
    result = json.loads((clone / "results/eval.json").read_text())
    assert set(result["models"]) == set(ARMS)
    for m in result["models"].values():
        assert m["n_cases"] == 1 and len(m["al"]) == 2
    assert "Crossed choice" in output and "From the conversation?" in output

    trees = (clone / "data/trees.jsonl").read_bytes()
    assert len(trees.splitlines()) == 2
    conversations = {p.name: p.read_bytes() for p in (clone / "data/conversations").iterdir() if p.suffix == ".jsonl"}
    assert set(conversations) == {f"{arm}.jsonl" for arm in ARMS}
    said = {n: [t["user"] for t in json.loads(c)["turns"]] for n, c in conversations.items()}
    assert len({json.dumps(s) for s in said.values()}) == 1, "the user depends on the model although it sees none of it"

    for name in ("sft", "dpo"):
        folder = clone / "models" / name
        assert {"model.gguf", "model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    weights = [(clone / "models" / m / "model.safetensors").read_bytes() for m in ("base", "sft", "dpo")]
    assert len(set(weights)) == 3

    assert ran(dvc(clone, "repro")) == []
    assert "up to date" in dvc(clone, "status")

    # from scratch with the same replies: the same bytes, and no model is asked again
    dvc(clone, "repro", "--force", "--single-item", "converse@dpo")
    assert (clone / "data/conversations/dpo.jsonl").read_bytes() == conversations["dpo.jsonl"]

    # a changed temperature of one role re-runs what follows it, and nothing before
    subprocess.run(["git", "add", "-A"], cwd=clone, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "y"], cwd=clone, check=True)
    rows = {p: p.read_bytes() for kind in ("sft", "pairs") for p in (clone / "data" / kind).glob("*.jsonl")}
    # (test_pipeline.py has the stages after these two, and that DVC's stages are those)
    output = dvc(clone, "exp", "run", "-S", "roles.inducer_temp=1.5", "extract_pairs")  # enough for another note anywhere
    assert ran(output) == ["roleplay", "extract_pairs"]
    assert (clone / "data/trees.jsonl").read_bytes() != trees
    # other notes may leave the same rows, and then nothing more is to be run
    stale = {line.rstrip(":") for line in dvc(clone, "status").splitlines() if line and not line.startswith(("\t", " "))}
    new_rows = {path.parent.name for path, before in rows.items() if path.read_bytes() != before}
    assert "eval" in stale, "the result says how its roles were sampled"
    assert ("sft" in stale, "dpo" in stale) == ("sft" in new_rows, "pairs" in new_rows)
    assert not stale & {"base_model", "seed_personas", "filter_personas", "roleplay", "extract_pairs", "converse@base"}
    shown = dvc(clone, "exp", "show", "--csv")
    assert "roles.inducer_temp" in shown and "models.dpo.al_mean" in shown
    assert "roles.inducer_temp" in dvc(clone, "params", "diff")
