"""The result as text. `python -m stages.evaluation.table results/eval.json` prints it again without running anything."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from stages.core.cli import UserError, run
from stages.core.files import read_text
from stages.core.tables import Column, Rows, interval, number, p_value, rows, text

Result = Mapping[str, Any]  # results/eval.json
WIDTH = 125
FEW = 10  # profiles below which the bootstrap's intervals are known to be too narrow
CI = "95 % interval"


def percent(value: float | None) -> str:
    """A share as a signed percentage."""
    return "-" if value is None else f"{100 * value:+.1f} %"


def percent_interval(ci: Sequence[float | None]) -> str:
    """An interval of a share in signed per cent."""
    return interval([None if v is None else 100 * v for v in ci], 1, True)


signed, signed_interval = partial(number, sign=True), partial(interval, sign=True)
MODEL: Column = ("model", "name", str)
# of the records that `models` gives
SCORES: list[Column] = [
    MODEL, ("cases", "n_cases", str), ("unscored", "unscored", str), ("AL(1)", "al.0", number),
    ("AL({turns})", "al.-1", number), ("mean AL", "al_mean", number), (CI, "al_mean_ci", interval),
    ("area", "area", number), ("range", "range", number), ("IR", "ir", partial(number, digits=3, sign=True)),
    (CI, "ir_ci", partial(interval, digits=3, sign=True)), ("N-IR", "n_ir", partial(number, digits=3, sign=True)),
    ("N-R2", "r2", partial(number, digits=3)),
]  # fmt: skip
GAINS: list[Column] = [
    MODEL, ("vs base", "gain.relative_improvement", percent), (CI, "gain.ci", percent_interval),
    ("p Holm", "gain.p_holm", p_value), ("of possible", "gain.share_of_gain.value", number),
    (CI, "gain.share_of_gain.ci", interval), ("right-wrong", "personalisation.value", signed),
    (CI, "personalisation.ci", signed_interval), ("vs base", "gain.personalisation.difference", signed),
    ("p Holm", "gain.personalisation.p_holm", p_value),
]  # fmt: skip
RECOGNITION: list[Column] = [
    MODEL, ("MRR(1)", "recognition.mrr.0", number), ("MRR({turns})", "recognition.mrr.-1", number),
    ("mean MRR", "recognition.mrr_mean", number), (CI, "recognition.mrr_mean_ci", interval),
    ("top-1", "recognition.top1_mean", number), ("vs base", "gain.recognition_difference", signed),
    (CI, "gain.recognition_difference_ci", signed_interval), ("p Holm", "gain.recognition_p_holm", p_value),
    ("words", "degeneration.words", partial(number, digits=1)), ("repeats", "degeneration.repetition", number),
    ("echo", "degeneration.echo", number), ("distinct-2", "degeneration.distinct_2", number),
]  # fmt: skip
MEMORY: list[Column] = [
    MODEL, ("MRR k>1", "recognition.later.reply.mean", number), ("vs base", "later.reply.difference", signed),
    (CI, "later.reply.ci", signed_interval), ("new words", "recognition.later.new.mean", number),
    ("vs base", "later.new.difference", signed), (CI, "later.new.ci", signed_interval),
    ("loops", "degeneration.loops", number), ("recalls", "recognition.later.recalls.mean", number),
    ("vs base", "later.recalls.difference", signed), (CI, "later.recalls.ci", signed_interval),
]  # fmt: skip
CHOICE: list[Column] = [
    MODEL, ("pairs right", "choose.pair_accuracy.value", number), (CI, "choose.pair_accuracy.ci", interval),
    ("top-1", "choose.top1.value", number), (CI, "choose.top1.ci", interval), ("vs base", "gain.choose.difference", signed),
    (CI, "gain.choose.ci", signed_interval), ("p Holm", "gain.choose.p_holm", p_value),
    ("no history", "choose.no_history.pair_accuracy.value", number),
]  # fmt: skip
BY_JUDGE: list[Column] = [
    ("judge", "judge", str), MODEL, ("mean AL", "al_mean", number), (CI, "al_mean_ci", interval),
    ("vs base", "difference", signed), (CI, "difference_ci", signed_interval), ("p", "p", p_value),
]  # fmt: skip


def models(result: Result) -> list[dict[str, Any]]:
    """What the result has of each model, in the order of the arms: with `name`, `range` of AL and, over base, `gain`."""
    found = []
    for name in result["protocol"]["models"]:
        known = [v for v in result["models"][name]["al"] if v is not None]
        gain = result["vs_base"].get(name, {})
        found.append({
            "name": name, **result["models"][name], "range": max(known) - min(known) if known else None,
            "gain": gain, "later": gain.get("recognition_later"),
        })  # fmt: skip
    return found


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


def against_choice(result: Result) -> str:
    """What crossed choice is to be read against."""
    about = result.get("choose")
    if not about:
        return ""
    words = number(about["overlap"]["pair_accuracy"]["value"])
    return f" ({about['groups']} groups; chance 0.50, top-1 {number(about['top1_chance'])}; by shared words {words})"


def blocks(result: Result) -> list[tuple[str, Rows]]:
    """(title, rows) of each table that has a row."""
    every = models(result)
    talked = [m for m in every if m["recognition"]]
    without = [
        {"name": f"{m['name']} - no memory", "later": more} for m in talked if (more := m["recognition"]["over_no_memory"])
    ]
    judged = [
        {"judge": marked(judge, j), "name": name, **m}
        for judge, j in result["judges"].items()
        for name, m in j["models"].items()
    ]
    chosen = [m for m in every if m.get("choose")]
    tables: list[tuple[str, list[Column], list[dict[str, Any]]]] = [
        (f"{by_whom(result)}. Alignment by turn", SCORES, every),
        (f"{by_whom(result)}. Gain over base, and how much of it is this user's", GAINS, every if result["vs_base"] else []),
        ("No judge. Recognition of the user from each reply, and the replies' form", RECOGNITION, talked),
        ("No judge. Recognition after turn 1, where there is something to remember", MEMORY, talked + without),
        (f"No judge. Crossed choice: whose reply is whose{against_choice(result)}", CHOICE, chosen),
        ("Judge by judge", BY_JUDGE, judged),
    ]
    turns = result["protocol"]["turns"]
    return [
        (title, rows([(head.format(turns=turns), key, show) for head, key, show in columns], items))
        for title, columns, items in tables
        if items
    ]


def table(result: Result) -> str:
    """The whole result for a terminal of WIDTH columns."""
    tables = [f"{title}\n{text(found)}" for title, found in blocks(result)]
    return "\n\n".join([*tables, "\n".join(fill(note, WIDTH, subsequent_indent="  ") for note in notes(result))])


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/eval.json")
    try:
        print(table(json.loads(read_text(path))))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not a result of stages.eval") from None


if __name__ == "__main__":
    run(main)
