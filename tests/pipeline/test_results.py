"""The figures of the README are those of the committed results."""

import json
import re

from repository import ROOT

from stages.core.tables import interval, number, p_value
from stages.evaluation.answer import chosen, signed, signed_interval
from stages.tools import study

README = (ROOT / "README.md").read_text()
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
    page = " ".join((ROOT / "docs/results.md").read_text().split())
    lines = [json.loads(line) for line in (ROOT / "docs/results/runs.jsonl").read_text().splitlines()]
    made = study.tables(lines)
    assert len(made) >= 3
    for table in made:
        assert " ".join(table.split()) in page
    told = " ".join(made)
    prose = re.sub(r"\|.*?\|(?= [^|]*$)", "", re.sub(r"^\|.*$", "", (ROOT / "docs/results.md").read_text(), flags=re.M))
    for figure in re.findall(r"[+-]?\d+\.\d+", prose):
        assert figure in told, figure
