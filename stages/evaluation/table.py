"""The result as text. `python -m stages.evaluation.table results/eval.json` prints it again without running anything."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from stages.core.cli import UserError, run
from stages.core.files import read_text
from stages.core.tables import Rows, interval, number, p_value, text

Result = Mapping[str, Any]  # results/eval.json
WIDTH = 125
FEW = 10  # profiles below which the bootstrap's intervals are known to be too narrow
LATER = ("reply", "new", "recalls")


def signed(value: float | None, ci: Sequence[float | None]) -> list[str]:
    """Cells of a difference and its interval."""
    return [number(value, 2, True), interval(ci, 2, True)]


def score_rows(result: Result) -> Rows:
    """Head and one row a model: what the scores say."""
    turns = result["protocol"]["turns"]
    rows = [
        ["model", "cases", "unscored", "AL(1)", f"AL({turns})", "mean AL", "95 % interval", "area", "range", "IR",
         "95 % interval", "N-IR", "N-R2"]
    ]  # fmt: skip
    for name in result["protocol"]["models"]:
        m = result["models"][name]
        known = [v for v in m["al"] if v is not None]
        rows.append([
            name, str(m["n_cases"]), str(m["unscored"]), number(m["al"][0]), number(m["al"][-1]), number(m["al_mean"]),
            interval(m["al_mean_ci"]), number(m["area"]), number(max(known) - min(known) if known else None),
            number(m["ir"], 3, True), interval(m["ir_ci"], 3, True), number(m["n_ir"], 3, True), number(m["r2"], 3),
        ])  # fmt: skip
    return rows


def gain_rows(result: Result) -> Rows:
    """Head and one row a model: what it gained over base, and whether that is personal; no row without a base."""
    rows = [
        ["model", "vs base", "95 % interval", "p Holm", "of possible", "95 % interval", "right-wrong", "95 % interval",
         "vs base", "p Holm"]
    ]  # fmt: skip
    for name in result["protocol"]["models"] if result["vs_base"] else []:
        own, g = result["models"][name]["personalisation"], result["vs_base"].get(name)
        gained, share, more = [""] * 3, [""] * 2, [""] * 2
        if g is not None:
            value, low, high = (None if v is None else 100 * v for v in (g["relative_improvement"], *g["ci"]))
            gained = [number(value, 1, True) + (" %" if value is not None else "")]
            gained += [interval([low, high], 1, True), p_value(g["p_holm"])]
            share = [number(g["share_of_gain"]["value"]), interval(g["share_of_gain"]["ci"])]
            more = [number(g["personalisation"]["difference"], 2, True), p_value(g["personalisation"]["p_holm"])]
        rows.append([name, *gained, *share, *signed(own["value"], own["ci"]), *more])
    return rows


def recognition_rows(result: Result) -> Rows:
    """Head and one row a model: judge-free recognition, and the form of the replies; no row without conversations."""
    turns = result["protocol"]["turns"]
    rows = [
        ["model", "MRR(1)", f"MRR({turns})", "mean MRR", "95 % interval", "top-1", "vs base", "95 % interval", "p Holm",
         "words", "repeats", "echo", "distinct-2"]
    ]  # fmt: skip
    for name, r, d, g in _with_conversations(result):
        gained = [""] * 3
        if "recognition_difference" in g:
            gained = signed(g["recognition_difference"], g["recognition_difference_ci"])
            gained.append(p_value(g["recognition_p_holm"]))
        rows.append([
            name, number(r["mrr"][0]), number(r["mrr"][-1]), number(r["mrr_mean"]), interval(r["mrr_mean_ci"]),
            number(r["top1_mean"]), *gained, number(d["words"], 1), number(d["repetition"]), number(d["echo"]),
            number(d["distinct_2"]),
        ])  # fmt: skip
    return rows


def memory_rows(result: Result) -> Rows:
    """Recognition where there is a past: from reply k, and from what of it the model had not said before; what it recalls.

    Head, one row a model, and one for each that has a no-memory form: what it gains over that.
    """
    rows = [
        ["model", "MRR k>1", "vs base", "95 % interval", "new words", "vs base", "95 % interval", "loops",
         "recalls", "vs base", "95 % interval"]
    ]  # fmt: skip
    over = []

    def gained(gains: Result | None) -> list[list[str]]:
        return [signed(gains[k]["difference"], gains[k]["ci"]) if gains else ["", ""] for k in LATER]

    for name, r, d, g in _with_conversations(result):
        means = [number(r["later"][k]["mean"]) for k in LATER]
        reply, new, recalls = gained(g.get("recognition_later"))
        rows.append([name, means[0], *reply, means[1], *new, number(d["loops"]), means[2], *recalls])
        if r["over_no_memory"]:
            reply, new, recalls = gained(r["over_no_memory"])
            over.append([f"{name} - no memory", "", *reply, "", *new, "", "", *recalls])
    return rows + over


def _with_conversations(result: Result) -> Iterator[tuple[str, Any, Any, Any]]:
    """(name, recognition, degeneration, gains over base) of each model that has conversations."""
    for name in result["protocol"]["models"]:
        m = result["models"][name]
        if m["recognition"] is not None:
            yield name, m["recognition"], m["degeneration"], result["vs_base"].get(name, {})


def judge_rows(result: Result) -> Rows:
    """Head and one row a judge and model, for the judges one by one; no row where there is one judge."""
    rows = [["judge", "model", "mean AL", "95 % interval", "vs base", "95 % interval", "p"]]
    for judge, j in result["judges"].items():
        for name, m in j["models"].items():
            gained = [*signed(m["difference"], m["difference_ci"]), p_value(m["p"])] if "difference" in m else [""] * 3
            rows.append([marked(judge, j), name, number(m["al_mean"]), interval(m["al_mean_ci"]), *gained])
    return rows


def marked(judge: str, about: Result) -> str:
    """A judge's name, with `(!)` where it failed calibration."""
    return f"{judge} (!)" if about["passed"] is False else judge


