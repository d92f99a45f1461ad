"""The study: which experiments it runs, and tables whose figures come group by group from docs/results/runs.jsonl."""

import json

import numpy as np
import pytest
from conftest import ROOT
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides
from omegaconf import OmegaConf

from stages.core.cli import UserError
from stages.tools import preset, study


def line(label: str, right: list[float], run: str = "r", **more) -> dict:
    groups = {f"g{n}": {"pair_accuracy": value, "top1": value / 2, "no_history": 0.5} for n, value in enumerate(right)}
    return {"machine": "here", "run": run, "label": label, "seed": 1, "pairs": 7, "held_out": 0.75, "groups": groups, **more}


@pytest.mark.slow
def test_the_experiments_are_the_study_and_its_contrasts(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    found = {name: (words, arms) for name, words, arms in study.experiments()}
    assert list(found) == ["study", *sorted(p.stem for p in (ROOT / "presets/study").glob("*.yaml"))]
    whole, _ = found["study"]
    assert whole == preset.words("study")
    for words, arms in found.values():
        assert words[: len(whole)] == whole and set(arms) <= {"base", "sft", "dpo", "dpo2", "oracle"}
    for name in ("trees", "curve"):  # DVC takes the later of two values
        params = tmp_path / f"{name}.yaml"
        params.write_text((ROOT / "params.yaml").read_text())
        for overrides in to_path_overrides(found[name][0][1::2]).values():
            apply_overrides(params, overrides)
        made = OmegaConf.load(params)
        assert (made.choose.arms, made.converse.turns) == (found[name][1], 10)
        assert made.choose.exchanges == (name == "curve")
        assert (made.extract_pairs.trees == "data/natural/trees.jsonl") == (name == "trees")


def test_an_arm_that_chose_nothing_is_named(monkeypatch):
    monkeypatch.setattr(study, "at", lambda found, path: "")
    with pytest.raises(UserError, match=r"experiment study-seed-2: arm gpt chose nothing; take it out of choose.arms"):
        list(study.lines_of("seed-2", ["gpt"], {}, {}, "rev"))


def test_seeds_are_averaged_by_group_and_compared_with_base():
    lines = [line("base", [0.5] * 8), line("dpo", [0.75] * 8), line("dpo", [0.85] * 4 + [0.65] * 4, "r-2")]
    base, dpo = study.models(lines, "here")
    assert base["value"] == 0.5 and "gain" not in base
    assert (dpo["seeds"], dpo["held_out"]) == (2, 0.75)
    assert (dpo["value"], dpo["top1"], dpo["no_history"]) == (0.75, 0.375, 0.5)
    assert dpo["gain"]["difference"] == 0.25 and dpo["gain"]["ci"][0] > 0.2
    assert dpo["gain"]["p"] == dpo["gain"]["p_holm"] == pytest.approx(2 / 2**8, abs=1e-6)
    assert study.models(lines, "elsewhere") == []


def test_contrasts_are_made_where_both_labels_are():
    lines = [line("sft", [0.5] * 8), line("dpo", [0.75] * 8), line("dpo, trees", [0.5] * 8)]
    first, second = study.between(lines, "here")
    assert [(entry["first"], entry["second"]) for entry in (first, second)] == [("dpo", "sft"), ("dpo", "dpo, trees")]
    assert first["pair_accuracy"]["difference"] == 0.25 and first["top1"]["difference"] == 0.125


def test_p_is_corrected_over_the_labels():
    lines = [line("base", [0.5] * 4), *(line(f"dpo, {n}", [0.75] * 4) for n in range(3))]
    assert [entry["gain"]["p_holm"] for entry in study.models(lines, "here")[1:]] == pytest.approx([3 * 2 / 2**4] * 3)


def test_the_curve_goes_from_nothing_to_the_whole_history():
    def readings(first: float, whole: float) -> dict:
        values = {"no_history": 0.5, "first_2": whole, "first_1": first, "last_1": 0.1, "history": whole}
        return {reading: {"g0": value, "g1": value} for reading, value in values.items()}

    both = {"base": readings(0.6, 0.7), "dpo": readings(0.7, 0.9)}
    lines = [{"machine": "here", "label": label, "readings": of} for label, of in both.items()]
    found = study.curves(lines, "here")
    assert [entry["seen"] for entry in found] == ["0", "1", "2", "all"]
    assert [entry["dpo"] for entry in found] == [0.5, 0.7, 0.9, 0.9]
    assert [entry["gain"]["difference"] for entry in found] == [0.0, 0.1, 0.2, 0.2]
    assert study.curves([], "here") == []


def test_an_experiment_becomes_lines(monkeypatch):
    flat, told = np.zeros((2, 2)).tolist(), np.eye(2).tolist()
    row = {
        "group": "g",
        "pair_accuracy": 1.0,
        "top1": 1.0,
        "log_probs": {"history": told, "no_history": flat, "first_1": told},
    }
    monkeypatch.setattr(study, "at", lambda revision, path: json.dumps(row) + "\n")
    (seed,) = study.lines_of("seed-3", ["dpo"], {"dpo": 9}, {"dpo": 0.6}, "abc")
    assert (seed["label"], seed["seed"], seed["pairs"], seed["held_out"]) == ("dpo", 3, 9, 0.6)
    assert seed["groups"] == {"g": {"pair_accuracy": 1.0, "top1": 1.0, "no_history": 0.5}}
    (other,) = study.lines_of("trees", ["sft"], {}, {}, "abc")
    assert (other["label"], other["seed"], other["pairs"]) == ("sft, trees", 1, None)
    (curve,) = study.lines_of("curve", ["base"], {}, {}, "abc")
    assert "groups" not in curve
    assert curve["readings"] == {"history": {"g": 1.0}, "no_history": {"g": 0.5}, "first_1": {"g": 1.0}}


def test_an_experiment_that_is_not_there_is_said(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no experiment 'nothing'; `make study` runs it"):
        study.revision("nothing")
