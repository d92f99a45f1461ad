"""The result as text. `python -m stages.evaluation.table results/eval.json` prints it again without running anything."""

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

from stages.core.cli import UserError, run
from stages.core.files import read_text

Rows = list[list[str]]
WIDTH = 125
FEW = 10  # profiles below which the bootstrap's intervals are known to be too narrow


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number, `-` for none."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(ci: list[float | None], digits: int = 2, sign: bool = False) -> str:
    """`low to high`, `-` for none."""
    return "-" if ci[0] is None else " to ".join(number(v, digits, sign) for v in ci)


def p_value(p: float | None) -> str:
    """Three digits, `<0.001` below them."""
    return "<0.001" if p is not None and p < 0.001 else number(p, 3)


def percent(value: float | None) -> float | None:
    """A share in percent."""
    return None if value is None else 100 * value


def score_rows(result: dict[str, Any]) -> Rows:
    """Head and one row a model: what the scores say."""
    turns = result["protocol"]["turns"]
    rows = [
        ["model", "cases", "unscored", "AL(1)", f"AL({turns})", "mean AL", "95 % interval", "area", "range", "IR",
         "95 % interval", "N-IR", "N-R2"]
    ]  # fmt: skip
    for name in result["protocol"]["models"]:
        m = result["models"][name]
        known = [v for v in m["al"] if v is not None]
        rows.append(
            [
                name, str(m["n_cases"]), str(m["unscored"]), number(m["al"][0]), number(m["al"][-1]), number(m["al_mean"]),
                interval(m["al_mean_ci"]), number(m["area"]), number(max(known) - min(known) if known else None),
                number(m["ir"], 3, True), interval(m["ir_ci"], 3, True), number(m["n_ir"], 3, True), number(m["r2"], 3),
            ]
        )  # fmt: skip
    return rows


def gain_rows(result: dict[str, Any]) -> Rows:
    """Head and one row a model: what it gained over base, and whether that is personal."""
    rows = [
        ["model", "vs base", "95 % interval", "p Holm", "of possible", "95 % interval", "right-wrong", "95 % interval",
         "vs base", "p Holm"]
    ]  # fmt: skip
    for name in result["protocol"]["models"]:
        m, g = result["models"][name], result["vs_base"].get(name)
        gained, share, more = ["", "", ""], ["", ""], ["", ""]
        if g is not None:
            low, high = (percent(v) for v in g["ci"])
            more_than = percent(g["relative_improvement"])
            gained = [number(more_than, 1, True) + (" %" if more_than is not None else "")]
            gained += [interval([low, high], 1, True), p_value(g["p_holm"])]
            s = g["share_of_gain"]
            share = [number(s["value"]), interval(s["ci"])]
            more = [number(g["personalisation"]["difference"], 2, True), p_value(g["personalisation"]["p_holm"])]
        own = m["personalisation"]
        rows.append([name, *gained, *share, number(own["value"], 2, True), interval(own["ci"], 2, True), *more])
    return rows


def witness_rows(result: dict[str, Any]) -> Rows:
    """Head and one row a model: judge-free recognition, and what is wrong with the replies; no row without conversations."""
    turns = result["protocol"]["turns"]
    rows = [
        ["model", "MRR(1)", f"MRR({turns})", "mean MRR", "95 % interval", "top-1", "vs base", "95 % interval", "p Holm",
         "words", "repeats", "echo", "distinct-2"]
    ]  # fmt: skip
    for name in result["protocol"]["models"]:
        r, d = (result["models"][name][k] for k in ("recognition", "degeneration"))
        if r is None:
            continue
        g = result["vs_base"].get(name, {})
        gained = ["", "", ""]
        if "recognition_difference" in g:
            gained = [number(g["recognition_difference"], 2, True), interval(g["recognition_difference_ci"], 2, True)]
            gained += [p_value(g["recognition_p_holm"])]
        rows.append(
            [
                name, number(r["mrr"][0]), number(r["mrr"][-1]), number(r["mrr_mean"]), interval(r["mrr_mean_ci"]),
                number(r["top1_mean"]), *gained, number(d["words"], 1), number(d["repetition"]), number(d["echo"]),
                number(d["distinct_2"]),
            ]
        )  # fmt: skip
    return rows


def memory_rows(result: dict[str, Any]) -> Rows:
    """Recognition where there is a past: from reply k, and from what of it the model had not said before; what it recalls.

    Head, one row a model, and one for each that has a no-memory form: what it gains over that.
    """
    rows = [
        ["model", "MRR k>1", "vs base", "95 % interval", "new words", "vs base", "95 % interval", "loops",
         "recalls", "vs base", "95 % interval"]
    ]  # fmt: skip
    over = []
    for name in result["protocol"]["models"]:
        r, d = (result["models"][name][k] for k in ("recognition", "degeneration"))
        if r is None:
            continue
        looks, gains = ("reply", "new", "recalls"), result["vs_base"].get(name, {}).get("recognition_later")
        own = [[number(r["later"][k]["mean"]), *_gained(gains, k)] for k in looks]
        rows.append([name, *own[0], *own[1], number(d["loops"]), *own[2]])
        if r["over_no_memory"]:
            more = [["", *_gained(r["over_no_memory"], k)] for k in looks]
            over.append([f"{name} - no memory", *more[0], *more[1], "", *more[2]])
    return rows + over


