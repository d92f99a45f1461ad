"""Report: one page on the evaluation, as HTML (with figures, no script, no network) and as Markdown (the same tables).

Reads the result of stage eval and its cases; with `--against`, also the result of a revision or an experiment, from git.
What is missing is named. No model is asked, no stage is run. What every stage was run on, by digest, and with which
parameters is in dvc.lock; what it cost is in results/ and in `python -m stages.tools.replies size`.

Run: make report (or python -m stages.tools.report [--against REVISION])
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_jsonl, read_text, replacing
from stages.core.tables import Column, Rows, interval, number, p_value, rows
from stages.evaluation import table
from stages.evaluation.scores import BASE
from stages.evaluation.table import CI, MODEL, signed, signed_interval
from stages.tools import against, blocks, figures
from stages.tools.blocks import Block, cell
from stages.tools.figures import Line, Strip

TITLE = "Evaluation: does the model find out what its user is like?"
RESULTS = Path("results")


def verdict(gain: Mapping[str, Any], value: str, ci: str, p: str) -> str:
    """What may be said of a difference to base: of its interval and corrected p-value, by their keys in `gain`."""
    if gain.get(value) is None or gain[ci][0] is None:
        return "not measured"
    if gain[ci][0] <= 0 <= gain[ci][1] or gain[p] is None or gain[p] >= 0.05:
        return "cannot be told from base"
    return "above base" if gain[value] > 0 else "below base"


# of the records that `table.models` gives
VERDICTS: list[Column] = [
    MODEL,
    ("the judge's score", "gain", partial(verdict, value="difference", ci="difference_ci", p="p_holm")),
    ("personalisation (right - wrong persona)", "gain.personalisation",
     partial(verdict, value="difference", ci="ci", p="p_holm")),
    ("user recognised from replies (no judge)", "gain",
     partial(verdict, value="recognition_difference", ci="recognition_difference_ci", p="recognition_p_holm")),
]  # fmt: skip
DIFFERENCES: list[Column] = [
    MODEL, ("cases", "dots", lambda dots: str(len(dots))), ("better", "dots", lambda dots: str(sum(d > 0 for d in dots))),
    ("equal", "dots", lambda dots: str(sum(d == 0 for d in dots))),
    ("worse", "dots", lambda dots: str(sum(d < 0 for d in dots))),
    ("mean difference", "gain.difference", signed), (CI, "gain.difference_ci", signed_interval),
]  # fmt: skip
RECOGNITION: list[Column] = [
    MODEL, ("reply k - echo", "recognition.above_message", signed), (CI, "recognition.above_message_ci", signed_interval),
    ("p", "recognition.above_message_p", p_value), ("replies so far: MRR", "recognition.so_far.mrr_mean", number),
    (CI, "recognition.so_far.mrr_mean_ci", interval), ("top-1", "recognition.so_far.top1_mean", number),
]  # fmt: skip
JUDGES: list[Column] = [
    ("judge", "name", str),
    ("calibration", "passed", lambda passed: {None: "not calibrated", True: "passed"}.get(passed, "FAILED (!)")),
    ("accuracy", "accuracy", number), ("length bias", "length_bias", number),
    ("made the data", "made_data", lambda made: {None: "not known", True: "yes (!)"}.get(made, "no")),
    ("scores", "scored", str), ("unscored", "unscored", str), ("spread of its own samples", "spread", number),
]  # fmt: skip


def result_section(result: Mapping[str, Any], models: Sequence[Record]) -> Iterator[Block]:
    """The verdicts, the tables that stage eval prints, and what has to be said beside them."""
    yield Block("h2", "Result")
    if result["vs_base"]:
        yield Block("p", f"Above or below base: the {CI} excludes 0 and the p-value corrected by Holm is below 0.05.")
        yield Block("words", rows=rows(VERDICTS, [m for m in models if m["gain"]]))
    for title, found in table.blocks(result):
        yield Block("h3", title)
        yield Block("table", rows=found)
    yield from (Block("p", note) for note in table.notes(result))


def curves(models: Mapping[str, Line], references: Sequence[Line], y: tuple[float, float], label: str) -> Iterator[Block]:
    """A measure by turn: a figure with a panel a model, and a table with a column a model and a column a reference."""
    yield Block("figure", figures.curves({name: [line, *references] for name, line in models.items()}, y, label))
    columns = {**{line.label: line for line in references}, **models}
    found: Rows = [["turn", *columns]]
    for k in range(len(next(iter(models.values())).values)):
        bands = [f" ({interval(line.band[k])})" if line.band else "" for line in columns.values()]
        found.append([str(k + 1), *(number(c.values[k]) + b for c, b in zip(columns.values(), bands, strict=True))])
    yield Block("table", rows=found)


def alignment_section(result: Mapping[str, Any], models: Sequence[Record]) -> Iterator[Block]:
    """AL(k) of every model with its interval, beside base's."""
    low, high = (float(v) for v in result["scale"].split("-"))
    base = [Line(BASE, m["al"], "dashed") for m in models if m["name"] == BASE and len(models) > 1]
    yield Block("h2", "Alignment by turn")
    yield from curves({m["name"]: Line("the model", m["al"], band=m["al_ci"]) for m in models}, base, (low, high), "AL(k)")


