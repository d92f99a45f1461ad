"""Calibrate: what is asked, judges side by side, and those that made the data."""

import json

import pytest
from conftest import ROOT, complains

from stages.judging.calibration import BEST, read

ITEMS = read(ROOT / "data/calibration/items.jsonl")


@pytest.mark.slow
def test_judges_side_by_side_and_the_makers_of_the_data(project, server):
    replies = {i["reply"] for i in ITEMS if i["kind"] == BEST}

    def says(body):
        fits = body["messages"][-1]["content"].rsplit("Reply: ", 1)[1] in replies
        return {"good": "5" if fits else "2", "flat": "3"}[body["model"]]

    server.reply = says
    project.set(judge__models=["scripted:good", "scripted:flat"], roles__verifier_model="scripted:flat")
    project.run("calibrate")
    found = json.loads((project.folder / "results/judge/calibration.json").read_text())
    good, flat = found["judges"]["scripted:good"], found["judges"]["scripted:flat"]
    assert good["passed"] and good["accuracy"] == 1 and good["self_agreement"] == 1 and not good["made_data"]
    assert not flat["passed"] and flat["accuracy"] == 0.5 and flat["made_data"]
    assert found["made_data"] == ["scripted:flat", "scripted:tiny"] and found["items"] == 60
    assert len(server.requests) == found["calls"]["all"]["calls"] == 240
    assert "reverse order" in found["self_agreement_between"] and "greedy" in found["self_agreement_between"]
    shown = {json.dumps(b["messages"][1:-1]) for b in server.requests}
    assert len(shown) == 2


def test_a_fault_of_the_items_is_one_line(project):
    path = project.folder / "data/calibration/items.jsonl"
    path.write_text(path.read_text().replace('"kind": "generic"', '"kind": "nice"', 1))
    complains(project.run("calibrate", check=False), "items.jsonl", "kind 'nice' is none of")