def _gained(gains: dict[str, Any] | None, look: str) -> list[str]:
    """Difference and interval; empty where nothing is compared."""
    if not gains:
        return ["", ""]
    g = gains[look]
    return [number(g["difference"], 2, True), interval(g["ci"], 2, True)]


def judge_rows(result: dict[str, Any]) -> Rows:
    """Head and one row a judge and model, for the judges one by one."""
    rows = [["judge", "model", "mean AL", "95 % interval", "vs base", "95 % interval", "p"]]
    for judge, j in result["judges"].items():
        for name, m in j["models"].items():
            gained = ["", "", ""]
            if "difference" in m:
                gained = [number(m["difference"], 2, True), interval(m["difference_ci"], 2, True), p_value(m["p"])]
            rows.append([marked(judge, j), name, number(m["al_mean"]), interval(m["al_mean_ci"]), *gained])
    return rows


def marked(judge: str, about: dict[str, Any]) -> str:
    """A judge's name, with `(!)` where it failed calibration."""
    return f"{judge} (!)" if about["passed"] is False else judge


def by_whom(result: dict[str, Any]) -> str:
    """Whose scores the headline is: `Judge: embedded (!)`, or the mean of several."""
    names = [marked(j, result["judges"][j]) for j in result["protocol"]["judges"]]
    return f"Judge: {names[0] if names else 'none'}" if len(names) < 2 else f"Mean of the judges {', '.join(names)}"


def notes(result: dict[str, Any]) -> list[str]:
    """What has to be said beside the numbers, a line each."""
    protocol, judges = result["protocol"], result["judges"]
    profiles = protocol["profiles"]
    said = [f"Scores are on a scale of {result['scale']}; {protocol['intervals']}; p: {protocol['p_values']}."]
    if profiles < FEW:
        said.append(
            f"With {profiles} profiles intervals are too narrow and no p can be below {number(min(1, 2 / 2**profiles), 3)}."
        )
    for name, j in judges.items():
        if j["passed"] is False:
            said.append(f"(!) {name} failed its calibration (accuracy {number(j['accuracy'])}): do not trust its scores.")
        if j["made_data"]:
            said.append(f"{name} made the training data, too: it may favour what it would have written.")
        if j["unscored"]:
            said.append(f"{name} gave no score to {j['unscored']} of {j['scored'] + j['unscored']} replies.")
    for name, m in result["models"].items():
        if m["no_row"]:
            said.append(f"{name}: {m['no_row']} of its {m['n_cases'] * protocol['turns']} turns were not had or not judged.")
    if len(judges) > 1:
        agreed = result["agreement"]
        said.append(
            f"Agreement of the judges: Krippendorff's alpha {number(agreed['alpha'])} over {agreed['replies']} replies."
        )
    whys = {g["share_of_gain"]["why"] for g in result["vs_base"].values()} - {None, "is the oracle"}
    said += [f"Of possible, (AL - base) / (oracle - base): not given, {why}." for why in sorted(whys)]
    if not result["vs_base"]:
        said.append("No model is called base, so there is nothing to compare with.")
    elif all(m["personalisation"]["value"] is None for m in result["models"].values()):
        said.append("Right-wrong: not given, no reply was judged against another persona.")
    if (r := result["recognition"]) is not None:
        said.append(
            f"MRR: reciprocal rank of the right persona among {r['personas']}, from reply k alone, no judge. Chance "
            f"{number(r['chance_mrr'])}; from the user's message alone, which an echo reaches, "
            f"{number(r['from_user_message']['mrr_mean'])}; from the user's turns so far "
            f"{number(r['from_user_turns']['mrr_mean'])}. New words: of reply k, without word 3-grams of the model's own "
            "earlier replies (loops: their share). Saying the first reply again keeps its rank, which new words do not. "
            "Memory is what exceeds NAME_no_memory."
        )
        said.append(
            "Recalls: share of replies with two content words of an earlier message of the user that neither the message "
            "they answer nor an earlier reply holds. Pairs are chosen by such a count: it shows what was learnt, and is no "
            "witness."
        )
    return said


def lines(rows: Rows) -> list[str]:
    """Rows in columns, a rule under the head."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    drawn = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    ]
    return [drawn[0], "-" * len(drawn[0]), *drawn[1:]]


def table(result: dict[str, Any]) -> str:
    """The whole result for a terminal of WIDTH columns."""
    blocks = [(f"{by_whom(result)}. Alignment by turn", score_rows(result))]
    blocks.append((f"{by_whom(result)}. Gain over base, and how much of it is this user's", gain_rows(result)))
    blocks.append(("No judge. Recognition of the user from each reply, and the replies' form", witness_rows(result)))
    blocks.append(("No judge. Recognition after turn 1, where there is something to remember", memory_rows(result)))
    if len(result["judges"]) > 1:
        blocks.append(("Judge by judge", judge_rows(result)))
    drawn = ["\n".join([title, *lines(rows)]) for title, rows in blocks if len(rows) > 1]
    return "\n\n".join([*drawn, "\n".join(fill(note, WIDTH, subsequent_indent="  ") for note in notes(result))])


if __name__ == "__main__":

    def main() -> None:
        path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/eval.json")
        try:
            print(table(json.loads(read_text(path))))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is not a result of stages.eval") from None

    run(main)