def difference_section(models: Sequence[Record], cases: Sequence[Record]) -> Iterator[Block]:
    """Every case's difference to base."""
    base = {c["id"]: c["scores"] for c in cases if c["model"] == BASE}
    dots: dict[str, list[float]] = {}
    for c in cases:
        pairs = zip(c["scores"], base.get(c["id"], []), strict=False)
        if known := [a - b for a, b in pairs if a is not None and b is not None]:
            dots.setdefault(c["model"], []).append(round(sum(known) / len(known), 6))
    compared = [{**m, "dots": dots.get(m["name"], [])} for m in models if m["gain"]]
    strips = [Strip(m["name"], m["dots"], m["gain"]["difference"], m["gain"]["difference_ci"]) for m in compared]
    yield Block("h2", "Differences to base, case by case")
    caption = f"mean score of the model less that of base, one dot a case; bar: mean, thick line: {CI}"
    yield Block("figure", figures.strips(strips, caption))
    yield Block("table", rows=rows(DIFFERENCES, compared))


def recognition_section(known: Mapping[str, Any] | None, models: Sequence[Record]) -> Iterator[Block]:
    """Recognition by turn beside chance, echo and what could be known."""
    if known is None:
        yield Block("p", "No conversations were given, so there is no measure without a judge.")
        return
    models = [m for m in models if m["recognition"]]
    yield Block("h2", "Recognition of the user, without a judge")
    yield Block(
        "p",
        f"Mean reciprocal rank of the right persona among {known['personas']}, by sentence embedding of reply k alone. A "
        "model that says the user's message again gets as far as the message alone (echo, dashed); the user's turns so far "
        f"are what could be known (dotted); both in the conversations of {known['user_of']}. Of a random ranking, MRR is "
        f"{number(known['chance_mrr'])} (dashes and dots) and top-1 {number(known['chance_top1'])}.",
    )
    echo, user = known["from_user_message"]["mrr"], known["from_user_turns"]["mrr"]
    chance = Line("chance", [known["chance_mrr"]] * len(echo), "chain")
    references = [Line("echo", echo, "dashed"), Line("user so far", user, "dotted"), chance]
    own = {m["name"]: Line("reply k", m["recognition"]["mrr"], band=m["recognition"]["mrr_ci"]) for m in models}
    yield from curves(own, references, (0, 1.05), "MRR")
    yield Block("table", rows=rows(RECOGNITION, models))


def report(result: Mapping[str, Any], cases: Sequence[Record], revision: str | None) -> Iterator[Block]:
    """All of it."""
    models = table.models(result)
    if revision:
        yield from against.section(revision, result)
    yield from result_section(result, models)
    yield from alignment_section(result, models)
    if result["vs_base"]:
        yield from difference_section(models, cases)
    yield from recognition_section(result["recognition"], models)
    yield Block("h2", "The judges")
    yield Block("table", rows=rows(JUDGES, [{"name": name, **j} for name, j in result["judges"].items()]))
    yield Block("h2", "Protocol: what the numbers depend on")
    values = params.flat({"scale": result["scale"], **result["protocol"]})
    yield Block("words", rows=[["what", "value"], *([key, cell(value)] for key, value in values)])


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--against", metavar="REVISION", help="a revision or an experiment's name: what differs from its result")
    a = p.parse_args()
    path = RESULTS / "eval.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; run the stage eval first (make repro)")
    try:
        result = json.loads(read_text(path))
        found = list(report(result, read_jsonl(RESULTS / "eval_cases.jsonl"), a.against))
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
