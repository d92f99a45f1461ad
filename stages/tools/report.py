"""Report: one page on the evaluation, as HTML (with figures, no script, no network) and as Markdown (the same tables).

Reads what the pipeline left in results/: the result of stage eval and its cases, the calibration of the judges, the stages'
metrics for what they cost; and dvc.lock for what was run on what. With `--against`, also what differs from the result of a
revision or an experiment, from git. What is missing is named. No model is asked, no stage is run.

Run: make report (or python -m stages.tools.report [--against REVISION])
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_jsonl, read_text, replacing
from stages.core.tables import Rows, interval, number, p_value
from stages.evaluation import table
from stages.evaluation.degeneration import DISTINCT, MEASURES
from stages.evaluation.scores import BASE
from stages.tools import against, blocks, figures
from stages.tools.blocks import Block, cell
from stages.tools.figures import Line, Panel, Strip

TITLE = "Evaluation: does the model find out what its user is like?"
RESULTS = Path("results")
INTERVAL = "95 % interval"
BINS = 9  # of the distribution of scores


def in_order(result: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """What `result` has of each model under `key`, in the order of the arms."""
    return [(name, result[key][name]) for name in result["protocol"]["models"] if name in result[key]]


def verdict(value: float | None, ci: Sequence[float | None], p: float | None) -> str:
    """What may be said of a difference to base, from its interval and corrected p-value."""
    if value is None or ci[0] is None or ci[1] is None:
        return "not measured"
    if ci[0] <= 0 <= ci[1] or p is None or p >= 0.05:
        return "cannot be told from base"
    return "above base" if value > 0 else "below base"


def verdicts(result: Mapping[str, Any]) -> Rows:
    """Head and one row a model: the verdict on each of the three comparisons with base."""
    rows = [
        ["model", "the judge's score", "personalisation (right - wrong persona)", "user recognised from replies (no judge)"]
    ]
    for name, g in in_order(result, "vs_base"):
        own = g["personalisation"]
        seen = [g.get(f"recognition_{k}") for k in ("difference", "difference_ci", "p_holm")]
        of_judge = verdict(g["difference"], g["difference_ci"], g["p_holm"])
        of_fit = verdict(own["difference"], own["ci"], own["p_holm"])
        rows.append([name, of_judge, of_fit, verdict(seen[0], seen[1] or [None, None], seen[2])])
    return rows


def result_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """The verdicts, the tables that stage eval prints, and what has to be said beside them."""
    yield Block("h2", "Result")
    if result["vs_base"]:
        rule = f"the {INTERVAL} excludes 0 and the p-value corrected by Holm is below 0.05"
        yield Block("p", f"Above or below base: {rule}.")
        yield Block("words", rows=verdicts(result))
    for title, rows in table.blocks(result):
        yield Block("h3", title)
        yield Block("table", rows=rows)
    yield from (Block("p", note) for note in table.notes(result))


def by_turn(models: Mapping[str, Any], key: str, turns: int) -> Rows:
    """The value under `key` at every turn with its interval, a row a turn and a column a model."""
    rows = [["turn", *models]]
    for k in range(turns):
        rows.append([str(k + 1), *(f"{number(m[key][k])} ({interval(m[f'{key}_ci'][k])})" for m in models.values())])
    return rows


def curve_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """AL(k) of every model with its band, beside base's."""
    turns, models = result["protocol"]["turns"], dict(in_order(result, "models"))
    low, high = (float(v) for v in result["scale"].split("-"))
    base = [Line(BASE, models[BASE]["al"], "dashed")] if BASE in models and len(models) > 1 else []
    panels = [Panel(name, [Line("the model", m["al"], band=m["al_ci"]), *base]) for name, m in models.items()]
    yield Block("h2", "Alignment by turn")
    yield Block("figure", figures.grid(panels, (0.8, max(turns, 2) + 0.2), (low, high), ("turn k", "AL(k)")))
    yield Block("table", rows=by_turn(models, "al", turns))


def difference_section(result: Mapping[str, Any], cases: Sequence[Record]) -> Iterator[Block]:
    """Every case's difference to base."""
    base = {c["id"]: c["scores"] for c in cases if c["model"] == BASE}
    dots: dict[str, list[float]] = {}
    for c in cases:
        pairs = zip(c["scores"], base.get(c["id"], []), strict=False)
        if known := [a - b for a, b in pairs if a is not None and b is not None]:
            dots.setdefault(c["model"], []).append(round(sum(known) / len(known), 6))
    gains = in_order(result, "vs_base")
    strips = [Strip(name, dots.get(name, []), g["difference"], g["difference_ci"]) for name, g in gains]
    yield Block("h2", "Differences to base, case by case")
    caption = f"mean score of the model less that of base, one dot a case; bar: mean, thick line: {INTERVAL}"
    yield Block("figure", figures.strips(strips, caption))
    rows = [["model", "cases", "better", "equal", "worse", "mean difference", INTERVAL]]
    for s in strips:
        counts = [len(s.dots), sum(d > 0 for d in s.dots), sum(d == 0 for d in s.dots), sum(d < 0 for d in s.dots)]
        rows.append([s.label, *map(str, counts), *table.signed(s.mean, s.ci)])
    yield Block("table", rows=rows)