def by_whom(result: Result) -> str:
    """Whose scores the headline is: `Judge: embedded (!)`, or the mean of several."""
    names = [marked(j, result["judges"][j]) for j in result["protocol"]["judges"]]
    return f"Judge: {names[0] if names else 'none'}" if len(names) < 2 else f"Mean of the judges {', '.join(names)}"


def notes(result: Result) -> list[str]:
    """What has to be said beside the numbers, a line each."""
    profiles, protocol = result["protocol"]["profiles"], result["protocol"]
    few = f"With {profiles} profiles intervals are too narrow and no p can be below {number(min(1, 2 / 2**profiles), 3)}."
    return [
        f"Scores are on a scale of {result['scale']}; {protocol['intervals']}; p: {protocol['p_values']}.",
        *([few] if profiles < FEW else []),
        *judge_notes(result),
        *comparison_notes(result),
        *recognition_notes(result["recognition"]),
    ]


def judge_notes(result: Result) -> Iterator[str]:
    """Whether the scores can be trusted, and how many are missing."""
    for name, j in result["judges"].items():
        if j["passed"] is False:
            yield f"(!) {name} failed its calibration (accuracy {number(j['accuracy'])}): do not trust its scores."
        if j["made_data"]:
            yield f"{name} made the training data, too: it may favour what it would have written."
        if j["unscored"]:
            yield f"{name} gave no score to {j['unscored']} of {j['scored'] + j['unscored']} replies."
    for name, m in result["models"].items():
        if m["no_row"]:
            turns = m["n_cases"] * result["protocol"]["turns"]
            yield f"{name}: {m['no_row']} of its {turns} turns are missing or not judged."
    if len(result["judges"]) > 1:
        agreed = result["agreement"]
        yield f"Agreement of the judges: Krippendorff's alpha {number(agreed['alpha'])} over {agreed['replies']} replies."


def comparison_notes(result: Result) -> Iterator[str]:
    """Why a comparison is not given."""
    for why in sorted({g["share_of_gain"]["why"] for g in result["vs_base"].values()} - {None, "is the oracle"}):
        yield f"Of possible, (AL - base) / (oracle - base): not given, {why}."
    if not result["vs_base"]:
        yield "No model is called base, so there is nothing to compare with."
    elif all(m["personalisation"]["value"] is None for m in result["models"].values()):
        yield "Right-wrong: not given, no reply was judged against another persona."


def recognition_notes(against: Result | None) -> Iterator[str]:
    """How the judge-free measures are to be read; nothing where there are none."""
    if against is None:
        return
    yield (
        f"MRR: reciprocal rank of the right persona among {against['personas']}, from reply k alone, no judge. Chance "
        f"{number(against['chance_mrr'])}; from the user's message alone, which an echo reaches, "
        f"{number(against['from_user_message']['mrr_mean'])}; from the user's turns so far "
        f"{number(against['from_user_turns']['mrr_mean'])}. New words: of reply k, without word 3-grams of the model's own "
        "earlier replies (loops: their share). Saying the first reply again keeps its rank, which new words do not. "
        "Memory is what exceeds NAME_no_memory."
    )
    yield (
        "Recalls: share of replies with two content words of an earlier message of the user that neither the message "
        "they answer nor an earlier reply holds. Pairs are chosen by such a count: it shows what was learnt, and is no "
        "independent evidence."
    )


def blocks(result: Result) -> list[tuple[str, Rows]]:
    """(title, rows) of each table that has a row."""
    found = [
        (f"{by_whom(result)}. Alignment by turn", score_rows(result)),
        (f"{by_whom(result)}. Gain over base, and how much of it is this user's", gain_rows(result)),
        ("No judge. Recognition of the user from each reply, and the replies' form", recognition_rows(result)),
        ("No judge. Recognition after turn 1, where there is something to remember", memory_rows(result)),
        ("Judge by judge", judge_rows(result)),
    ]
    return [(title, rows) for title, rows in found if len(rows) > 1]


def table(result: Result) -> str:
    """The whole result for a terminal of WIDTH columns."""
    tables = [f"{title}\n{text(rows)}" for title, rows in blocks(result)]
    return "\n\n".join([*tables, "\n".join(fill(note, WIDTH, subsequent_indent="  ") for note in notes(result))])


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/eval.json")
    try:
        print(table(json.loads(read_text(path))))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not a result of stages.eval") from None


if __name__ == "__main__":
    run(main)
