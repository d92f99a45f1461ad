"""Report: one page on the evaluation, as HTML (with figures, no script, no network) and as Markdown (the same tables).

Reads what the pipeline left: the result of stage eval and its cases, the calibration of the judges, the stages' metrics for
what they cost, dvc.lock for what was run on what, and git for the result before this one. What is missing is named.

Run: make report (or python -m stages.tools.report; nothing is asked, no stage is run)
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, parser, run
from stages.core.files import Record, read_jsonl, read_text, replacing
from stages.evaluation import table
from stages.tools import figures
from stages.tools.figures import Line, Panel, Strip

BASE = "base"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #000; background: #fff }
body { max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #000 } h3 { font-size: 1em }
.wide, figure { overflow-x: auto; margin: 1em 0 } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .18em .55em; text-align: right; vertical-align: top; border-bottom: 1px solid #ccc; white-space: nowrap }
th { border-bottom: 1.5px solid #000 } th:first-child, td:first-child { text-align: left }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere } table.words th { text-align: left }
@media print { h2, figure, tr { break-inside: avoid } body { font-size: 11px } table { font-size: 9px } }
"""
MOVED = (
    "models.*.n_cases", "models.*.unscored", "models.*.al_mean", "models.*.ir", "models.*.n_ir",
    "models.*.personalisation.value", "models.*.recognition.mrr_mean", "vs_base.*.relative_improvement", "vs_base.*.p_holm",
    "vs_base.*.share_of_gain.value", "vs_base.*.recognition_difference",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A part of the report: a heading, a paragraph, a table (head first) or a figure (SVG with its caption)."""

    kind: str  # h2, h3, p, table, words (a table of texts), figure
    text: str = ""
    rows: table.Rows | None = None


def html(title: str, blocks: Sequence[Block]) -> Iterator[str]:
    """The page, in pieces."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style></head><body>\n'
    yield f"<h1>{escape(title)}</h1>\n"
    for b in blocks:
        if b.kind == "figure":
            yield f"<figure>{b.text}</figure>\n"
        elif b.rows is not None:
            yield f'<div class="wide"><table class="{b.kind}">\n'
            for n, row in enumerate(b.rows):
                cell = "td" if n else "th"
                yield "<tr>" + "".join(f"<{cell}>{escape(c)}</{cell}>" for c in row) + "</tr>\n"
            yield "</table></div>\n"
        else:
            yield f"<{b.kind}>{escape(b.text)}</{b.kind}>\n"
    yield "</body></html>\n"


def markdown(title: str, blocks: Sequence[Block]) -> Iterator[str]:
    """The same without the figures, whose numbers are in the tables."""
    yield f"# {title}\n"
    for b in blocks:
        if b.rows is not None:
            lines = ["| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in r) + " |" for r in b.rows]
            side = "---" if b.kind == "words" else "---:"
            lines.insert(1, "|---|" + f"{side}|" * (len(b.rows[0]) - 1))
            yield "\n" + "\n".join(lines) + "\n"
        elif b.kind != "figure":
            yield f"\n{'#' * int(b.kind[1]) + ' ' if b.kind[0] == 'h' else ''}{b.text}\n"


def reading(result: Mapping[str, Any]) -> Iterator[Block]:
    """What may be said of each model against base, in words, from intervals and corrected p-values."""

    def verdict(value: float | None, ci: Sequence[float | None], p: float | None) -> str:
        if value is None or ci[0] is None or ci[1] is None:
            return "not measured"
        if ci[0] <= 0 <= ci[1] or p is None or p >= 0.05:
            return "cannot be told from base"
        return "above base" if value > 0 else "below base"

    rows = [
        ["model", "the judge's score", "personalisation (right - wrong persona)", "user recognised from replies (no judge)"]
    ]
    for name, g in in_order(result, "vs_base"):
        own = g["personalisation"]
        seen = [g.get(f"recognition_{k}") for k in ("difference", "difference_ci", "p_holm")]
        rows.append(
            [
                name,
                verdict(g["difference"], g["difference_ci"], g["p_holm"]),
                verdict(own["difference"], own["ci"], own["p_holm"]),
                verdict(seen[0], seen[1] or [None, None], seen[2]),
            ]
        )
    if len(rows) > 1:
        yield Block(
            "p", "Above or below base: the 95 % interval excludes 0 and the p-value corrected by Holm is below 0.05."
        )
        yield Block("words", rows=rows)


def in_order(result: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """What `result` has of each model under `key`, in the order in which the models were given."""
    return [(name, result[key][name]) for name in result["protocol"]["models"] if name in result[key]]


def by_turn(result: Mapping[str, Any], key: str, pick: str) -> table.Rows:
    """A value at every turn with its interval, a row a turn and a column a model. `key`: recognition, or empty for AL."""
    models = {n: (m[key] if key else m) for n, m in in_order(result, "models") if not key or m[key]}
    rows = [["turn", *models]]
    for k in range(result["protocol"]["turns"]):
        cells = [f"{table.number(m[pick][k])} ({table.interval(m[f'{pick}_ci'][k])})" for m in models.values()]
        rows.append([str(k + 1), *cells])
    return rows


def scores_section(result: Mapping[str, Any], cases: Sequence[Record]) -> Iterator[Block]:
    """Curves with bands, differences case by case, and how the scores are distributed."""
    turns, models = result["protocol"]["turns"], dict(in_order(result, "models"))
    low, high = (float(v) for v in result["scale"].split("-"))
    yield Block("h2", "Alignment by turn")
    panels = [
        Panel(
            name,
            [Line("the model, 95 % interval", m["al"], marker=True, band=m["al_ci"])]
            + ([Line(BASE, models[BASE]["al"], "dashed")] if BASE in models and len(models) > 1 else []),
        )
        for name, m in models.items()
    ]
    axis = (1, max(turns, 2))
    yield Block("figure", figures.grid("AL(k) by model", panels, axis, (low, high), "turn k", "AL(k)"))
    yield Block("table", rows=by_turn(result, "", "al"))
    if BASE in models and result["vs_base"]:
        yield Block("h2", "Differences to base, case by case")
        means = _shared_means(cases)
        drawn = []
        for name, g in in_order(result, "vs_base"):
            drawn.append(Strip(name, means.get(name, []), g["difference"], g["difference_ci"]))
        caption = "mean score of the model less that of base, one dot a case; bar: mean, thick line: 95 % interval"
        yield Block("figure", figures.strips("Differences to base", drawn, caption))
        rows = [["model", "cases", "better", "equal", "worse", "mean difference", "95 % interval"]]
        for s in drawn:
            signs = [sum(d > 0 for d in s.dots), sum(d == 0 for d in s.dots), sum(d < 0 for d in s.dots)]
            counts = [str(n) for n in (len(s.dots), *signs)]
            rows.append([s.label, *counts, table.number(s.mean, 2, True), table.interval(list(s.ci), 2, True)])
        yield Block("table", rows=rows)
    yield Block("h2", "Distribution of the scores")
    step = (high - low) / 8
    places = [low + n * step for n in range(9)]
    shares = {}
    for name in models:
        values = [v for c in cases if c["model"] == name for v in c["scores"] if v is not None]
        bins = [round((v - low) / step) for v in values]
        shares[name] = [bins.count(n) / len(values) if values else 0.0 for n in range(9)]
    panels = [Panel(name, bars=bars, places=places) for name, bars in shares.items()]
    ends = (low - step, high + step)
    yield Block(
        "figure", figures.grid("Scores", panels, ends, (0, 1), f"score, scale {result['scale']}", "share of replies")
    )
    head = ["score, nearest", *(f"{p:g}" for p in places)]
    yield Block("table", rows=[head, *([name, *(f"{100 * s:.0f} %" for s in bars)] for name, bars in shares.items())])


def _shared_means(cases: Sequence[Record]) -> dict[str, list[float]]:
    """By model, the mean difference to base of every case over the turns that both have scored."""
    base = {c["id"]: c["scores"] for c in cases if c["model"] == BASE}
    found: dict[str, list[float]] = {}
    for c in cases:
        pairs = zip(c["scores"], base.get(c["id"], []), strict=False)
        known = [a - b for a, b in pairs if a is not None and b is not None]
        if known:
            found.setdefault(c["model"], []).append(round(sum(known) / len(known), 6))
    return found


def witness_section(result: Mapping[str, Any]) -> Iterator[Block]:
    """Recognition by turn beside chance, echo and what could be known; and the replies' form beside base's."""
    witness = result["recognition"]
    if witness is None:
        yield Block("p", "No conversations were given, so there is no measure without a judge.")
        return
    turns = result["protocol"]["turns"]
    seen = {n: m["recognition"] for n, m in in_order(result, "models") if m["recognition"]}
    yield Block("h2", "Recognition of the user, without a judge")
    yield Block(
        "p",
        f"Mean reciprocal rank of the right persona among {witness['personas']}, by sentence embedding of reply k alone. A "
        "model that says the user's message again gets as far as the message alone (dashed); the user's turns so far are "
        f"what could be known (dotted); both in the conversations of {witness['user_of']}.",
    )
    against = [
        Line("user's message k alone (echo)", witness["from_user_message"]["mrr"], "dashed"),
        Line("user's turns so far", witness["from_user_turns"]["mrr"], "dotted"),
        Line("chance", [witness["chance_mrr"]] * turns, "chain"),
    ]
    panels = [
        Panel(n, [Line("reply k, 95 % interval", r["mrr"], marker=True, band=r["mrr_ci"]), *against])
        for n, r in seen.items()
    ]
    yield Block("figure", figures.grid("Recognition by turn", panels, (1, max(turns, 2)), (0, 1.05), "turn k", "MRR"))
    rows = by_turn(result, "recognition", "mrr")
    rows[0] += ["echo", "user so far", "chance"]
    for k, row in enumerate(rows[1:]):
        row += [table.number(line.values[k]) for line in against]
    yield Block("table", rows=rows)
    rows = [["model", "reply k - echo", "95 % interval", "p", "replies so far: MRR", "95 % interval", "top-1", "chance"]]
    for name, r in seen.items():
        far = r["so_far"]
        rows.append(
            [
                name, table.number(r["above_message"], 2, True), table.interval(r["above_message_ci"], 2, True),
                table.p_value(r["above_message_p"]), table.number(far["mrr_mean"]), table.interval(far["mrr_mean_ci"]),
                table.number(far["top1_mean"]), table.number(witness["chance_top1"]),
            ]
        )  # fmt: skip
    yield Block("table", rows=rows)
    yield Block("h3", "Form of the replies, and how it differs from base (95 % interval)")
    names = ("words", "repetition", "repeats_earlier", "loops", "echo")
    shares = ("distinct_1", "distinct_2", "distinct_3")
    rows = [["model", *names, *(s.replace("_", "-") for s in shares)]]
    for name in seen:
        own, gap = result["models"][name]["degeneration"], result["vs_base"].get(name, {}).get("degeneration_ci", {})
        cells = []
        for n in names:
            more = f" ({table.interval(gap[n], 2, True)})" if n in gap else ""
            cells.append(table.number(own[n], 1 if n == "words" else 2) + more)
        rows.append([name, *cells, *(table.number(own[s]) for s in shares)])
    yield Block("table", rows=rows)


def judges_section(result: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> Iterator[Block]:
    """What the judges are worth."""
    yield Block("h2", "The judges")
    head = [
        "judge",
        "calibration",
        "accuracy",
        "length bias",
        "made the data",
        "scores",
        "unscored",
        "spread of its own samples",
    ]
    rows = [head]
    for name, j in result["judges"].items():
        passed = {None: "not calibrated", True: "passed", False: "FAILED (!)"}[j["passed"]]
        made = {None: "not known", True: "yes (!)", False: "no"}[j["made_data"]]
        worth = [table.number(j["accuracy"]), table.number(j["length_bias"])]
        rows.append([name, passed, *worth, made, str(j["scored"]), str(j["unscored"]), table.number(j["spread"])])
    yield Block("table", rows=rows)
    agreed = result["agreement"]
    if len(result["judges"]) > 1:
        alpha = table.number(agreed["alpha"])
        yield Block("p", f"Agreement: Krippendorff's alpha {alpha} over {agreed['replies']} replies that two judges scored.")
        yield Block("table", rows=table.judge_rows(dict(result)))
    if calibration is None:
        yield Block("p", "No calibration of the judges was found.")
        return
    known = [(name, key, _shown(v)) for name, j in calibration.get("judges", {}).items() for key, v in flat(j).items()]
    yield Block("h3", "Calibration in full")
    yield Block("words", rows=[["judge", "measure", "value"], *(list(k) for k in known)])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name; lists are leaves."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def protocol_section(result: Mapping[str, Any], lock: Mapping[str, Any] | None, context: Any) -> Iterator[Block]:
    """Everything that the numbers depend on."""
    protocol = result["protocol"]
    yield Block("h2", "Protocol")
    rows = [["what", "value"]]
    for key in ("models", "cases", "profiles", "turns", "judges", "intervals", "p_values"):
        value = protocol[key]
        rows.append([key.replace("_", "-"), ", ".join(value) if isinstance(value, list) else str(value)])
    rows.append(["scale", result["scale"]])
    rows.append(["context length of embedded models, tokens (params.yaml now)", _shown(context)])
    rows += [[f"sha256 of prompt {name}", value] for name, value in protocol.get("prompts_sha256", {}).items()]
    rows += [[f"{name}, as evaluated with", value] for name, value in protocol.get("versions", {}).items()]
    yield Block("words", rows=rows)
    if lock is None:
        yield Block("p", "No dvc.lock was found, so what was run on what is not known.")
    else:
        yield Block("h3", "Inputs, models and prompts, by the digests in dvc.lock")
        rows = [["path", "digest", "used by"]]
        used: dict[tuple[str, str], list[str]] = {}
        for stage, entry in lock["stages"].items():
            for dep in entry.get("deps", []):
                if not dep["path"].endswith(".py"):
                    digest = next((f"{k} {dep[k]}" for k in ("md5", "etag", "checksum") if k in dep), "-")
                    used.setdefault((dep["path"], digest), []).append(stage)
        rows += [[path, digest, ", ".join(stages)] for (path, digest), stages in sorted(used.items())]
        yield Block("words", rows=rows)
        yield Block("h3", "Parameters, as each stage was run with them")
        rows = [["parameter", "value", "stages"]]
        given: dict[tuple[str, str], list[str]] = {}
        for stage, entry in lock["stages"].items():
            for file in entry.get("params", {}).values():
                for key, value in flat(file).items():
                    stages = given.setdefault((key, _shown(value)), [])
                    if (name := stage.split("@")[0]) not in stages:
                        stages.append(name)
        rows += [[key, value, ", ".join(stages)] for (key, value), stages in sorted(given.items())]
        yield Block("words", rows=rows)
    yield Block("h3", "Packages of the environment that wrote this report")
    found = sorted({f"{d.metadata['Name']} {d.version}" for d in distributions()}, key=str.lower)
    yield Block("p", ", ".join(found) + ".")


def cost_section(results: Path) -> Iterator[Block]:
    """Calls, tokens and money by stage and role, from the stages' metrics."""
    yield Block("h2", "Cost")
    rows = [["stage: role", "calls", "prompt tokens", "of them cached", "completion tokens", "USD"]]
    for path in sorted(results.rglob("*.json")):
        try:
            calls = json.loads(read_text(path)).get("calls")
        except (ValueError, AttributeError):
            continue  # a plot's rows
        if isinstance(calls, dict):
            for role, c in sorted(calls.items()):
                counts = [_shown(c.get(k)) for k in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")]
                usd = "not told" if c.get("cost_usd") is None else f"{c['cost_usd']:.4f}"
                rows.append([f"{path.relative_to(results).with_suffix('')}: {role}", *counts, usd])
    if len(rows) == 1:
        yield Block("p", "No metrics of a stage that asks models were found.")
    else:
        yield Block("p", "As paid when each reply first came; replies taken from the cache count with what they cost then.")
        yield Block("table", rows=rows)


def earlier(path: Path, now: Mapping[str, Any]) -> tuple[str, Record] | None:
    """(revision, result) of the last commit whose result at `path` is another than `now`; None without git or such a one."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(path.parent), *words], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    try:
        for revision in git("log", "-n", "20", "--format=%h", "--", path.name).split():
            was = json.loads(git("show", f"{revision}:./{path.name}"))
            if was != now and isinstance(was, dict):
                return revision, was
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return None


def moved_section(result: Mapping[str, Any], before: tuple[str, Record] | None) -> Iterator[Block]:
    """What changed since the result before this one: measures first, then what they depend on."""
    yield Block("h2", "Since the revision before")
    if before is None:
        yield Block("p", "There is no earlier result in git that differs from this one.")
        return
    revision, was = before
    old, new = flat(was), flat(result)
    rows = [["measure", revision, "now", "change"]]
    for key in [k for pattern in MOVED for k in new if _matches(k, pattern)]:
        a, b = old.get(key), new[key]
        if a != b:
            change = f"{b - a:+.4g}" if isinstance(a, int | float) and isinstance(b, int | float) else ""
            rows.append([key, _shown(a) if key in old else "not measured", _shown(b), change])
    if len(rows) > 1:
        yield Block("table", rows=rows)
    else:
        yield Block("p", f"None of the main measures moved since {revision}.")
    said = [[k, _shown(old.get(k)), _shown(new.get(k))] for k in sorted({*old, *new}) if k.startswith("protocol.")]
    changed = [row for row in said if row[1] != row[2]]
    if changed:
        yield Block("h3", "Changed in the protocol")
        yield Block("words", rows=[["what", revision, "now"], *changed])


def _matches(key: str, pattern: str) -> bool:
    # a model's name may hold dots, so parts cannot be compared one by one
    start, _, end = pattern.partition("*")
    return key.startswith(start) and key.endswith(end) and len(key) > len(start) + len(end)


def report(
    result: Record, cases: list[Record], results: Path, lock: Record | None, context: Any, before: tuple[str, Record] | None
) -> Iterator[Block]:
    """All of it."""
    calibration = results / "judge" / "calibration.json"
    yield Block("h2", "Result")
    yield from reading(result)
    yield Block("h3", f"{table.by_whom(result)}. Alignment by turn")
    yield Block("table", rows=table.score_rows(result))
    if result["vs_base"]:
        yield Block("h3", f"{table.by_whom(result)}. Gain over base, and how much of it is this user's")
        yield Block("table", rows=table.gain_rows(result))
    if result["recognition"] is not None:
        yield Block("h3", "No judge. Recognition of the user from each reply, and the replies' form")
        yield Block("table", rows=table.witness_rows(result))
        yield Block("table", rows=table.memory_rows(result))
    yield from (Block("p", note) for note in table.notes(result))
    yield from scores_section(result, cases)
    yield from witness_section(result)
    yield from judges_section(result, json.loads(read_text(calibration)) if calibration.exists() else None)
    yield from cost_section(results)
    yield from moved_section(result, before)
    yield from protocol_section(result, lock, context)


def main() -> None:
    p = parser(__doc__, ["results", "lock", "params"], ["html", "markdown"])
    a = p.parse_args()
    from omegaconf import OmegaConf

    path = a.results / "eval.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; run the stage eval first (make repro)")
    try:
        result = json.loads(read_text(path))
        cases = read_jsonl(a.results / "eval_cases.jsonl")
        lock = OmegaConf.to_container(OmegaConf.load(a.lock), resolve=False) if a.lock.exists() else None
        settings = OmegaConf.to_container(OmegaConf.load(a.params), resolve=False) if a.params.exists() else {}
        context = flat(settings).get("llm.embedded.context")
        title = "Evaluation: does the model find out what its user is like?"
        blocks = list(report(result, cases, a.results, lock, context, earlier(path, result)))  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: is not a result of stages.eval as it is now ({e!r}); run dvc repro eval") from None
    with replacing(a.html) as f:
        f.writelines(html(title, blocks))
    with replacing(a.markdown) as f:
        f.writelines(markdown(title, blocks))
    print(f"{a.html}: {a.html.stat().st_size / 1e3:.0f} kB; open it in a browser. {a.markdown}: the same tables as text")


if __name__ == "__main__":
    run(main)
