"""Report: one page on the evaluation, as HTML (with figures, no script, no network) and as Markdown (the same tables).

It opens with the answer that `make repro` prints, and with crossed choice as a figure; then a table a question. The rest is
folded, and so are the scores of a judge that failed its calibration. With `--against`, also the answer of a revision or an
experiment, from git. No model is asked, no stage is run. What every stage was run on, by digest, and with which parameters
is in dvc.lock; what it cost is in results/ and in `python -m stages.tools.replies size`.

Run: make report (or python -m stages.tools.report [--against REVISION])
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import read_text, replacing
from stages.core.tables import Column, Rows, interval, number, rows
from stages.evaluation import table
from stages.evaluation.answer import CI, answer, believed, chosen, models, of_choice
from stages.evaluation.scores import BASE
from stages.tools import against, blocks, figures
from stages.tools.blocks import Block, cell
from stages.tools.earlier import earlier
from stages.tools.figures import Line, Point

TITLE = "Evaluation: does the model find out what its user is like?"
RESULTS = Path("results")
JUDGES: list[Column] = [
    ("judge", "name", str),
    ("calibration", "passed", lambda passed: {None: "not calibrated", True: "passed"}.get(passed, "FAILED (!)")),
    ("accuracy", "accuracy", number), ("length bias", "length_bias", number),
    ("made the data", "made_data", lambda made: {None: "not known", True: "yes (!)"}.get(made, "no")),
    ("scores", "scored", str), ("unscored", "unscored", str), ("spread of its own samples", "spread", number),
]  # fmt: skip


def opening(result: Mapping[str, Any]) -> Iterator[Block]:
    """The answer, and crossed choice as a figure."""
    finding, *more = answer(result)
    yield Block("lead", finding)
    yield Block("text", "\n".join(more).strip())
    if arms := chosen(result):
        rules = {
            "chance": (0.5, "dashed"),
            "shared words": (result["choose"]["overlap"]["pair_accuracy"]["value"], "dotted"),
        }
        drawn = [
            Point(
                m["name"], m["choose"]["pair_accuracy"]["value"], m["choose"]["pair_accuracy"]["ci"],
                of_choice(m) == "above base", m["choose"]["no_history"]["pair_accuracy"]["value"],
            )
            for m in arms
        ]  # fmt: skip
        label = f"share of pairs right, with its {CI}"
        yield Block("figure", figures.points(drawn, rules, label, "shown better than base", "without the history"))


def curves(models: Mapping[str, Line], references: Sequence[Line], y: tuple[float, float], label: str) -> Iterator[Block]:
    """A measure by turn: a figure with a panel a model, and a table with a column a model and a column a reference."""
    yield Block("figure", figures.curves({name: [line, *references] for name, line in models.items()}, y, label))
    columns = {**{line.label: line for line in references}, **models}
    found: Rows = [["turn", *columns]]
    for k in range(len(next(iter(models.values())).values)):
        bands = [f" ({interval(line.band[k])})" if line.band else "" for line in columns.values()]
        found.append([str(k + 1), *(number(c.values[k]) + b for c, b in zip(columns.values(), bands, strict=True))])
    yield Block("table", rows=found)


def judge_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """Whether the judges can be believed; what they say, folded where they cannot."""
    yield Block("h2", "What does the judge say, and is it to be believed?")
    yield Block("table", rows=rows(JUDGES, [{"name": name, **j} for name, j in result["judges"].items()]))
    (title, scores), *others = table.judge_tables(result)
    if believed(result):
        yield from (Block("p", title), Block("table", rows=scores))
    else:
        others = [(title, scores), *others]
    yield Block(
        "fold", "The judge's scores by turn" if believed(result) else "Scores of a judge that failed its calibration"
    )
    for title, found in others:
        yield from (Block("h3", title), Block("table", rows=found))
    every = models(result)
    low, high = (float(v) for v in result["scale"].split("-"))
    base = [Line(BASE, m["al"], "dashed") for m in every if m["name"] == BASE and len(every) > 1]
    yield from curves({m["name"]: Line("the model", m["al"], band=m["al_ci"]) for m in every}, base, (low, high), "AL(k)")
    yield Block("end")


def report(result: Mapping[str, Any], revision: str | None) -> Iterator[Block]:
    """All of it."""
    if line := earlier("eval"):
        yield Block("p", line)
    yield from opening(result)
    if revision:
        yield from against.section(revision, result)
    yield Block("h2", "What did it cost?")
    found = [block for title, rows in table.cost_tables(result) for block in (Block("p", title), Block("table", rows=rows))]
    yield from found or [Block("p", "Not measured.")]
    yield from judge_section(result)
    yield Block("fold", "How the numbers are made, and what they depend on")
    yield from (Block("p", note) for note in table.notes(result))
    values = params.flat({"scale": result["scale"], **result["protocol"]})
    yield Block("words", rows=[["what", "value"], *([key, cell(value)] for key, value in values)])
    yield Block("end")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--against", metavar="REVISION", help="a revision or an experiment's name: what differs from its result")
    a = p.parse_args()
    path = RESULTS / "eval.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; run the stage eval first (make repro)")
    try:
        result = json.loads(read_text(path))
        found = list(report(result, a.against))
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: is not a result of stages.eval as it is now ({e!r}); run dvc repro eval") from None
    page, text = RESULTS / "report.html", RESULTS / "report.md"
    with replacing(page) as f:
        f.write(blocks.html(TITLE, found))
    with replacing(text) as f:
        f.writelines(blocks.markdown(TITLE, found))
    print(f"{page}: {page.stat().st_size / 1e3:.0f} kB; open it in a browser. {text}: the same tables as text")


if __name__ == "__main__":
    run(main)
