"""The figures of the README and of the page of results are those of the committed results."""

import json
import re

from repository import ROOT

from stages.core.tables import interval, number, p_value
from stages.evaluation.answer import answer, chosen, signed, signed_interval
from stages.tools import study

README = (ROOT / "README.md").read_text()
LINES = [json.loads(line) for line in (ROOT / "docs/results/runs.jsonl").read_text().splitlines()]
RESULT = json.loads((ROOT / "results/eval.json").read_text())


def test_the_table_of_the_default_run():
    expected = []
    for m in chosen(RESULT):
        c, gain = m["choose"], m["gain"].get("choose")
        against = f"{signed(gain['difference'])} ({signed_interval(gain['ci'])})" if gain else ""
        p = p_value(gain["p_holm"]) if gain else ""
        expected.append(
            [m["name"], number(c["pair_accuracy"]["value"]), interval(c["pair_accuracy"]["ci"]), against, p,
             number(c["no_history"]["pair_accuracy"]["value"])]
        )  # fmt: skip
    table = re.search(r"\| model \| pairs right .*?\n\n", README, re.S)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()[2:]]
    assert rows == expected


def test_the_counts_of_the_default_run():
    pairs = json.loads((ROOT / "results/extract_pairs.json").read_text())
    said = re.search(r"(\d+) training pairs.*?(\d+) groups for crossed choice", README, re.S)
    assert int(said[1]) == pairs["rows"]["pairs_train"]
    assert int(said[2]) == RESULT["protocol"]["params"]["choose"]["most"]


def test_the_page_of_results_is_what_the_runs_give():
    text = (ROOT / "docs/results.md").read_text()
    page = " ".join(text.split())
    made = study.tables(LINES)
    assert len(made) >= 3
    for table in made:
        assert " ".join(table.split()) in page
    said = answer(json.loads((ROOT / "docs/results/eval.json").read_text()))
    assert "\n".join(said) in text
    told = " ".join([*made, *said])
    prose = re.sub(r"^\|.*$", "", text, flags=re.M)
    for figure in re.findall(r"[+-]?\d+\.\d+", prose):
        assert figure in told, figure


def percent(share):
    return f"{share:.0%}".replace("%", " %")


def test_the_other_figures_of_the_readme():
    part = " ".join(re.search(r"## What the default shows\n(.*?)\n## ", README, re.S)[1].split())
    base, dpo = (RESULT["models"][name] for name in ("base", "dpo"))
    loops = {"base": percent(base["degeneration"]["loops"]), "dpo": percent(dpo["degeneration"]["loops"])}
    assert f"{loops['dpo']} of a dpo reply stands in earlier replies (base {loops['base']})" in part
    over = {"base": base["over_personalisation"], "dpo": dpo["over_personalisation"]}
    assert f"On probes {percent(over['dpo']['value'])}" in part
    assert f"(base {percent(over['base']['value'])}; four users cannot tell" in part
    assert over["dpo"]["ci"][0] <= over["base"]["value"]
    judge = RESULT["judges"][RESULT["protocol"]["judges"][0]]
    wanted = RESULT["protocol"]["params"]["calibrate"]["min_accuracy"]
    assert f"(accuracy {judge['accuracy']:.2f}, {wanted} is needed)" in part and judge["passed"] is False
    groups = json.loads((ROOT / "results/extract_pairs.json").read_text())["crossed"]
    assert f"{groups['groups'] - groups['held_out']} groups of users" in part
    seeds = next(entry for entry in study.models(LINES, "H200") if entry["label"] == "dpo, 27 groups")
    assert seeds["seeds"] == 3 and f"three seeds ({seeds['value']:.2f})" in part
    alone = next(entry for entry in study.models(LINES, study.HERE) if entry["label"] == "sft")
    assert f"SFT alone ({alone['value']:.2f})" in part