def distribution_section(result: Mapping[str, Any], cases: Sequence[Record]) -> Iterator[Block]:
    """How the scores of every model are distributed."""
    low, high = (float(v) for v in result["scale"].split("-"))
    step = (high - low) / (BINS - 1)
    places = [low + n * step for n in range(BINS)]
    shares = {}
    for name in result["protocol"]["models"]:
        bins = [round((v - low) / step) for c in cases if c["model"] == name for v in c["scores"] if v is not None]
        shares[name] = [bins.count(n) / max(len(bins), 1) for n in range(BINS)]
    panels = [Panel(name, bars=bars, places=places) for name, bars in shares.items()]
    yield Block("h2", "Distribution of the scores")
    labels = (f"score, scale {result['scale']}", "share of replies")
    yield Block("figure", figures.grid(panels, (low - step, high + step), (0, 1), labels))
    head = ["score, nearest", *(f"{p:g}" for p in places)]
    yield Block("table", rows=[head, *([name, *(f"{100 * s:.0f} %" for s in bars)] for name, bars in shares.items())])


def recognition_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """Recognition by turn beside chance, echo and what could be known; and the replies' form beside base's."""
    known = result["recognition"]
    if known is None:
        yield Block("p", "No conversations were given, so there is no measure without a judge.")
        return
    turns = result["protocol"]["turns"]
    models = {name: m["recognition"] for name, m in in_order(result, "models") if m["recognition"]}
    yield Block("h2", "Recognition of the user, without a judge")
    yield Block(
        "p",
        f"Mean reciprocal rank of the right persona among {known['personas']}, by sentence embedding of reply k alone. A "
        "model that says the user's message again gets as far as the message alone (dashed); the user's turns so far are "
        f"what could be known (dotted); both in the conversations of {known['user_of']}.",
    )
    references = [
        Line("user's message k alone (echo)", known["from_user_message"]["mrr"], "dashed"),
        Line("user's turns so far", known["from_user_turns"]["mrr"], "dotted"),
        Line("chance", [known["chance_mrr"]] * turns, "chain"),
    ]
    panels = [Panel(n, [Line("reply k", r["mrr"], band=r["mrr_ci"]), *references]) for n, r in models.items()]
    yield Block("figure", figures.grid(panels, (0.8, max(turns, 2) + 0.2), (0, 1.05), ("turn k", "MRR")))
    rows = by_turn(models, "mrr", turns)
    rows[0] += ["echo", "user so far", "chance"]
    for k, row in enumerate(rows[1:]):
        row += [number(line.values[k]) for line in references]
    yield Block("table", rows=rows)
    rows = [["model", "reply k - echo", INTERVAL, "p", "replies so far: MRR", INTERVAL, "top-1", "chance"]]
    for name, r in models.items():
        above, far = table.signed(r["above_message"], r["above_message_ci"]), r["so_far"]
        ranks = [
            number(far["mrr_mean"]),
            interval(far["mrr_mean_ci"]),
            number(far["top1_mean"]),
            number(known["chance_top1"]),
        ]
        rows.append([name, *above, p_value(r["above_message_p"]), *ranks])
    yield Block("table", rows=rows)
    yield Block("h3", f"Form of the replies, and how it differs from base ({INTERVAL})")
    yield Block("table", rows=form_rows(result))


def form_rows(result: Mapping[str, Any]) -> Rows:
    """Head and one row a model: its measures of degeneration, with the interval of the difference to base."""
    rows = [["model", *MEASURES, *(name.replace("_", "-") for name in DISTINCT)]]
    for name, m in in_order(result, "models"):
        form, gaps = m["degeneration"], result["vs_base"].get(name, {}).get("degeneration_ci", {})
        if form:
            values = [number(form[n], 1 if n == "words" else 2) for n in (*MEASURES, *DISTINCT)]
            more = [f" ({interval(gaps[n], 2, True)})" if n in gaps else "" for n in (*MEASURES, *DISTINCT)]
            rows.append([name, *(a + b for a, b in zip(values, more, strict=True))])
    return rows


