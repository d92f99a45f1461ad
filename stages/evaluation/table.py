"""The result in full: `python -m stages.evaluation.table results/eval.json` prints the answer, every table and the notes."""

from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import fill
from typing import Any

from stages.core.cli import run
from stages.core.tables import Column, Rows, interval, number, p_value, rows, text
from stages.evaluation.answer import CI, FEW, MODEL, WIDTH, Result, answer, models, show, signed, signed_interval


def percent(value: float | None) -> str:
    """A share as a signed percentage."""
    return "-" if value is None else f"{100 * value:+.1f} %"


def percent_interval(ci: Sequence[float | None]) -> str:
    """An interval of a share in signed per cent."""
    return interval([None if v is None else 100 * v for v in ci], 1, True)


# of the records that `models` gives
FORM: list[Column] = [
    MODEL, ("words", "degeneration.words", partial(number, digits=1)), ("repeats", "degeneration.repetition", number),
    ("interval vs base", "gain.degeneration_ci.repetition", signed_interval), ("loops", "degeneration.loops", number),
    ("interval vs base", "gain.degeneration_ci.loops", signed_interval), ("echo", "degeneration.echo", number),
    ("distinct-2", "degeneration.distinct_2", number),
]  # fmt: skip
SCORES: list[Column] = [
    MODEL, ("AL(1)", "al.0", number), ("AL({turns})", "al.-1", number), ("mean AL", "al_mean", number),
    (CI, "al_mean_ci", interval), ("vs base", "gain.relative_improvement", percent), (CI, "gain.ci", percent_interval),
    ("p Holm", "gain.p_holm", p_value), ("right-wrong vs base", "gain.personalisation.difference", signed),
    ("p Holm", "gain.personalisation.p_holm", p_value),
]  # fmt: skip
SLOPES: list[Column] = [
    MODEL, ("IR", "ir", partial(number, digits=3, sign=True)), (CI, "ir_ci", partial(interval, digits=3, sign=True)),
    ("N-IR", "n_ir", partial(number, digits=3, sign=True)), ("N-R2", "r2", partial(number, digits=3)),
    ("right-wrong", "personalisation.value", signed), (CI, "personalisation.ci", signed_interval),
    ("of possible", "gain.share_of_gain.value", number), (CI, "gain.share_of_gain.ci", interval),
]  # fmt: skip
OVER: list[Column] = [
    MODEL, ("replies", "over_personalisation.replies", str), ("bring up", "over_personalisation.value", number),
    (CI, "over_personalisation.ci", interval), ("vs base", "gain.over_personalisation.difference", signed),
    (CI, "gain.over_personalisation.ci", signed_interval), ("p Holm", "gain.over_personalisation.p_holm", p_value),
    ("no memory", "over_personalisation.no_memory", number),
]  # fmt: skip
READ_OUT: list[Column] = [
    MODEL, ("after turn", "turn", str), ("told", "told", number), ("named", "named", number),
    ("precision", "precision.value", number), (CI, "precision.ci", interval),
    ("recall", "recall.value", number), (CI, "recall.ci", interval), ("cannot", "cannot", lambda why: why or ""),
]  # fmt: skip
BY_JUDGE: list[Column] = [
    ("judge", "judge", str), MODEL, ("mean AL", "al_mean", number), (CI, "al_mean_ci", interval),
    ("vs base", "difference", signed), (CI, "difference_ci", signed_interval), ("p", "p", p_value),
]  # fmt: skip


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


def cost_tables(result: Result) -> Iterator[tuple[str, Rows]]:
    """(title, rows) of what the arms' replies look like, of over-personalisation and of read-outs, as far as measured."""
    every = models(result)
    tables: dict[str, tuple[list[Column], list[Any]]] = {
        "Cost: the form of the replies (interval vs base: of the difference)": (
            FORM, [m for m in every if m["degeneration"]]
        ),
        "Cost: replies that bring up what the user told where it does not help": (
            OVER, [m for m in every if m.get("over_personalisation")]
        ),
        "Read-out: what a model says that it knows of its user": (
            READ_OUT, [{**m, "turn": k, **found} for m in every for k, found in (m.get("read_out") or {}).items()]
        ),
    }  # fmt: skip
    yield from ((title, rows(columns, items)) for title, (columns, items) in tables.items() if items)


def judge_tables(result: Result) -> Iterator[tuple[str, Rows]]:
    """(title, rows) of what the judges' scores say: the means, their slopes, and each of several judges."""
    every, turns = models(result), result["protocol"]["turns"]
    columns = [
        (head.format(turns=turns), key, of) for head, key, of in SCORES if result["vs_base"] or not key.startswith("gain.")
    ]
    yield f"{by_whom(result)}. Alignment by turn, and gain over base", rows(columns, every)
    yield f"{by_whom(result)}. Slope, fit to this user, and share of the possible gain", rows(SLOPES, every)
    each = [
        {"judge": marked(judge, j), "name": name, **m}
        for judge, j in result["judges"].items()
        for name, m in j["models"].items()
    ]
    if each:
        yield "Judge by judge", rows(BY_JUDGE, each)


def table(result: Result) -> str:
    """The whole result for a terminal of WIDTH columns."""
    tables = [f"{title}\n{text(found)}" for title, found in (*cost_tables(result), *judge_tables(result)) if len(found) > 1]
    said = "\n".join(fill(note, WIDTH, subsequent_indent="  ") for note in notes(result))
    return "\n\n".join(["\n".join(answer(result)), *tables, said])


if __name__ == "__main__":
    run(lambda: show(table))