def judges_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """How far the judges can be trusted."""
    yield Block("h2", "The judges")
    rows = [
        [
            "judge",
            "calibration",
            "accuracy",
            "length bias",
            "made the data",
            "scores",
            "unscored",
            "spread of its own samples",
        ]
    ]
    for name, j in result["judges"].items():
        passed = {None: "not calibrated", True: "passed", False: "FAILED (!)"}[j["passed"]]
        made = {None: "not known", True: "yes (!)", False: "no"}[j["made_data"]]
        measures = [number(j["accuracy"]), number(j["length_bias"]), made]
        rows.append([name, passed, *measures, str(j["scored"]), str(j["unscored"]), number(j["spread"])])
    yield Block("table", rows=rows)
    path = RESULTS / "judge" / "calibration.json"
    if not path.exists():
        yield Block("p", "No calibration of the judges was found.")
        return
    judges = json.loads(read_text(path)).get("judges", {})
    values = [[name, key, cell(value)] for name, about in judges.items() for key, value in params.flat(about)]
    yield Block("h3", "Calibration in full")
    yield Block("words", rows=[["judge", "measure", "value"], *values])


def cost_section() -> Iterator[Block]:
    """Calls, tokens and money by stage and role, from the stages' metrics."""
    yield Block("h2", "Cost")
    rows = [["stage: role", "calls", "prompt tokens", "of them cached", "completion tokens", "USD"]]
    for path in sorted(RESULTS.rglob("*.json")):
        metrics = json.loads(read_text(path))
        calls = metrics.get("calls") if isinstance(metrics, dict) else None  # a plot is a list
        for role, c in sorted(calls.items()) if isinstance(calls, dict) else []:
            counts = [cell(c.get(k)) for k in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")]
            usd = "not known" if c.get("cost_usd") is None else f"{c['cost_usd']:.4f}"
            rows.append([f"{path.relative_to(RESULTS).with_suffix('')}: {role}", *counts, usd])
    if len(rows) == 1:
        yield Block("p", "No metrics of a stage that asks models were found.")
    else:
        yield Block("p", "As paid when each reply first came; replies taken from the cache count with what they cost then.")
        yield Block("table", rows=rows)


def protocol_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """Everything that the numbers depend on."""
    protocol = result["protocol"]
    yield Block("h2", "Protocol")
    rows = [["what", "value"]]
    for key in ("models", "cases", "profiles", "turns", "judges", "intervals", "p_values"):
        value = protocol[key]
        rows.append([key.replace("_", "-"), ", ".join(value) if isinstance(value, list) else str(value)])
    rows.append(["scale", result["scale"]])
    rows += [[f"sha256 of prompt {name}", value] for name, value in protocol.get("prompts_sha256", {}).items()]
    rows += [[f"{name}, as evaluated with", value] for name, value in protocol.get("versions", {}).items()]
    if Path("params.yaml").exists():
        context = dict(params.flat(params.load_yaml("params.yaml"))).get("llm.embedded.context")
        rows.append(["context length of embedded models, tokens (params.yaml now)", cell(context)])
    yield Block("words", rows=rows)
    yield from lock_blocks(params.load_yaml("dvc.lock")["stages"] if Path("dvc.lock").exists() else None)
    yield Block("h3", "Packages of the environment that wrote this report")
    found = sorted({f"{d.metadata['Name']} {d.version}" for d in distributions()}, key=str.lower)
    yield Block("p", ", ".join(found) + ".")


def lock_blocks(stages: Mapping[str, Any] | None) -> Iterator[Block]:
    """Digests of all inputs and values of all parameters, with the stages that used them."""
    if stages is None:
        yield Block("p", "No dvc.lock was found, so what was run on what is not known.")
        return
    used: dict[tuple[str, str], list[str]] = {}
    given: dict[tuple[str, str], list[str]] = {}
    for stage, entry in stages.items():
        for dep in entry.get("deps", []):
            if not dep["path"].startswith("stages/"):
                digest = next((f"{k} {dep[k]}" for k in ("md5", "etag", "checksum") if k in dep), "-")
                used.setdefault((dep["path"], digest), []).append(stage)
        for key, value in params.flat(entry.get("params", {}).get("params.yaml", {})):
            given.setdefault((key, cell(value)), []).append(stage.split("@")[0])
    yield Block("h3", "Inputs, models and prompts, by the digests in dvc.lock")
    rows = [[*key, ", ".join(names)] for key, names in sorted(used.items())]
    yield Block("words", rows=[["path", "digest", "used by"], *rows])
    yield Block("h3", "Parameters, as each stage was run with them")
    rows = [[*key, ", ".join(dict.fromkeys(names))] for key, names in sorted(given.items())]
    yield Block("words", rows=[["parameter", "value", "stages"], *rows])


def report(result: Mapping[str, Any], cases: Sequence[Record], revision: str | None) -> Iterator[Block]:
    """All of it."""
    if revision:
        yield from against.section(revision)
    yield from result_section(result)
    yield from curve_section(result)
    if result["vs_base"]:
        yield from difference_section(result, cases)
    yield from distribution_section(result, cases)
    yield from recognition_section(result)
    yield from judges_section(result)
    yield from cost_section()
    yield from protocol_section(result)


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
